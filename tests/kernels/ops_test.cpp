// Norms, activations and elementwise operations against doubles and numeric gradients, and bitwise
// equality across instruction sets.
#include "kernels/ops.h"

#include <algorithm>
#include <limits>

#include "kernels/kernel_test_util.h"

namespace qalof::kernels {
namespace ops_test {

class OpsTest : public IsaTest {};
INSTANTIATE_TEST_SUITE_P(Isas, OpsTest, testing::ValuesIn(available_isas()), isa_name);

constexpr double kRounding = 0x1p-24;  // of one f32 operation, relative
constexpr std::size_t kCols[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 768};

struct Norm {
  std::vector<double> y, dx, dgamma, dbeta;
};

Norm reference_norm(const std::vector<float>& x, const std::vector<float>& gamma,
                    const std::vector<float>& beta, const std::vector<float>& dy, double eps,
                    std::size_t rows, std::size_t cols) {
  Norm result;
  result.dgamma.assign(cols, 0.0);
  result.dbeta.assign(cols, 0.0);
  for (std::size_t row = 0; row < rows; ++row) {
    const auto n = static_cast<double>(cols);
    double mean = 0.0, var = 0.0, sum = 0.0, product = 0.0;
    for (std::size_t i = 0; i < cols; ++i) mean += x[row * cols + i] / n;
    for (std::size_t i = 0; i < cols; ++i) var += std::pow(x[row * cols + i] - mean, 2) / n;
    const double inverse = 1.0 / std::sqrt(var + eps);
    for (std::size_t i = 0; i < cols; ++i) {
      const double hat = (x[row * cols + i] - mean) * inverse;
      const double g = double{dy[row * cols + i]} * gamma[i];
      result.y.push_back(hat * gamma[i] + beta[i]);
      sum += g / n;
      product += g * hat / n;
      result.dgamma[i] += dy[row * cols + i] * hat;
      result.dbeta[i] += dy[row * cols + i];
    }
    for (std::size_t i = 0; i < cols; ++i) {
      const double hat = (x[row * cols + i] - mean) * inverse;
      result.dx.push_back(inverse * (double{dy[row * cols + i]} * gamma[i] - sum - hat * product));
    }
  }
  return result;
}

TEST_P(OpsTest, LayerNormAndItsGradientAgreeWithDoubles) {
  constexpr float kEps = 1e-5F;
  for (const std::size_t cols : kCols) {
    for (const std::size_t rows : {1, 3, 40}) {
      std::vector<float> x = random_floats(rows * cols, random_);
      for (float& value : x) value += 0.5F;
      const std::vector<float> dy = random_floats(rows * cols, random_);
      const std::vector<float> gamma = random_floats(cols, random_),
                               beta = random_floats(cols, random_);
      const Norm expected = reference_norm(x, gamma, beta, dy, kEps, rows, cols);
      std::vector<float> y(rows * cols), stats(rows * 2), dx(rows * cols), dgamma(cols, 0.0F),
          dbeta(cols, 0.0F);
      layer_norm(x.data(), rows, cols, gamma.data(), beta.data(), kEps, y.data(), stats.data(),
                 two_threads_);
      layer_norm_backward(dy.data(), x.data(), stats.data(), gamma.data(), rows, cols, dx.data(),
                          dgamma.data(), dbeta.data(), two_threads_);
      // Rows of one or two numbers may lie close together: their difference is divided by as little
      // as sqrt(eps).
      const double scale = cols < 8 ? 300.0 : 30.0;
      const double tolerance = scale * (static_cast<double>(cols) / 8.0 + 8.0) * kRounding;
      const std::string what = std::to_string(rows) + " x " + std::to_string(cols);
      expect_close(y, expected.y, tolerance, tolerance, what + " y");
      expect_close(dx, expected.dx, 100 * tolerance, tolerance, what + " dx");
      expect_close(dgamma, expected.dgamma, 40 * tolerance, tolerance, what + " dgamma");
      expect_close(dbeta, expected.dbeta, 40 * tolerance, tolerance, what + " dbeta");
      if (HasFatalFailure()) return;
      std::vector<float> without(rows * cols);
      layer_norm(x.data(), rows, cols, gamma.data(), beta.data(), kEps, without.data(), nullptr,
                 serial_);
      ASSERT_EQ(without, y) << "threads or missing stats change the result";
      layer_norm_backward(dy.data(), x.data(), stats.data(), gamma.data(), rows, cols,
                          without.data(), nullptr, nullptr, serial_);
      ASSERT_EQ(without, dx);
    }
  }
}

TEST_P(OpsTest, LayerNormOfAConstantRowIsBeta) {
  const std::vector<float> x(33, 4.0F), gamma(33, 2.0F), beta(33, -1.5F);
  std::vector<float> y(33);
  layer_norm(x.data(), 1, 33, gamma.data(), beta.data(), 1e-5F, y.data(), nullptr, serial_);
  EXPECT_EQ(y, beta);
}

TEST_P(OpsTest, LayerNormParameterGradientsAreAddedAndDoNotDependOnThreads) {
  const std::size_t rows = 700, cols = 97;
  const std::vector<float> x = random_floats(rows * cols, random_),
                           dy = random_floats(rows * cols, random_);
  const std::vector<float> gamma(cols, 1.0F), beta(cols, 0.0F);
  std::vector<float> y(rows * cols), stats(rows * 2), dx(rows * cols);
  layer_norm(x.data(), rows, cols, gamma.data(), beta.data(), 1e-5F, y.data(), stats.data(),
             serial_);
  std::vector<float> dgamma(cols, 5.0F), dbeta(cols, 5.0F), dgamma_two(cols, 5.0F),
      dbeta_two(cols, 5.0F);
  layer_norm_backward(dy.data(), x.data(), stats.data(), gamma.data(), rows, cols, dx.data(),
                      dgamma.data(), dbeta.data(), serial_);
  layer_norm_backward(dy.data(), x.data(), stats.data(), gamma.data(), rows, cols, dx.data(),
                      dgamma_two.data(), dbeta_two.data(), two_threads_);
  EXPECT_EQ(dgamma, dgamma_two);
  EXPECT_EQ(dbeta, dbeta_two);
  double sum = 5.0;
  for (std::size_t row = 0; row < rows; ++row) sum += dy[row * cols];
  EXPECT_LE(std::fabs(dbeta[0] - sum), 1e-3);
}

double gelu_reference(double x) {
  return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
}

TEST_P(OpsTest, GeluAgreesWithDoublesOverTheWholeRange) {
  std::vector<float> x;
  for (int i = -4000; i <= 4000; ++i) x.push_back(static_cast<float>(i) * 0.005F);
  for (const float big : {30.0F, 100.0F, 1e4F, 1e20F, 3e38F, 0.0F, 1e-30F, 1e-42F}) {
    x.push_back(big);
    x.push_back(-big);
  }
  std::vector<float> y(x.size()), dy(x.size(), 1.0F), dx(x.size());
  gelu_new(x.data(), x.size(), y.data(), two_threads_);
  gelu_new_backward(dy.data(), x.data(), x.size(), dx.data(), two_threads_);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double value = x[i];
    const double expected = gelu_reference(value);
    // The argument of exp has a few roundings, relative to its size: at most 4 (2u + 1) of them.
    const double u = std::min(
        std::fabs(std::sqrt(2.0 / M_PI) * (value + 0.044715 * value * value * value)), 100.0);
    ASSERT_LE(std::fabs(y[i] - expected),
              1e-37 + 4.0 * (2.0 * u + 1.0) * kRounding * std::fabs(expected) +
                  (value < 0 ? 1e-15 * std::fabs(value) : 0.0))
        << value;
    const double v = std::clamp(value, -50.0, 50.0);
    const double t =
        1.0 / (1.0 + std::exp(-2.0 * std::sqrt(2.0 / M_PI) * (v + 0.044715 * v * v * v)));
    const double slope =
        t + v * t * (1.0 - t) * 2.0 * std::sqrt(2.0 / M_PI) * (1.0 + 3.0 * 0.044715 * v * v);
    ASSERT_LE(std::fabs(dx[i] - slope), 2e-6) << value;
  }
}

TEST_P(OpsTest, GeluIsTheSameAtEveryPositionAndInPlace) {
  for (const std::size_t count : kSizes) {
    const std::vector<float> x = random_floats(count, random_);
    std::vector<float> y(count), in_place = x;
    gelu_new(x.data(), count, y.data(), serial_);
    gelu_new(in_place.data(), count, in_place.data(), two_threads_);
    ASSERT_EQ(y, in_place);
    for (std::size_t i = 0; i < count; ++i) {
      float alone = 0.0F;
      gelu_new(&x[i], 1, &alone, serial_);
      ASSERT_EQ(alone, y[i]);
    }
  }
}

TEST_P(OpsTest, GeluGradientMatchesNumericDifferences) {
  for (double x = -6.0; x <= 6.0; x += 0.1) {
    const auto value = static_cast<float>(x);
    const float dy = 1.7F;
    float dx = 0.0F;
    gelu_new_backward(&dy, &value, 1, &dx, serial_);
    const double h = 1e-5;
    const double numeric =
        1.7 * (gelu_reference(value + h) - gelu_reference(value - h)) / (2.0 * h);
    EXPECT_LE(std::fabs(dx - numeric), 1e-5) << x;
  }
}

// x Phi(x) and its derivative.
double exact_gelu(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }
double exact_gelu_slope(double x) {
  return 0.5 * std::erfc(-x / std::sqrt(2.0)) + x * std::exp(-0.5 * x * x) / std::sqrt(2.0 * M_PI);
}

TEST_P(OpsTest, ExactGeluAgreesWithDoublesOverTheWholeRange) {
  std::vector<float> x;
  for (int i = -4000; i <= 4000; ++i) x.push_back(static_cast<float>(i) * 0.005F);
  for (const float big : {30.0F, 100.0F, 1e4F, 1e20F, 3e38F, 0.0F, 1e-30F, 1e-42F}) {
    x.push_back(big);
    x.push_back(-big);
  }
  std::vector<float> y(x.size()), dy(x.size(), 1.0F), dx(x.size());
  gelu_erf(x.data(), x.size(), y.data(), two_threads_);
  gelu_erf_backward(dy.data(), x.data(), x.size(), dx.data(), two_threads_);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double value = x[i];
    const double expected = exact_gelu(value);
    // exp(-x^2 / 2) multiplies the rounding of its argument by x^2.
    const double square = std::min(value * value, 400.0);
    ASSERT_LE(std::fabs(y[i] - expected),
              1e-37 + (8.0 + 2.0 * square) * kRounding * std::fabs(expected))
        << value;
    ASSERT_LE(std::fabs(dx[i] - exact_gelu_slope(std::clamp(value, -50.0, 50.0))), 1e-6) << value;
  }
}

TEST_P(OpsTest, ExactGeluIsTheSameAtEveryPositionAndInPlace) {
  for (const std::size_t count : kSizes) {
    const std::vector<float> x = random_floats(count, random_);
    std::vector<float> y(count), in_place = x;
    gelu_erf(x.data(), count, y.data(), serial_);
    gelu_erf(in_place.data(), count, in_place.data(), two_threads_);
    ASSERT_EQ(y, in_place);
    for (std::size_t i = 0; i < count; ++i) {
      float alone = 0.0F;
      gelu_erf(&x[i], 1, &alone, serial_);
      ASSERT_EQ(alone, y[i]);
    }
  }
}

TEST_P(OpsTest, ExactGeluGradientMatchesNumericDifferences) {
  for (double x = -6.0; x <= 6.0; x += 0.1) {
    const auto value = static_cast<float>(x);
    const float dy = 1.7F;
    float dx = 0.0F;
    gelu_erf_backward(&dy, &value, 1, &dx, serial_);
    const double h = 1e-5;
    const double numeric = 1.7 * (exact_gelu(value + h) - exact_gelu(value - h)) / (2.0 * h);
    EXPECT_LE(std::fabs(dx - numeric), 1e-5) << x;
  }
}

TEST_P(OpsTest, AddInPlaceAddsEveryElementOnce) {
  for (const std::size_t count : {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 50000}) {
    const std::vector<float> src = random_floats(count, random_);
    const std::vector<float> before = random_floats(count, random_);
    std::vector<float> dst = before;
    add_in_place(src.data(), count, dst.data(), two_threads_);
    for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(dst[i], before[i] + src[i]);
  }
}

struct RowResults {
  std::vector<float> norm, stats, dx, dgamma, dbeta, gelu, gelu_dx, exact, exact_dx, sum;
  bool operator==(const RowResults&) const = default;
};

RowResults all_rows(const std::vector<float>& x, const std::vector<float>& dy, std::size_t rows,
                    std::size_t cols) {
  SerialFor serial;
  const std::vector<float> gamma(dy.begin(), dy.begin() + static_cast<std::ptrdiff_t>(cols));
  const std::vector<float> none(x.size());
  RowResults r{none,  std::vector<float>(rows * 2),
               none,  std::vector<float>(cols),
               gamma, none,
               none,  none,
               none,  dy};
  layer_norm(x.data(), rows, cols, gamma.data(), gamma.data(), 1e-5F, r.norm.data(), r.stats.data(),
             serial);
  layer_norm_backward(dy.data(), x.data(), r.stats.data(), gamma.data(), rows, cols, r.dx.data(),
                      r.dgamma.data(), r.dbeta.data(), serial);
  gelu_new(x.data(), x.size(), r.gelu.data(), serial);
  gelu_new_backward(dy.data(), x.data(), x.size(), r.gelu_dx.data(), serial);
  gelu_erf(x.data(), x.size(), r.exact.data(), serial);
  gelu_erf_backward(dy.data(), x.data(), x.size(), r.exact_dx.data(), serial);
  add_in_place(x.data(), x.size(), r.sum.data(), serial);
  return r;
}

TEST_P(OpsTest, CopyMatrixMovesAPartAndNothingElse) {
  const std::size_t rows = 900, cols = 37, x_stride = 40, y_stride = 61, first = 7;
  const std::vector<float> x = random_floats(rows * x_stride, random_);
  std::vector<float> expected(rows * y_stride, -1.0F), found = expected;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t col = 0; col < cols; ++col)
      expected[row * y_stride + first + col] = x[row * x_stride + col];
  }
  copy_matrix(x.data(), rows, cols, x_stride, found.data() + first, y_stride, two_threads_);
  EXPECT_EQ(found, expected);
}

TEST(Ops, EverySetFromAvx2OnHasTheSameBits) {
  std::mt19937 random(9);
  const Isa before = active_isa();
  for (std::size_t cols = 1; cols <= 100; ++cols) {
    const std::vector<float> x = random_floats(3 * cols, random, 4.0F),
                             dy = random_floats(3 * cols, random);
    std::vector<RowResults> results;
    for (const Isa isa : available_isas()) {
      if (isa == Isa::kPortable) continue;  // it sums in another order
      force_isa(isa);
      results.push_back(all_rows(x, dy, 3, cols));
      EXPECT_TRUE(results.back() == results.front()) << to_string(isa) << ", " << cols;
    }
  }
  force_isa(before);
}

TEST_P(OpsTest, NanIsKept) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> x(17, 1.0F), y(17);
  x[12] = nan;
  gelu_new(x.data(), 17, y.data(), serial_);
  for (std::size_t i = 0; i < 17; ++i) EXPECT_EQ(std::isnan(y[i]), i == 12);
  gelu_erf(x.data(), 17, y.data(), serial_);
  for (std::size_t i = 0; i < 17; ++i) EXPECT_EQ(std::isnan(y[i]), i == 12);
  const std::vector<float> dy(17, 1.0F);
  gelu_erf_backward(dy.data(), x.data(), 17, y.data(), serial_);
  for (std::size_t i = 0; i < 17; ++i) EXPECT_EQ(std::isnan(y[i]), i == 12);
  const std::vector<float> ones(17, 1.0F);
  layer_norm(x.data(), 1, 17, ones.data(), ones.data(), 1e-5F, y.data(), nullptr, serial_);
  for (const float value : y) EXPECT_TRUE(std::isnan(value));
}

}  // namespace ops_test
}  // namespace qalof::kernels
