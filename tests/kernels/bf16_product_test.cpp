// gemm_bf16 against the products it is made of, and the sums of AMX against their definition
// (docs/numerics.md, "Bfloat16").
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernel_test_util.h"
#include "kernels/bf16.h"
#include "kernels/gemm.h"
#include "kernels/quantize.h"

namespace qalof::kernels {
namespace bf16_product_test {

class Bf16ProductTest : public IsaTest {};
INSTANTIATE_TEST_SUITE_P(Isas, Bf16ProductTest, testing::ValuesIn(available_isas()), isa_name);

struct Bf16Matrix {
  std::vector<std::uint16_t> panels;
  PackedMatrix matrix;

  Bf16Matrix(const std::vector<float>& w, std::size_t n, std::size_t k)
      : panels(packed_matrix_bytes(WeightFormat::kBf16, n, k) / sizeof(std::uint16_t)) {
    SerialFor serial;
    pack_bf16(w.data(), n, k, panels.data(), serial);
    matrix.format = WeightFormat::kBf16;
    matrix.n = n;
    matrix.k = k;
    matrix.panels = panels.data();
  }
};

struct FloatMatrix {
  std::vector<float> panels;
  PackedMatrix matrix;

  FloatMatrix(const std::vector<float>& w, std::size_t n, std::size_t k)
      : panels(packed_matrix_bytes(f32_format(n), n, k) / sizeof(float)) {
    SerialFor serial;
    pack_f32(w.data(), n, k, k, /*transposed=*/false, panels.data(), serial, f32_format(n));
    matrix.format = f32_format(n);
    matrix.n = n;
    matrix.k = k;
    matrix.panels = panels.data();
  }
};

TEST_P(Bf16ProductTest, HasTheBitsOfItsParts) {
  constexpr std::size_t kOutputs = 75, kInputs = 203, kRank = 8;
  const auto w = random_floats(kOutputs * kInputs, random_);
  const auto a = random_floats(kRank * kInputs, random_);
  const auto b = random_floats(kOutputs * kRank, random_);
  const auto bias = random_floats(kOutputs, random_), scales = random_floats(kInputs, random_);
  const Bf16Matrix weights(w, kOutputs, kInputs);
  const FloatMatrix first(a, kRank, kInputs), second(b, kOutputs, kRank);
  for (const std::size_t m : {1, 3, 8, 70, 400}) {
    const auto x = random_floats(m * kInputs, random_);
    for (const bool is_scaled : {false, true}) {
      std::vector<float> rounded = x;
      for (std::size_t i = 0; is_scaled && i < rounded.size(); ++i)
        rounded[i] *= scales[i % kInputs];
      round_to_bf16(rounded.data(), rounded.size(), rounded.data(), serial_);
      std::vector<float> expected(m * kOutputs), expected_inner(m * kRank);
      gemm_f32(rounded.data(), m, kInputs, weights.matrix, 1.0F, bias.data(), Accumulate::kStore,
               expected.data(), serial_);
      gemm_f32(x.data(), m, kInputs, first.matrix, 1.0F, nullptr, Accumulate::kStore,
               expected_inner.data(), serial_);
      gemm_f32(expected_inner.data(), m, kRank, second.matrix, 0.5F, nullptr, Accumulate::kAdd,
               expected.data(), serial_);
      std::vector<float> y(m * kOutputs), inner(m * kRank);
      const LowRankInput input = {first.matrix, inner.data()};
      const LowRankSum sum = {inner.data(), second.matrix, 0.5F};
      gemm_bf16(x.data(), m, is_scaled ? scales.data() : nullptr, weights.matrix, bias.data(),
                y.data(), two_threads_, &sum, &input);
      ASSERT_EQ(inner, expected_inner) << m;
      ASSERT_EQ(y, expected) << m;
    }
  }
}

// So many outputs go past the caches where a set does that.
TEST_P(Bf16ProductTest, LargeOutputsHaveTheBitsOfSmallOnes) {
  constexpr std::size_t kRows = 4200, kOutputs = 1008, kInputs = 17, kRank = 3;
  const Bf16Matrix weights(random_floats(kOutputs * kInputs, random_), kOutputs, kInputs);
  const FloatMatrix second(random_floats(kOutputs * kRank, random_), kOutputs, kRank);
  const auto x = random_floats(kRows * kInputs, random_);
  const auto inner = random_floats(kRows * kRank, random_);
  // Aligned to a cache line, which is a condition for it.
  std::vector<float> memory(kRows * kOutputs + 16);
  float* y = memory.data();
  while (reinterpret_cast<std::uintptr_t>(y) % 64 != 0) ++y;
  const LowRankSum sum = {inner.data(), second.matrix, 0.5F};
  gemm_bf16(x.data(), kRows, nullptr, weights.matrix, nullptr, y, two_threads_, &sum);
  std::vector<float> part(100 * kOutputs);
  for (const std::size_t row : {std::size_t{0}, std::size_t{1900}, kRows - 100}) {
    const LowRankSum part_sum = {inner.data() + row * kRank, second.matrix, 0.5F};
    gemm_bf16(x.data() + row * kInputs, 100, nullptr, weights.matrix, nullptr, part.data(), serial_,
              &part_sum);
    EXPECT_EQ(std::memcmp(part.data(), y + row * kOutputs, part.size() * sizeof(float)), 0) << row;
  }
}

// One output: every 32 k a chain over the even and one over the odd k, their sum added.
float amx_sum(const float* x, const float* w, std::size_t k) {
  float sum = 0.0F;
  for (std::size_t begin = 0; begin < k; begin += 32) {
    float chains[2] = {};
    for (std::size_t i = begin; i < std::min(k, begin + 32); ++i)
      chains[i % 2] = std::fma(x[i], w[i], chains[i % 2]);
    sum += chains[0] + chains[1];
  }
  return sum;
}

TEST(AmxBf16, SumsAreThoseOfTheDefinition) {
  const auto isas = available_isas();
  if (std::find(isas.begin(), isas.end(), Isa::kAmx) == isas.end())
    GTEST_SKIP() << "this CPU has no AMX";
  const Isa before = active_isa();
  force_isa(Isa::kAmx);
  std::mt19937 random(7);
  SerialFor serial;
  for (const std::size_t k : {1, 31, 32, 33, 64, 129, 300, 1100}) {
    for (const std::size_t m : {1, 16, 17, 45}) {
      const std::size_t n = 35;
      auto x = random_floats(m * k, random), w = random_floats(n * k, random);
      round_to_bf16(x.data(), x.size(), x.data(), serial);
      round_to_bf16(w.data(), w.size(), w.data(), serial);
      const Bf16Matrix weights(w, n, k);
      std::vector<float> y(m * n), expected(m * n);
      gemm_f32(x.data(), m, k, weights.matrix, 1.0F, nullptr, Accumulate::kStore, y.data(), serial);
      for (std::size_t i = 0; i < m; ++i) {
        for (std::size_t j = 0; j < n; ++j) expected[i * n + j] = amx_sum(&x[i * k], &w[j * k], k);
      }
      EXPECT_EQ(y, expected) << "m " << m << " k " << k;
    }
  }
  force_isa(before);
}

}  // namespace bf16_product_test
}  // namespace qalof::kernels
