// Codes with given steps against the definition in float64, and gradients of steps and clip factors
// against sums of the definition in float64.
#include "kernels/learned_quantizer.h"

#include <cmath>

#include "kernels/gemm.h"
#include "kernels/kernel_test_util.h"

namespace qalof::kernels {
namespace learned_test {

class LearnedTest : public IsaTest {
 protected:
  std::vector<float> normal(std::size_t count, float deviation) {
    std::normal_distribution<float> values(0.0F, deviation);
    std::vector<float> result(count);
    for (float& value : result) value = values(random_);
    return result;
  }
};
INSTANTIATE_TEST_SUITE_P(Isas, LearnedTest, testing::ValuesIn(available_isas()), isa_name);

struct Case {
  std::size_t rows, cols, group;
  int bits;
  bool asymmetric;
};
const Case kCases[] = {{3, 40, 0, 4, false},  {3, 40, 0, 8, false}, {5, 33, 0, 2, false},
                       {3, 70, 32, 4, false}, {4, 70, 32, 4, true}, {2, 129, 64, 8, true}};

struct Weights {
  std::vector<float> values, steps;
  std::vector<std::int8_t> zeros;
  StepGrid grid;
};

struct Bounds {
  double low, high;
};
Bounds bounds_of(const Case& test) {
  const double top = (1 << (test.bits - 1)) - 1;
  return {test.asymmetric ? std::max(-top - 1, -127.0) : -top, top};
}

// Steps so small that many weights lie outside; the first of each group's weights is far outside.
Weights make_weights(const Case& test, std::vector<float> values) {
  Weights weights{std::move(values), {}, {}, {test.bits, test.group, nullptr, nullptr}};
  const std::size_t groups = num_groups(test.cols, test.group);
  const float levels = static_cast<float>((1 << (test.bits - 1)) - 1);
  for (std::size_t i = 0; i < test.rows * groups; ++i) {
    weights.steps.push_back(1.5F / levels * (1.0F + 0.1F * static_cast<float>(i % 3)));
    if (test.asymmetric) weights.zeros.push_back(static_cast<std::int8_t>(i % 5) - 2);
  }
  weights.steps.back() = 0.0F;
  weights.grid.steps = weights.steps.data();
  if (test.asymmetric) weights.grid.zeros = weights.zeros.data();
  return weights;
}

std::size_t cell_of(const Case& test, std::size_t row, std::size_t col) {
  const std::size_t groups = num_groups(test.cols, test.group);
  return row * groups + (test.group == 0 ? 0 : col / test.group);
}

TEST_P(LearnedTest, CodesAreTheNearestOfTheGrid) {
  for (const Case& test : kCases) {
    Weights weights = make_weights(test, normal(test.rows * test.cols, 1.0F));
    weights.values[0] = 1e30F;
    weights.values[1] = -1e30F;
    std::vector<std::int8_t> codes(weights.values.size(), 99), threaded(codes);
    quantize_with_steps(weights.values.data(), test.rows, test.cols, weights.grid, codes.data(),
                        serial_);
    quantize_with_steps(weights.values.data(), test.rows, test.cols, weights.grid, threaded.data(),
                        two_threads_);
    EXPECT_EQ(codes, threaded);
    const Bounds bounds = bounds_of(test);
    for (std::size_t i = 0; i < codes.size(); ++i) {
      const std::size_t cell = cell_of(test, i / test.cols, i % test.cols);
      const double zero = test.asymmetric ? weights.zeros[cell] : 0;
      const float step = weights.steps[cell];
      // The quotient is rounded once to float, as the formula says.
      const double v = step == 0 ? 0.0 : static_cast<double>(weights.values[i] / step);
      const double expected = std::min(std::max(std::nearbyint(v) + zero, bounds.low), bounds.high);
      ASSERT_EQ(codes[i], static_cast<int>(expected)) << i << " of " << test.cols;
    }
  }
}

TEST_P(LearnedTest, StepGradientsEqualTheDefinition) {
  for (const Case& test : kCases) {
    const Weights weights = make_weights(test, normal(test.rows * test.cols, 1.0F));
    const std::vector<float> dw = normal(weights.values.size(), 1.0F);
    std::vector<float> masked = dw, threaded = dw;
    std::vector<float> dsteps(weights.steps.size(), std::nanf("")), again(dsteps);
    step_gradients(masked.data(), weights.values.data(), test.rows, test.cols, weights.grid,
                   dsteps.data(), serial_);
    step_gradients(threaded.data(), weights.values.data(), test.rows, test.cols, weights.grid,
                   again.data(), two_threads_);
    EXPECT_EQ(dsteps, again);
    EXPECT_EQ(masked, threaded);
    std::vector<double> expected(dsteps.size()), sizes(dsteps.size()), counts(dsteps.size());
    const Bounds bounds = bounds_of(test);
    std::size_t outside = 0;
    for (std::size_t i = 0; i < dw.size(); ++i) {
      const std::size_t cell = cell_of(test, i / test.cols, i % test.cols);
      const float step = weights.steps[cell];
      const double zero = test.asymmetric ? weights.zeros[cell] : 0;
      if (step == 0) continue;
      const double v = static_cast<double>(weights.values[i] / step);
      const double low = bounds.low - zero, high = bounds.high - zero;
      const bool inside = v >= low && v <= high;
      const double slope = inside ? std::nearbyint(v) - v : (v < low ? low : high);
      outside += inside ? 0 : 1;
      ASSERT_EQ(masked[i], inside ? dw[i] : 0.0F) << i;
      expected[cell] += static_cast<double>(dw[i]) * slope;
      sizes[cell] += std::abs(static_cast<double>(dw[i]) * slope);
      counts[cell] += 1;
    }
    EXPECT_GT(outside, 0U);
    for (std::size_t cell = 0; cell < expected.size(); ++cell) {
      if (weights.steps[cell] == 0) {
        EXPECT_EQ(dsteps[cell], 0.0F);
        continue;
      }
      const double scale = 1 / std::sqrt(counts[cell] * bounds.high);
      // Sums of at most 129 terms in f32.
      EXPECT_NEAR(dsteps[cell], expected[cell] * scale, 1e-5 * sizes[cell] * scale) << cell;
    }
  }
}

TEST_P(LearnedTest, ClipGradientEqualsTheDefinition) {
  for (const RowRange& range :
       {RowRange{0, false, 0.7F}, RowRange{32, false, 0.8F}, RowRange{0, true, 0.6F},
        RowRange{32, true, 0.9F}, RowRange{0, false, 1.0F}}) {
    for (const int bits : {2, 4, 8}) {
      const std::size_t rows = 5, cols = 70, groups = num_groups(cols, range.group);
      const std::size_t length = range.group == 0 ? cols : range.group;
      const std::vector<float> x = normal(rows * cols, 2.0F), dy = normal(rows * cols, 1.0F);
      std::vector<float> dx = dy, threaded = dy;
      const double found = clip_gradient(x.data(), rows, cols, bits, range, dx.data(), serial_);
      EXPECT_EQ(found,
                clip_gradient(x.data(), rows, cols, bits, range, threaded.data(), two_threads_));
      EXPECT_EQ(dx, threaded);
      // The slope of the reals as clip moves while codes stand still and bounds move with it.
      std::vector<std::int8_t> codes(x.size());
      std::vector<float> scales(rows * groups);
      quantize_rows(x.data(), rows, cols, bits, range, codes.data(), scales.data(), serial_);
      double expected = 0, size = 0;
      for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t g = 0; g < groups; ++g) {
          const std::size_t end = std::min(cols, (g + 1) * length);
          float low = 0, high = 0, largest = 0;
          for (std::size_t i = row * cols + g * length; i < row * cols + end; ++i) {
            low = std::min(low, x[i]);
            high = std::max(high, x[i]);
            largest = std::max(largest, std::fabs(x[i]));
          }
          if (!range.asymmetric || bits == 8) {
            low = -largest;
            high = largest;
          }
          low *= range.clip;
          high *= range.clip;
          const double count = static_cast<double>(end - g * length);
          const double levels = (1 << (bits - 1)) - 1;
          for (std::size_t i = row * cols + g * length; i < row * cols + end; ++i) {
            const bool inside = x[i] >= low && x[i] <= high;
            ASSERT_EQ(dx[i], inside ? dy[i] : 0.0F) << i;
            const double real = static_cast<double>(codes[i]) * scales[row * groups + g];
            const double slope = (inside ? real - static_cast<double>(x[i]) : real) /
                                 static_cast<double>(range.clip) / std::sqrt(count * levels);
            expected += static_cast<double>(dy[i]) * slope;
            size += std::abs(static_cast<double>(dy[i]) * slope);
          }
        }
      }
      EXPECT_NEAR(found, expected, 1e-5 * size);
    }
  }
}

// A larger gradient of the loss with fewer clipped elements: the sign of the clip's gradient.
TEST_P(LearnedTest, ClipGradientFollowsTheLoss) {
  const std::size_t cols = 512;
  const std::vector<float> x = normal(cols, 1.0F);
  const auto reals_at = [&](float clip) {
    std::vector<std::int8_t> codes(cols);
    float scale = 0;
    quantize_rows(x.data(), 1, cols, 4, {.clip = clip}, codes.data(), &scale, serial_);
    std::vector<double> reals;
    for (const std::int8_t code : codes) reals.push_back(static_cast<double>(code * scale));
    return reals;
  };
  const auto loss_at = [&](float clip) {  // distance from x, of which clip is the only variable
    double sum = 0;
    const std::vector<double> reals = reals_at(clip);
    for (std::size_t i = 0; i < cols; ++i) sum += std::pow(reals[i] - static_cast<double>(x[i]), 2);
    return sum;
  };
  for (const float clip : {0.3F, 0.9F}) {
    const std::vector<double> reals = reals_at(clip);
    std::vector<float> gradient(cols);
    for (std::size_t i = 0; i < cols; ++i)
      gradient[i] = static_cast<float>(2 * (reals[i] - static_cast<double>(x[i])));
    const double found =
        clip_gradient(x.data(), 1, cols, 4, {.clip = clip}, gradient.data(), serial_);
    const double slope = loss_at(clip * 1.1F) - loss_at(clip / 1.1F);
    EXPECT_GT(found * slope, 0) << clip;
  }
}

}  // namespace learned_test
}  // namespace qalof::kernels
