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

inline bool has_cuda() { return at::hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0; }

}  // namespace qalof::train
