// Comparison of tensors in tests of training.
#pragma once

#include <ATen/ATen.h>

namespace qalof::train {

/// The largest difference over the largest number expected.
inline double relative_error(const at::Tensor& found, const at::Tensor& expected) {
  const at::Tensor reference = expected.to(at::kDouble);
  const double scale = reference.abs().max().item<double>() + 1e-12;
  return (found.to(at::kDouble) - reference).abs().max().item<double>() / scale;
}

}  // namespace qalof::train
