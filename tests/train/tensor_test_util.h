// Comparison of tensors in tests of training, and the device of some.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Context.h>

namespace qalof::train {

/// The largest difference over the largest number expected.
inline double relative_error(const at::Tensor& found, const at::Tensor& expected) {
  const at::Tensor reference = expected.to(at::kDouble);
  const double scale = reference.abs().max().item<double>() + 1e-12;
  return (found.to(at::kDouble) - reference).abs().max().item<double>() / scale;
}

/// KL(p || q) of each row, of logits [rows, classes].
inline at::Tensor row_divergences(const at::Tensor& p, const at::Tensor& q) {
  const at::Tensor log_p = at::log_softmax(p, 1), log_q = at::log_softmax(q, 1);
  return (log_p.exp() * (log_p - log_q)).sum(1);
}

/// Mean over rows of KL(p || q).
inline double divergence(const at::Tensor& p, const at::Tensor& q) {
  return row_divergences(p, q).mean().item<double>();
}

/// Median over rows of KL(p || q). In a row where one number lies on a rounding boundary, two sums
/// of another order give codes that differ, and all that follows differs: such rows are few, and
/// the median leaves them out. A graph that quantizes otherwise differs in every row.
inline double median_divergence(const at::Tensor& p, const at::Tensor& q) {
  return row_divergences(p, q).median().item<double>();
}

/// Two graphs that quantize alike differ, in the median row, by less than this share of what the
/// plan loses against 32 bits. One that rounds nothing differs by all of it.
constexpr double kShareOfLoss = 0.05;

inline bool has_cuda() { return at::hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0; }

}  // namespace qalof::train
