// Integer products of weights with a scale, and perhaps a zero point, per group of k.
#include <algorithm>
#include <cstring>
#include <iterator>
#include <limits>

#include <fmt/format.h>

#include "kernels/gemm.h"
#include "kernels/kernel_test_util.h"

namespace qalof::kernels {
namespace gemm_groups_test {

class GemmGroupsTest : public IsaTest {};
INSTANTIATE_TEST_SUITE_P(Isas, GemmGroupsTest, testing::ValuesIn(available_isas()), isa_name);

struct Case {
  std::size_t m, n, k, group;
  WeightFormat format = WeightFormat::kInt8;
  bool zero_points = false, biased = false, x_groups = false;

  std::string text() const {
    return fmt::format("m {} n {} k {} group {} format {} zeros {}", m, n, k, group,
                       static_cast<int>(format), zero_points);
  }
  std::size_t groups() const { return num_groups(k, group); }
};

struct Weights {
  std::vector<std::int8_t> codes, zeros;  // [n, k], [n, groups]
  std::vector<float> scales, bias;        // [n, groups], [n]
  std::vector<std::uint8_t> panels;
  std::vector<std::int32_t> packed_sums;
  std::vector<float> packed_scales;
  std::vector<std::int8_t> packed_zeros;
  PackedMatrix matrix;
};

Weights make_weights(const Case& c, std::vector<std::int8_t> codes, std::mt19937& random) {
  SerialFor serial;
  Weights w;
  w.codes = std::move(codes);
  w.zeros = random_codes(c.n * c.groups(), c.format, random);
  if (!c.zero_points) w.zeros.assign(w.zeros.size(), 0);
  w.scales = random_floats(c.n * c.groups(), random);
  w.bias = random_floats(c.n, random);
  w.panels.resize(packed_matrix_bytes(c.format, c.n, c.k));
  const std::size_t count = grouped_count(c.n, c.groups());
  w.packed_sums.resize(count);
  w.packed_scales.resize(count);
  w.packed_zeros.resize(count);
  pack_codes(w.codes.data(), c.n, c.k, c.format, c.group, w.panels.data(), w.packed_sums.data(),
             serial);
  pack_groups(w.scales.data(), c.n, c.groups(), w.packed_scales.data());
  pack_groups(w.zeros.data(), c.n, c.groups(), w.packed_zeros.data());
  w.matrix = {.format = c.format,
              .n = c.n,
              .k = c.k,
              .panels = w.panels.data(),
              .scales = w.packed_scales.data(),
              .code_sums = w.packed_sums.data(),
              .group = c.group,
              .zeros = c.zero_points ? w.packed_zeros.data() : nullptr};
  return w;
}

// The formula of docs/numerics.md for one output, rounded at every step.
float expected_output(const Case& c, const Weights& w, const std::int8_t* x, const float* x_scales,
                      std::size_t output) {
  volatile float total = 0.0F;
  for (std::size_t g = 0; g < c.groups(); ++g) {
    const std::size_t at = output * c.groups() + g;
    std::int64_t sum = 0;
    for (std::size_t i = g * c.group; i < std::min(c.k, (g + 1) * c.group); ++i)
      sum += std::int64_t{x[i]} * (w.codes[output * c.k + i] - w.zeros[at]);
    volatile float part = static_cast<float>(sum) * w.scales[at];
    if (c.x_groups) part = part * x_scales[g];
    total = total + part;
  }
  volatile float value = c.x_groups ? total : total * x_scales[0];
  if (c.biased) value = value + w.bias[output];
  return value;
}

void check(const Case& c, const std::vector<std::int8_t>& x, const Weights& w, std::mt19937& random,
           ParallelFor& parallel) {
  const std::size_t row_scales = c.x_groups ? c.groups() : 1;
  const std::vector<float> x_scales = random_floats(c.m * row_scales, random);
  const float* bias = c.biased ? w.bias.data() : nullptr;
  std::vector<float> y(c.m * c.n, std::numeric_limits<float>::quiet_NaN());
  gemm_int(x.data(), x_scales.data(), c.m, w.matrix, bias, y.data(), parallel, nullptr, c.x_groups);
  for (std::size_t i = 0; i < c.m; ++i) {
    for (std::size_t j = 0; j < c.n; ++j) {
      ASSERT_EQ(y[i * c.n + j],
                expected_output(c, w, x.data() + i * c.k, &x_scales[i * row_scales], j))
          << c.text() << " at " << i << ", " << j;
    }
  }
  SerialFor serial;
  std::vector<float> alone(c.n);
  const std::size_t row = c.m / 2;
  gemm_int(x.data() + row * c.k, &x_scales[row * row_scales], 1, w.matrix, bias, alone.data(),
           serial, nullptr, c.x_groups);
  ASSERT_EQ(std::memcmp(alone.data(), y.data() + row * c.n, c.n * sizeof(float)), 0) << c.text();
}

void check_random(const Case& c, std::mt19937& random, ParallelFor& parallel) {
  const auto x = random_codes(c.m * c.k, -127, 127, random);
  check(c, x, make_weights(c, random_codes(c.n * c.k, c.format, random), random), random, parallel);
}

TEST_P(GemmGroupsTest, OutputsAreBitEqualToTheFormulaAtSmallShapes) {
  for (const std::size_t m : {1, 2, 3, 4, 5, 9}) {
    for (const std::size_t n : {1, 15, 16, 17, 33}) {
      for (const std::size_t k : {1, 7, 8, 31, 32, 33, 64, 65, 127, 129, 200}) {
        for (const std::size_t group : {32, 64, 128}) {
          const bool odd = (m + n + k) % 2 == 0;
          for (const WeightFormat format : kIntegerFormats) {
            check_random({m, n, k, group, format, !odd, odd}, random_, serial_);
            check_random({m, n, k, group, format, odd, odd, true}, random_, serial_);
          }
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(GemmGroupsTest, OutputsAreBitEqualToTheFormulaAtRandomShapesWithThreads) {
  std::uniform_int_distribution<std::size_t> rows(1, 70), outputs(1, 120), columns(1, 700),
      units(1, 40), bit(0, 1);
  for (std::size_t round = 0; round < 120; ++round) {
    const WeightFormat format = kIntegerFormats[round / 2 % std::size(kIntegerFormats)];
    const std::size_t unit = std::max<std::size_t>(8, code_layout(format).columns);
    const Case c{
        rows(random_), outputs(random_),  columns(random_),  unit * (1 + units(random_) * 8 / unit),
        format,        bit(random_) == 0, bit(random_) == 0, bit(random_) == 0};
    check_random(c, random_, round % 2 == 0 ? static_cast<ParallelFor&>(two_threads_) : serial_);
    if (HasFatalFailure()) return;
  }
}

TEST_P(GemmGroupsTest, NothingSaturatesAtTheEndsOfTheRange) {
  for (const WeightFormat format : kIntegerFormats) {
    for (const int x_code : {-127, 127}) {
      for (const bool low : {false, true}) {
        const Case c{9, 19, 256, 128, format, true, true};
        const int code = low ? lowest_code(format) : highest_code(format);
        const std::vector<std::int8_t> codes(c.n * c.k, static_cast<std::int8_t>(code));
        const std::vector<std::int8_t> x(c.m * c.k, static_cast<std::int8_t>(x_code));
        check(c, x, make_weights(c, codes, random_), random_, serial_);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(PackGroups, PutsSixteenRowsSideBySideAndPadsWithZeros) {
  std::vector<float> src(17 * 2);
  for (std::size_t i = 0; i < src.size(); ++i) src[i] = static_cast<float>(i + 1);
  std::vector<float> dst(grouped_count(17, 2), -1.0F);
  ASSERT_EQ(dst.size(), 64U);
  pack_groups(src.data(), 17, 2, dst.data());
  EXPECT_EQ(dst[3], src[3 * 2]);
  EXPECT_EQ(dst[16 + 3], src[3 * 2 + 1]);
  EXPECT_EQ(dst[32], src[32]);
  EXPECT_EQ(dst[48], src[33]);
  EXPECT_EQ(dst[63], 0.0F);
}

}  // namespace gemm_groups_test
}  // namespace qalof::kernels
