// Autograd functions of rotated models (docs/numerics.md, "Rotation").
#pragma once

#include "train/torch/kernel_functions.h"
#include "weights/rotation.h"

namespace qalof::train {

struct HadamardArguments {
  const kernels::Hadamard* hadamard = nullptr;
  std::size_t blocks = 1;
  bool inverse = false;
  ParallelFor* parallel = nullptr;
};
/// x with its first blocks * order columns rotated, block by block.
struct HadamardFunction : torch::autograd::Function<HadamardFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& x,
                          const HadamardArguments& arguments);
  static variable_list backward(AutogradContext* ctx, const variable_list& grads);
};

/// Rotation::rotate_pair: {a, b, bias} from a pair in the unrotated basis; bias is no_tensor()
/// where the linear has none. Tensors may be on any device; the computation runs on the host.
struct RotatePairFunction : torch::autograd::Function<RotatePairFunction> {
  static variable_list forward(AutogradContext* ctx, const Variable& a, const Variable& b,
                               const weights::Rotation* rotation, std::size_t linear,
                               double scaling);
  static variable_list backward(AutogradContext* ctx, const variable_list& grads);
};

}  // namespace qalof::train
