// Products of several weights with the same rows against one product each, bit for bit on every
// instruction set.
#include <cstring>

#include <fmt/format.h>

#include "kernels/gemm_shared.h"
#include "kernels/kernel_test_util.h"

namespace qalof::kernels {
namespace shared_product_test {

class SharedProductTest : public IsaTest {};
INSTANTIATE_TEST_SUITE_P(Isas, SharedProductTest, testing::ValuesIn(available_isas()), isa_name);

struct Weights {
  std::vector<std::uint8_t> panels;
  std::vector<std::int32_t> sums;
  std::vector<float> scales, bias;
  PackedMatrix matrix;
};

Weights make_weights(std::size_t n, std::size_t k, WeightFormat format, std::size_t group,
                     std::mt19937& random) {
  SerialFor serial;
  const int level = format == WeightFormat::kInt4 ? 7 : 127;
  const auto codes = random_codes(n * k, -level, level, random);
  Weights w;
  w.panels.resize(packed_matrix_bytes(format, n, k));
  w.sums.resize(group == 0 ? n : grouped_count(n, num_groups(k, group)));
  if (group == 0) {
    pack_codes(codes.data(), n, k, format, w.panels.data(), w.sums.data(), serial);
  } else {
    pack_codes(codes.data(), n, k, format, group, w.panels.data(), w.sums.data(), serial);
  }
  w.scales = random_floats(w.sums.size(), random);
  w.bias = random_floats(n, random);
  w.matrix.format = format;
  w.matrix.n = n;
  w.matrix.k = k;
  w.matrix.panels = w.panels.data();
  w.matrix.scales = w.scales.data();
  w.matrix.code_sums = w.sums.data();
  w.matrix.group = group;
  return w;
}

TEST_P(SharedProductTest, HasTheBitsOfOneProductEach) {
  for (const std::size_t m : {1, 4, 19, 70}) {
    for (const std::size_t k : {30, 128, 576}) {
      for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
        for (const std::size_t group : {0, 64}) {
          // More than are taken at a time, none of a size that fills whole blocks.
          std::vector<Weights> weights;
          for (const std::size_t n : {100, 17, 576, 3, 200})
            weights.push_back(make_weights(n, k, format, group, random_));
          const auto x = random_floats(m * k, random_), gamma = random_floats(k, random_);
          const RowInput input{x.data(), RowInput::Op::kRmsNorm, gamma.data(), nullptr, 1e-5F};
          std::vector<std::vector<float>> found;
          std::vector<SharedProduct> products;
          for (const Weights& w : weights) found.emplace_back(m * w.matrix.n);
          for (std::size_t i = 0; i < weights.size(); ++i) {
            const float* bias = i % 2 == 0 ? weights[i].bias.data() : nullptr;
            products.push_back({&weights[i].matrix, bias, found[i].data()});
          }
          quantize_gemm_int_shared(input, /*bits=*/8, m, products, two_threads_);
          for (std::size_t i = 0; i < weights.size(); ++i) {
            std::vector<float> expected(found[i].size());
            quantize_gemm_int(input, /*bits=*/8, m, weights[i].matrix, products[i].bias, nullptr,
                              nullptr, expected.data(), serial_);
            ASSERT_EQ(
                std::memcmp(found[i].data(), expected.data(), expected.size() * sizeof(float)), 0)
                << fmt::format("m {} k {} format {} group {} product {}", m, k,
                               static_cast<int>(format), group, i);
          }
        }
      }
    }
  }
}

TEST(ShareRows, OnlyOfWeightsThatReadRowsAlike) {
  PackedMatrix a;
  a.format = WeightFormat::kInt8;
  a.n = 16;
  a.k = 64;
  a.group = 32;
  PackedMatrix b = a;
  b.n = 48;
  EXPECT_TRUE(share_rows(a, b));
  b.format = WeightFormat::kInt4;
  EXPECT_FALSE(share_rows(a, b));
  b = a;
  b.group = 64;
  EXPECT_FALSE(share_rows(a, b));
  b = a;
  b.k = 32;
  EXPECT_FALSE(share_rows(a, b));
  b = a;
  const std::int8_t zeros[1] = {};
  b.zeros = zeros;
  EXPECT_FALSE(share_rows(a, b));
}

}  // namespace shared_product_test
}  // namespace qalof::kernels
