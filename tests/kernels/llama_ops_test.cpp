// RMS norm, SwiGLU and rotary positions on every instruction set: against doubles, against numeric
// gradients, and the same bits on all vector sets.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/kernel_test_util.h"
#include "kernels/ops.h"

namespace qalof::kernels {
namespace llama_ops_test {

class LlamaOpsTest : public IsaTest {};
INSTANTIATE_TEST_SUITE_P(Isas, LlamaOpsTest, testing::ValuesIn(available_isas()), isa_name);

constexpr double kRounding = 0x1p-24;  // of one f32 operation, relative
constexpr std::size_t kCols[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 576};
constexpr double kEps = 1e-5;

// y of one row in double, from any numbers.
std::vector<double> rms_reference(const std::vector<double>& x, const std::vector<float>& gamma) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(x.size()) + kEps);
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * inverse * gamma[i];
  return y;
}

TEST_P(LlamaOpsTest, RmsNormAndItsGradientAgreeWithDoubles) {
  for (const std::size_t cols : kCols) {
    const std::size_t rows = 3;
    const std::vector<float> x = random_floats(rows * cols, random_),
                             dy = random_floats(rows * cols, random_),
                             gamma = random_floats(cols, random_);
    std::vector<float> y(rows * cols), stats(rows * 2), dx(rows * cols), dgamma(cols, 0.5F);
    rms_norm(x.data(), rows, cols, gamma.data(), static_cast<float>(kEps), y.data(), stats.data(),
             two_threads_);
    rms_norm_backward(dy.data(), x.data(), stats.data(), gamma.data(), rows, cols, dx.data(),
                      dgamma.data(), two_threads_);
    std::vector<double> expected, expected_dx, expected_dgamma(cols, 0.5);
    for (std::size_t row = 0; row < rows; ++row) {
      const auto first = x.begin() + static_cast<std::ptrdiff_t>(row * cols);
      std::vector<double> values(first, first + static_cast<std::ptrdiff_t>(cols));
      const std::vector<double> row_y = rms_reference(values, gamma);
      expected.insert(expected.end(), row_y.begin(), row_y.end());
      for (std::size_t i = 0; i < cols; ++i) {
        expected_dgamma[i] += dy[row * cols + i] * row_y[i] / gamma[i];
        // Central differences of sum(dy * y) in double.
        const double h = 1e-5, middle = values[i];
        double slope = 0;
        for (const double side : {1.0, -1.0}) {
          values[i] = middle + side * h;
          const std::vector<double> moved = rms_reference(values, gamma);
          for (std::size_t j = 0; j < cols; ++j) slope += side * dy[row * cols + j] * moved[j];
        }
        values[i] = middle;
        expected_dx.push_back(slope / (2 * h));
      }
    }
    const double tolerance = (static_cast<double>(cols) / 8.0 + 40.0) * kRounding;
    const std::string what = std::to_string(cols);
    expect_close(y, expected, tolerance, tolerance, what + " y");
    // A row of one number has a gradient near eps, the rest cancels.
    expect_close(dx, expected_dx, 400 * tolerance, 100 * tolerance, what + " dx");
    expect_close(dgamma, expected_dgamma, 10 * tolerance, tolerance, what + " dgamma");
    if (HasFatalFailure()) return;

    std::vector<float> again(rows * cols), sum(rows * cols), skipped(rows * cols);
    rms_norm(x.data(), rows, cols, gamma.data(), static_cast<float>(kEps), again.data(), nullptr,
             serial_);
    ASSERT_EQ(again, y) << "threads or missing stats change the result";
    // In one pass with a sum before, and with what goes past the norm.
    std::vector<float> added = dy;
    add_in_place(x.data(), rows * cols, added.data(), serial_);
    rms_norm(added.data(), rows, cols, gamma.data(), static_cast<float>(kEps), again.data(),
             nullptr, serial_);
    std::vector<float> both(rows * cols);
    add_rms_norm(x.data(), dy.data(), rows, cols, gamma.data(), static_cast<float>(kEps),
                 sum.data(), both.data(), nullptr, two_threads_);
    ASSERT_EQ(sum, added);
    ASSERT_EQ(both, again);
    rms_norm_backward(dy.data(), x.data(), stats.data(), gamma.data(), rows, cols, skipped.data(),
                      nullptr, serial_, y.data());
    for (std::size_t i = 0; i < dx.size(); ++i) ASSERT_EQ(skipped[i], dx[i] + y[i]);
  }
}

double swiglu_reference(double gate, double up) { return gate / (1.0 + std::exp(-gate)) * up; }

TEST_P(LlamaOpsTest, SwiGluAndItsGradientAgreeWithDoubles) {
  std::vector<float> gate, up;
  for (int i = -2000; i <= 2000; ++i) gate.push_back(static_cast<float>(i) * 0.01F);
  for (const float big : {30.0F, 87.0F, 89.0F, 100.0F, 1e4F, 3e38F, 0.0F, 1e-30F, 1e-42F}) {
    gate.push_back(big);
    gate.push_back(-big);
  }
  up = random_floats(gate.size(), random_, 0.3F);
  const std::vector<float> dy(gate.size(), 0.7F);
  std::vector<float> y(gate.size()), dgate(gate.size()), dup(gate.size());
  swiglu(gate.data(), up.data(), gate.size(), y.data(), two_threads_);
  swiglu_backward(dy.data(), gate.data(), up.data(), gate.size(), dgate.data(), dup.data(),
                  two_threads_);
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double g = gate[i], u = up[i];
    // exp(-g) is within an ulp of the rounded argument.
    const double relative = (8.0 + 2.0 * std::min(std::fabs(g), 110.0)) * kRounding;
    const double expected = swiglu_reference(g, u);
    // A result below the smallest normal number may come out as 0.
    ASSERT_LE(std::fabs(y[i] - expected), 1e-36 + relative * std::fabs(expected)) << g;
    const double slope = swiglu_reference(g, 1.0);
    ASSERT_LE(std::fabs(dup[i] - 0.7 * slope), 1e-36 + 2 * relative * std::fabs(slope)) << g;
    const double t = 1.0 / (1.0 + std::exp(-g));
    const double rest = std::fabs(g) > 200.0 ? 0.0 : g * t * (1.0 - t);
    ASSERT_LE(std::fabs(dgate[i] - 0.7 * u * (t + rest)), 2e-6) << g;
  }
  // In place, and every element alone.
  std::vector<float> in_place = gate;
  swiglu(in_place.data(), up.data(), gate.size(), in_place.data(), serial_);
  ASSERT_EQ(in_place, y);
  std::vector<float> dgate_in_place = gate, dup_in_place = up;
  swiglu_backward(dy.data(), dgate_in_place.data(), dup_in_place.data(), gate.size(),
                  dgate_in_place.data(), dup_in_place.data(), serial_);
  ASSERT_EQ(dgate_in_place, dgate);
  ASSERT_EQ(dup_in_place, dup);
}

TEST_P(LlamaOpsTest, SwiGluGradientMatchesNumericDifferences) {
  for (double g = -8.0; g <= 8.0; g += 0.1) {
    const auto gate = static_cast<float>(g);
    const float up = 1.3F, dy = 1.7F;
    float dgate = 0, dup = 0;
    swiglu_backward(&dy, &gate, &up, 1, &dgate, &dup, serial_);
    const double h = 1e-5;
    const double numeric =
        1.7 * (swiglu_reference(gate + h, 1.3) - swiglu_reference(gate - h, 1.3)) / (2.0 * h);
    EXPECT_LE(std::fabs(dgate - numeric), 2e-6) << g;
  }
}

TEST_P(LlamaOpsTest, RotationTurnsPairsByPositionTimesFrequency) {
  for (const std::size_t half : {1, 2, 4, 8, 13, 32, 33}) {
    const std::size_t rows = 5, heads = 3, stride = heads * 2 * half + 7;
    const std::vector<std::int32_t> positions = {0, 1, 2, 513, 100000};
    std::vector<float> frequencies(half);
    for (std::size_t i = 0; i < half; ++i)
      frequencies[i] = 1.0F / std::pow(10000.0F, static_cast<float>(i) / static_cast<float>(half));
    std::vector<float> table(rows * 2 * half);
    rotary_table(positions.data(), rows, frequencies.data(), half, table.data());
    const std::vector<float> before = random_floats(rows * stride, random_);
    std::vector<float> x = before;
    rotate(x.data(), rows, stride, {heads, 2 * half, half}, table.data(), two_threads_);
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t head = 0; head < heads; ++head) {
        for (std::size_t i = 0; i < half; ++i) {
          const std::size_t at = row * stride + head * 2 * half + i;
          const float rounded = static_cast<float>(positions[row]) * frequencies[i];
          const double angle = rounded;
          const double a = before[at], b = before[at + half];
          const double size = std::hypot(a, b);
          ASSERT_LE(std::fabs(x[at] - (a * std::cos(angle) - b * std::sin(angle))),
                    4 * kRounding * size);
          ASSERT_LE(std::fabs(x[at + half] - (b * std::cos(angle) + a * std::sin(angle))),
                    4 * kRounding * size);
        }
      }
      // What lies between rows is left alone.
      for (std::size_t i = heads * 2 * half; i < stride; ++i)
        ASSERT_EQ(x[row * stride + i], before[row * stride + i]);
    }
    // The transposed rotation is the gradient, and it is the inverse.
    rotate_backward(x.data(), rows, stride, {heads, 2 * half, half}, table.data(), serial_);
    for (std::size_t i = 0; i < x.size(); ++i) ASSERT_LE(std::fabs(x[i] - before[i]), 2e-6);
    // The first position is not turned.
    x = before;
    rotate(x.data(), 1, stride, {heads, 2 * half, half}, table.data(), serial_);
    ASSERT_EQ(x, before);
  }
}

TEST_P(LlamaOpsTest, NanIsKept) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> x(17, 1.0F), y(17);
  const std::vector<float> ones(17, 1.0F);
  x[12] = nan;
  swiglu(x.data(), ones.data(), 17, y.data(), serial_);
  for (std::size_t i = 0; i < 17; ++i) EXPECT_EQ(std::isnan(y[i]), i == 12);
  rms_norm(x.data(), 1, 17, ones.data(), 1e-5F, y.data(), nullptr, serial_);
  for (const float value : y) EXPECT_TRUE(std::isnan(value));
}

TEST(LlamaOps, EverySetFromAvx2OnHasTheSameBits) {
  std::mt19937 random(9);
  SerialFor serial;
  const Isa before = active_isa();
  for (std::size_t cols = 2; cols <= 100; cols += 2) {
    const std::size_t rows = 3, half = cols / 2;
    const std::vector<float> x = random_floats(rows * cols, random, 4.0F),
                             dy = random_floats(rows * cols, random),
                             table = random_floats(rows * cols, random);
    std::vector<std::vector<float>> results;
    for (const Isa isa : available_isas()) {
      if (isa == Isa::kPortable) continue;  // it sums in another order
      force_isa(isa);
      std::vector<float> all(rows * cols * 6);
      const auto part = [&](std::size_t i) { return all.data() + i * rows * cols; };
      std::vector<float> stats(rows * 2);
      rms_norm(x.data(), rows, cols, dy.data(), 1e-5F, part(0), stats.data(), serial);
      rms_norm_backward(dy.data(), x.data(), stats.data(), x.data(), rows, cols, part(1), nullptr,
                        serial);
      swiglu(x.data(), dy.data(), rows * cols, part(2), serial);
      swiglu_backward(dy.data(), x.data(), table.data(), rows * cols, part(3), part(4), serial);
      std::copy(x.begin(), x.end(), part(5));
      rotate(part(5), rows, cols, {1, 2 * half, half}, table.data(), serial);
      results.push_back(all);
      EXPECT_EQ(results.back(), results.front()) << to_string(isa) << ", " << cols;
    }
  }
  force_isa(before);
}

}  // namespace llama_ops_test
}  // namespace qalof::kernels
