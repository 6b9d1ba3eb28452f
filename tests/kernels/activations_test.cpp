// Ranges of activations against vectors computed in float64
// (tools/fixtures/make_activation_vectors.py), their invariants, and the clip search of weights.
#include <cmath>
#include <fstream>

#include "kernels/gemm.h"
#include "kernels/kernel_test_util.h"
#include "kernels/quantize.h"

namespace qalof::kernels {
namespace activations_test {

class ActivationsTest : public IsaTest {};
INSTANTIATE_TEST_SUITE_P(Isas, ActivationsTest, testing::ValuesIn(available_isas()), isa_name);

struct Rows {
  std::vector<std::int8_t> codes;
  std::vector<float> scales;
};

Rows quantize(const std::vector<float>& src, std::size_t rows, int bits, const RowRange& range,
              ParallelFor& parallel) {
  const std::size_t cols = src.size() / rows;
  Rows result{std::vector<std::int8_t>(src.size(), 99),
              std::vector<float>(rows * num_groups(cols, range.group), std::nanf(""))};
  quantize_rows(src.data(), rows, cols, bits, range, result.codes.data(), result.scales.data(),
                parallel);
  return result;
}

// 10 log10 of signal over error.
double sqnr(const std::vector<float>& x, const std::vector<float>& reals) {
  double signal = 0, error = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    signal += double{x[i]} * x[i];
    error += std::pow(double{x[i]} - reals[i], 2);
  }
  return 10 * std::log10(signal / error);
}

double sqnr(const std::vector<float>& x, int bits, const RowRange& range, ParallelFor& parallel) {
  const Rows rows = quantize(x, 1, bits, range, parallel);
  std::vector<float> reals(x.size());
  dequantize_groups(rows.codes.data(), rows.scales.data(), nullptr, 1, x.size(),
                    range.group == 0 ? x.size() : range.group, reals.data(), parallel);
  return sqnr(x, reals);
}

TEST_P(ActivationsTest, CodesAndScalesEqualTheReference) {
  std::ifstream file(std::string(QALOF_SOURCE_DIR) + "/tests/kernels/data/activation_vectors.txt");
  int bits = 0, asymmetric = 0, found = 0;
  std::size_t group = 0, count = 0;
  while (file >> bits >> group >> asymmetric >> count) {
    const float clip = read_floats(file, 1).front();
    const std::vector<float> row = read_floats(file, count);
    const std::vector<float> scales = read_floats(file, num_groups(count, group));
    std::vector<int> codes(count);
    for (int& code : codes) file >> code;
    ASSERT_TRUE(file.good());
    const Rows rows = quantize(row, 1, bits, {group, asymmetric != 0, clip}, serial_);
    ASSERT_EQ(std::vector<int>(rows.codes.begin(), rows.codes.end()), codes)
        << bits << " bits, group " << group << ", asymmetric " << asymmetric << ", clip " << clip
        << ", row " << found;
    ASSERT_EQ(rows.scales, scales);
    ++found;
  }
  EXPECT_EQ(found, 7 * 2 * 2 * (4 * 4 + 7));
}

TEST_P(ActivationsTest, ARowDoesNotDependOnItsNeighboursOrOnThreads) {
  const std::size_t rows = 300, cols = 200, row = 217;
  const std::vector<float> src = random_floats(rows * cols, random_);
  for (const RowRange& range : {RowRange{0, true}, RowRange{64, true}, RowRange{32, false, 0.5F}}) {
    const Rows all = quantize(src, rows, 4, range, two_threads_);
    const std::vector<float> one(src.begin() + row * cols, src.begin() + (row + 1) * cols);
    const Rows alone = quantize(one, 1, 4, range, serial_);
    const std::size_t groups = num_groups(cols, range.group);
    EXPECT_TRUE(std::equal(alone.codes.begin(), alone.codes.end(), all.codes.begin() + row * cols));
    EXPECT_TRUE(
        std::equal(alone.scales.begin(), alone.scales.end(), all.scales.begin() + row * groups));
  }
}

TEST_P(ActivationsTest, CodesTakeAtMostTheirNumberOfValuesAndFitABytesProduct) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const float shift : {-3.0F, 0.0F, 0.4F, 100.0F}) {
      std::vector<float> row = random_floats(4096, random_);
      for (float& value : row) value += shift;
      for (const float clip : {1.0F, 0.05F}) {
        const Rows found = quantize(row, 1, bits, {0, true, clip}, serial_);
        const auto [low, high] = std::minmax_element(found.codes.begin(), found.codes.end());
        EXPECT_LT(*high - *low, 1 << bits);
        EXPECT_GE(*low, -127);
      }
    }
  }
}

// What the form is for: after gelu nearly half of the symmetric codes never occur.
TEST_P(ActivationsTest, RowsAfterGeluLoseLessWithAnAsymmetricRangeAndLessWithGroups) {
  std::vector<float> row = random_floats(3072, random_);
  for (float& value : row) {
    value -= 0.5F;
    value = static_cast<float>(0.5 * value * (1 + std::erf(value / std::sqrt(2.0))));
  }
  const double symmetric = sqnr(row, 4, {}, serial_), asymmetric = sqnr(row, 4, {0, true}, serial_);
  EXPECT_GT(asymmetric, symmetric + 4);
  EXPECT_GT(sqnr(row, 4, {64, true}, serial_), asymmetric + 2);
}

struct WeightCase {
  std::size_t group;
  bool asymmetric;
};

// Reals of 3 rows, searched or not.
std::vector<float> weight_reals(const std::vector<float>& src, int bits, const WeightCase& c,
                                bool search, ParallelFor& parallel) {
  const std::size_t rows = 3, cols = src.size() / rows;
  const std::size_t groups = num_groups(cols, c.group);
  std::vector<std::int8_t> codes(src.size()), zeros(rows * groups);
  std::vector<float> scales(rows * groups), reals(src.size());
  if (c.group == 0) {
    const auto make = [&](auto&&... arguments) {
      search ? quantize_rows_least_error(arguments...) : quantize_rows(arguments...);
    };
    make(src.data(), rows, cols, bits, codes.data(), scales.data(), parallel);
  } else {
    const auto make = search ? quantize_groups_least_error : quantize_groups;
    make(src.data(), rows, cols, bits, c.group, codes.data(), scales.data(),
         c.asymmetric ? zeros.data() : nullptr, parallel);
  }
  dequantize_groups(codes.data(), scales.data(), c.asymmetric ? zeros.data() : nullptr, rows, cols,
                    c.group == 0 ? cols : c.group, reals.data(), parallel);
  return reals;
}

TEST_P(ActivationsTest, TheClipSearchFindsTheLeastErrorOfItsGrid) {
  const std::size_t cols = 200;
  std::vector<float> src = random_floats(3 * cols, random_);
  src[50] = 9.0F;
  src[cols + 3] = -20.0F;
  for (const int bits : {3, 4, 8}) {
    const std::vector<float> found = weight_reals(src, bits, {0, false}, true, two_threads_);
    for (std::size_t row = 0; row < 3; ++row) {
      const float* x = src.data() + row * cols;
      float max_abs = 0;
      for (std::size_t i = 0; i < cols; ++i) max_abs = std::max(max_abs, std::fabs(x[i]));
      const int levels = (1 << (bits - 1)) - 1;
      double least = INFINITY, error = 0;
      for (int step = 0; step < 100; ++step) {
        const RowScale scale =
            seed_row_scale(max_abs * (static_cast<float>(125 - step) / 125.0F), bits);
        double sum = 0;
        for (std::size_t i = 0; i < cols; ++i) {
          const double code =
              std::clamp<double>(std::nearbyint(x[i] * scale.multiplier), -levels, levels);
          sum += std::pow(x[i] - code * scale.scale, 2);
        }
        least = std::min(least, sum);
      }
      for (std::size_t i = 0; i < cols; ++i)
        error += std::pow(double{x[i]} - found[row * cols + i], 2);
      // The search sums in f32.
      EXPECT_LE(error, least * (1 + 1e-5)) << bits;
      EXPECT_GE(error, least * (1 - 1e-5)) << bits;
    }
  }
}

TEST_P(ActivationsTest, TheClipSearchNeverLosesAndGainsAtFourBits) {
  const std::vector<float> src = random_floats(3 * 768, random_, 0.14F);
  for (const WeightCase& c :
       {WeightCase{0, false}, {32, false}, {64, false}, {64, true}, {128, true}}) {
    for (int bits = 2; bits <= 8; ++bits) {
      const double plain = sqnr(src, weight_reals(src, bits, c, false, serial_));
      const double searched = sqnr(src, weight_reals(src, bits, c, true, serial_));
      EXPECT_GE(searched, plain - 1e-4) << bits << " bits, group " << c.group;
      if (bits == 4) {
        EXPECT_GT(searched, plain + (c.group == 0 ? 1.5 : 0.3)) << c.group;
      }
    }
  }
}

TEST_P(ActivationsTest, TheClipSearchHasTheSameCodesForEveryInstructionSet) {
  const std::vector<float> src = random_floats(3 * 300, random_);
  const std::vector<float> here = weight_reals(src, 4, {64, true}, true, serial_);
  force_isa(Isa::kPortable);
  EXPECT_EQ(here, weight_reals(src, 4, {64, true}, true, serial_));
}

}  // namespace activations_test
}  // namespace qalof::kernels
