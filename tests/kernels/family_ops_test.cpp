// Soft caps, GeGLU, norms of heads, and attention with windows and capped scores, on every
// instruction set: against doubles and against the operations they are made of.
#include <algorithm>
#include <cmath>

#include "kernels/kernel_test_util.h"
#include "kernels/ops.h"

namespace qalof::kernels {
namespace family_ops_test {

class FamilyOpsTest : public IsaTest {};
INSTANTIATE_TEST_SUITE_P(Isas, FamilyOpsTest, testing::ValuesIn(available_isas()), isa_name);

TEST_P(FamilyOpsTest, SoftCapAndItsGradientAgreeWithDoubles) {
  for (const float cap : {0.5F, 30.0F, 50.0F}) {
    std::vector<float> x = random_floats(700, random_);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] *= cap * static_cast<float>(i % 40) / 4;
    x[0] = 0;
    x[1] = 1e-6F * cap;
    x[2] = -1e30F;
    x[3] = 0.2F * cap;
    std::vector<float> y = x, dy = random_floats(x.size(), random_);
    const std::vector<float> given = dy;
    soft_cap(y.data(), y.size(), cap, two_threads_);
    soft_cap_backward(dy.data(), y.data(), y.size(), cap, two_threads_);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double t = std::tanh(static_cast<double>(x[i]) / static_cast<double>(cap));
      const double wanted = t * static_cast<double>(cap);
      EXPECT_LE(std::abs(static_cast<double>(y[i]) - wanted), 1e-6 * std::abs(wanted)) << x[i];
      const double slope = 1 - t * t;
      EXPECT_LE(std::abs(static_cast<double>(dy[i]) - slope * static_cast<double>(given[i])), 2e-6)
          << x[i];
    }
  }
}

TEST_P(FamilyOpsTest, GeGluIsGeluTimesUpAlsoInOneFusedRow) {
  constexpr std::size_t kRows = 5, kCols = 37;
  const std::vector<float> fused = random_floats(kRows * 2 * kCols, random_);
  for (const Gate activation : {Gate::kGeluTanh, Gate::kGeluErf, Gate::kSilu}) {
    std::vector<float> y(kRows * kCols);
    gate_rows(activation, fused.data(), fused.data() + kCols, kRows, kCols, 2 * kCols, y.data(),
              two_threads_);
    std::vector<float> gate, up, expected(y.size());
    for (std::size_t row = 0; row < kRows; ++row) {
      const auto first = fused.begin() + static_cast<std::ptrdiff_t>(row * 2 * kCols);
      gate.insert(gate.end(), first, first + kCols);
      up.insert(up.end(), first + kCols, first + 2 * kCols);
    }
    if (activation == Gate::kSilu) {
      swiglu(gate.data(), up.data(), gate.size(), expected.data(), serial_);
    } else {
      const auto gelu = activation == Gate::kGeluTanh ? gelu_new : gelu_erf;
      gelu(gate.data(), gate.size(), expected.data(), serial_);
      for (std::size_t i = 0; i < expected.size(); ++i) expected[i] *= up[i];
    }
    EXPECT_EQ(y, expected);
    // Central differences of sum(dy * y).
    const std::vector<float> dy = random_floats(y.size(), random_);
    std::vector<float> dgate(y.size()), dup(y.size());
    gate_backward(activation, dy.data(), gate.data(), up.data(), y.size(), dgate.data(), dup.data(),
                  two_threads_);
    const float h = 1e-2F;
    std::vector<float> above = gate, below = gate, high(y.size()), low(y.size());
    for (float& value : above) value += h;
    for (float& value : below) value -= h;
    gate_rows(activation, above.data(), up.data(), kRows, kCols, kCols, high.data(), serial_);
    gate_rows(activation, below.data(), up.data(), kRows, kCols, kCols, low.data(), serial_);
    for (std::size_t i = 0; i < y.size(); ++i) {
      EXPECT_NEAR(dgate[i], dy[i] * (high[i] - low[i]) / (2 * h), 2e-3F) << i;
      EXPECT_NEAR(dup[i] * up[i], dy[i] * y[i], 1e-5F) << i;
    }
  }
}

TEST_P(FamilyOpsTest, NormsOfHeadsAreThoseOfDenseRows) {
  constexpr std::size_t kRows = 4, kHeads = 3, kDim = 10, kStride = 41;
  const std::vector<float> x = random_floats(kRows * kStride, random_),
                           gain = random_floats(kDim, random_);
  std::vector<float> y = x, stats(kRows * kHeads * 2), dy = random_floats(x.size(), random_);
  std::vector<float> dense, dense_dy;
  const auto append = [&](std::vector<float>& to, const std::vector<float>& from, std::size_t row) {
    const auto first = from.begin() + static_cast<std::ptrdiff_t>(row * kStride);
    to.insert(to.end(), first, first + kHeads * kDim);
  };
  for (std::size_t row = 0; row < kRows; ++row) {
    append(dense, x, row);
    append(dense_dy, dy, row);
  }
  norm_heads(y.data(), kRows, kStride, kHeads, kDim, gain.data(), 1e-5F, y.data(), stats.data(),
             two_threads_);
  std::vector<float> dgain(kDim, 0.5F), expected_dgain(kDim, 0.5F), dense_dx(dense.size());
  std::vector<float> expected(dense.size()), dense_stats(stats.size());
  rms_norm(dense.data(), kRows * kHeads, kDim, gain.data(), 1e-5F, expected.data(),
           dense_stats.data(), serial_);
  rms_norm_backward(dense_dy.data(), dense.data(), dense_stats.data(), gain.data(), kRows * kHeads,
                    kDim, dense_dx.data(), expected_dgain.data(), serial_);
  norm_heads_backward(dy.data(), x.data(), stats.data(), gain.data(), kRows, kStride, kHeads, kDim,
                      dgain.data(), two_threads_);
  EXPECT_EQ(dgain, expected_dgain);
  for (std::size_t row = 0; row < kRows; ++row) {
    for (std::size_t i = 0; i < kHeads * kDim; ++i) {
      EXPECT_EQ(y[row * kStride + i], expected[row * kHeads * kDim + i]);
      EXPECT_EQ(dy[row * kStride + i], dense_dx[row * kHeads * kDim + i]);
    }
    EXPECT_EQ(y[row * kStride + kStride - 1], x[row * kStride + kStride - 1]) << "not a head";
  }
}

TEST_P(FamilyOpsTest, WindowsAndCapsOfAttentionAgreeWithDoubles) {
  constexpr std::size_t kTokens = 130, kDim = 12;
  const std::vector<float> q = random_floats(kTokens * kDim, random_),
                           k = random_floats(kTokens * kDim, random_),
                           v = random_floats(kTokens * kDim, random_);
  for (const std::size_t window : {0, 1, 7, 64, 500}) {
    for (const float cap : {0.0F, 1.5F}) {
      std::vector<float> out(kTokens * kDim);
      const AttentionShape shape{1, 1, kDim, kDim, kDim, kDim, kDim, 0.9F, window, cap};
      const AttentionSequence all{q.data(), k.data(), v.data(), out.data(), nullptr, kTokens, 0};
      attention(shape, &all, 1, two_threads_);
      for (std::size_t i = 0; i < kTokens; ++i) {
        const std::size_t first = window == 0 || i < window ? 0 : i + 1 - window;
        double sum = 0;
        std::vector<double> expected(kDim, 0.0);
        for (std::size_t j = first; j <= i; ++j) {
          double score = 0;
          for (std::size_t d = 0; d < kDim; ++d)
            score += static_cast<double>(q[i * kDim + d]) * static_cast<double>(k[j * kDim + d]);
          score *= static_cast<double>(0.9F);
          if (cap != 0)
            score = static_cast<double>(cap) * std::tanh(score / static_cast<double>(cap));
          const double weight = std::exp(score);
          sum += weight;
          for (std::size_t d = 0; d < kDim; ++d)
            expected[d] += weight * static_cast<double>(v[j * kDim + d]);
        }
        for (std::size_t d = 0; d < kDim; ++d)
          EXPECT_NEAR(static_cast<double>(out[i * kDim + d]), expected[d] / sum, 1e-5)
              << window << " " << cap << " " << i;
      }
    }
  }
}

}  // namespace family_ops_test
}  // namespace qalof::kernels
