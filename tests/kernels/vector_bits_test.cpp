// Float results of the vector sets on fixed rows, by a checksum of their bits: one value for sets
// of every width and of both kinds of processors.
#include <span>

#include "core/crc32c.h"
#include "kernels/gemm.h"
#include "kernels/kernel_table.h"
#include "kernels/kernel_test_util.h"

namespace qalof::kernels {
namespace vector_bits_test {

// Multiples of 2^-20 in -4 .. 4: the same floats with every library.
std::vector<float> exact_floats(std::size_t count, std::mt19937& random) {
  std::vector<float> result(count);
  for (float& value : result)
    value = static_cast<float>(static_cast<std::int32_t>(random()) >> 9) * 0x1p-20F;
  return result;
}

std::uint32_t bits_of(const std::vector<float>& values) {
  return crc32c(std::as_bytes(std::span(values)));
}

class VectorBits : public IsaTest {
 protected:
  void SetUp() override {
    IsaTest::SetUp();
    if (GetParam() == Isa::kPortable) GTEST_SKIP() << "sums in another order";
  }
  static constexpr std::size_t kCols = 173;  // whole vectors, 32 partial sums, and a rest
};

TEST_P(VectorBits, NormsAndActivations) {
  const KernelTable& table = active_table();
  const auto x = exact_floats(kCols, random_), gamma = exact_floats(kCols, random_);
  const auto beta = exact_floats(kCols, random_), dy = exact_floats(kCols, random_);
  std::vector<float> all, out(kCols), second(kCols);
  float stats[2];
  const auto keep = [&](const std::vector<float>& values) {
    all.insert(all.end(), values.begin(), values.end());
  };
  table.layer_norm(x.data(), kCols, gamma.data(), beta.data(), 1e-5F, out.data(), stats);
  keep(out);
  keep({stats[0], stats[1]});
  table.layer_norm_dx(dy.data(), x.data(), stats, gamma.data(), kCols, out.data());
  keep(out);
  table.rms_norm(x.data(), kCols, gamma.data(), 1e-5F, out.data(), stats);
  keep(out);
  table.rms_norm_dx(dy.data(), x.data(), stats, gamma.data(), kCols, out.data());
  keep(out);
  table.gelu(x.data(), kCols, out.data());
  keep(out);
  table.gelu_dx(dy.data(), x.data(), kCols, out.data());
  keep(out);
  table.gelu_erf(x.data(), kCols, out.data());
  keep(out);
  table.gelu_erf_dx(dy.data(), x.data(), kCols, out.data());
  keep(out);
  table.swiglu(x.data(), gamma.data(), kCols, out.data());
  keep(out);
  table.swiglu_dx(dy.data(), x.data(), gamma.data(), kCols, out.data(), second.data());
  keep(out);
  keep(second);
  out = x;
  table.rotate_pairs(out.data(), kCols / 2, gamma.data(), beta.data());
  keep(out);
  EXPECT_EQ(bits_of(all), 3657622258U);
}

TEST_P(VectorBits, HadamardTransform) {
  std::vector<float> x = exact_floats(32 * 12, random_);
  active_table().hadamard(x.data(), 32, 1);
  EXPECT_EQ(bits_of(x), 3658572756U);
}

TEST_P(VectorBits, FloatProducts) {
  const std::size_t n = 37, k = 51;
  const auto w = exact_floats(n * k, random_), bias = exact_floats(n, random_);
  std::vector<float> panels(packed_matrix_bytes(WeightFormat::kF32, n, k) / sizeof(float));
  pack_f32(w.data(), n, k, k, /*transposed=*/false, panels.data(), serial_);
  PackedMatrix packed;
  packed.n = n;
  packed.k = k;
  packed.panels = panels.data();
  std::vector<float> all;
  for (const std::size_t m : {1, 3, 7, 50}) {
    const auto x = exact_floats(m * k, random_);
    std::vector<float> y(m * n);
    gemm_f32(x.data(), m, k, packed, 0.7F, bias.data(), Accumulate::kStore, y.data(), serial_);
    all.insert(all.end(), y.begin(), y.end());
  }
  EXPECT_EQ(bits_of(all), 2143422116U);
}

TEST_P(VectorBits, Attention) {
  const KernelTable& table = active_table();
  const std::size_t rows = 5, dim = 29;
  const auto q = exact_floats(rows * dim, random_), k = exact_floats(kCols * dim, random_);
  std::vector<float> scores(rows * kCols), out(rows * dim);
  table.dot_rows(q.data(), rows, dim, k.data(), kCols, dim, dim, 0.2F, scores.data(), kCols);
  for (std::size_t row = 0; row < rows; ++row) {
    float max = 0.0F;
    float* at = scores.data() + row * kCols;
    table.divide(at, kCols, table.exp_row(at, kCols, &max));
  }
  WeighRows work{};
  work.weights = scores.data();
  work.row_stride = kCols;
  work.column_stride = 1;
  work.rows = rows;
  work.first_count = kCols;
  work.v = k.data();
  work.v_stride = dim;
  work.dim = dim;
  work.out = out.data();
  work.out_stride = dim;
  table.weigh_rows(work);
  scores.insert(scores.end(), out.begin(), out.end());
  EXPECT_EQ(bits_of(scores), 748797703U);
}

INSTANTIATE_TEST_SUITE_P(Isas, VectorBits, testing::ValuesIn(available_isas()), isa_name);

}  // namespace vector_bits_test
}  // namespace qalof::kernels
