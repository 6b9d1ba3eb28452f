// Quantization by stochastic rounding: within one step of the real number, unbiased, the same on
// every instruction set and for any number of threads.
#include "kernels/stochastic_rounding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/kernel_table.h"

namespace qalof::kernels {
namespace stochastic_test {

std::vector<float> gradients(std::size_t count, float size, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, size);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

struct Quantized {
  std::vector<std::int8_t> codes;
  std::vector<float> scales;
};
Quantized quantize(const std::vector<float>& x, std::size_t rows, const std::vector<float>& columns,
                   std::uint32_t key, ParallelFor& parallel) {
  Quantized result{std::vector<std::int8_t>(x.size()), std::vector<float>(rows)};
  quantize_rows_stochastic(x.data(), rows, x.size() / rows,
                           columns.empty() ? nullptr : columns.data(), key, result.codes.data(),
                           result.scales.data(), parallel);
  return result;
}

TEST(StochasticRounding, IsWithinOneStepOfTheScaledNumber) {
  constexpr std::size_t kRows = 7, kCols = 45;
  const std::vector<float> x = gradients(kRows * kCols, 1e-5F, 1), columns = gradients(kCols, 3, 2);
  SerialFor serial;
  const Quantized found = quantize(x, kRows, columns, 5, serial);
  for (std::size_t row = 0; row < kRows; ++row) {
    float largest = 0;
    for (std::size_t col = 0; col < kCols; ++col)
      largest = std::max(largest, std::abs(x[row * kCols + col] * columns[col]));
    EXPECT_EQ(found.scales[row], largest / 127.0F);
    for (std::size_t col = 0; col < kCols; ++col) {
      const std::size_t i = row * kCols + col;
      const double steps = double{x[i] * columns[col]} / double{found.scales[row]};
      EXPECT_LE(std::abs(steps - found.codes[i]), 1.0001) << row << " " << col;
    }
  }
}

TEST(StochasticRounding, HasTheRealNumberAsItsMean) {
  constexpr std::size_t kCols = 64;
  constexpr int kDraws = 4000;
  const std::vector<float> x = gradients(kCols, 0.01F, 3);
  std::vector<double> sums(kCols);
  SerialFor serial;
  float scale = 0;
  for (std::uint32_t key = 0; key < kDraws; ++key) {
    const Quantized found = quantize(x, 1, {}, key, serial);
    scale = found.scales[0];
    for (std::size_t i = 0; i < kCols; ++i) sums[i] += found.codes[i];
  }
  for (std::size_t i = 0; i < kCols; ++i) {
    // A draw deviates by at most half a step (standard deviation); five of the mean's.
    EXPECT_LE(std::abs(sums[i] / kDraws - double{x[i]} / double{scale}),
              5 * 0.5 / std::sqrt(kDraws))
        << i;
  }
}

TEST(StochasticRounding, DoesNotDependOnThreadsAndDependsOnTheKey) {
  const std::vector<float> x = gradients(50 * 333, 1, 4);
  SerialFor serial;
  ThreadPool four(4);
  const Quantized one = quantize(x, 50, {}, 9, serial), same = quantize(x, 50, {}, 9, four),
                  other = quantize(x, 50, {}, 10, serial);
  EXPECT_EQ(one.codes, same.codes);
  EXPECT_NE(one.codes, other.codes);
}

TEST(StochasticRounding, OfTheActiveInstructionSetIsThePortableOne) {
  for (const std::size_t count : {1, 7, 16, 31, 100, 1000}) {
    const std::vector<float> x = gradients(count, 40, 6);
    std::vector<std::int8_t> portable(count), active(count);
    kPortableTable.round_stochastically(x.data(), count, 1.7F, 77, portable.data());
    active_table().round_stochastically(x.data(), count, 1.7F, 77, active.data());
    EXPECT_EQ(portable, active) << count;
  }
}

TEST(StochasticRounding, OfZerosAndTheSmallestNumbersIsFinite) {
  SerialFor serial;
  EXPECT_EQ(quantize(std::vector<float>(9), 1, {}, 1, serial).codes, std::vector<std::int8_t>(9));
  const Quantized tiny = quantize({1e-44F, -1e-45F, 0}, 1, {}, 1, serial);
  EXPECT_TRUE(std::isfinite(tiny.scales[0]));
}

}  // namespace stochastic_test
}  // namespace qalof::kernels
