// Hadamard rotation and rotation of adapter pairs as differentiable functions, on the host.
#include "train/torch/rotation_functions.h"

namespace qalof::train {

namespace {

at::Tensor turned(const at::Tensor& x, const kernels::Hadamard& hadamard, std::size_t blocks,
                  bool inverse, ParallelFor& parallel) {
  const at::Tensor source = x.contiguous();
  at::Tensor y = at::empty_like(source);
  const auto rows = static_cast<std::size_t>(y.size(0)), cols = static_cast<std::size_t>(y.size(1));
  const float* from = source.const_data_ptr<float>();
  float* values = y.mutable_data_ptr<float>();
  if (inverse) {
    hadamard.invert(values, rows, cols, blocks, parallel, from);
  } else {
    hadamard.apply(values, rows, cols, blocks, parallel, from);
  }
  return y;
}

// Pairs are mapped on the host on every device, because they are small.
at::Tensor on_host(const at::Tensor& x) { return x.to(at::kCPU, at::kFloat).contiguous(); }

}  // namespace

Variable HadamardFunction::forward(AutogradContext* ctx, const Variable& x,
                                   const HadamardArguments& arguments) {
  save_pointer(ctx, "hadamard", arguments.hadamard);
  save_pointer(ctx, "parallel", arguments.parallel);
  ctx->saved_data["blocks"] = static_cast<std::int64_t>(arguments.blocks);
  ctx->saved_data["inverse"] = arguments.inverse;
  return turned(x, *arguments.hadamard, arguments.blocks, arguments.inverse, *arguments.parallel);
}

variable_list HadamardFunction::backward(AutogradContext* ctx, const variable_list& grads) {
  const auto blocks = static_cast<std::size_t>(ctx->saved_data["blocks"].toInt());
  return {
      turned(grads[0], *saved_pointer<const kernels::Hadamard>(ctx, "hadamard"), blocks,
             !ctx->saved_data["inverse"].toBool(), *saved_pointer<ParallelFor>(ctx, "parallel")),
      at::Tensor()};
}

variable_list RotatePairFunction::forward(AutogradContext* ctx, const Variable& a,
                                          const Variable& b, const weights::Rotation* rotation,
                                          std::size_t linear, double scaling) {
  const at::Tensor host_a = on_host(a), host_b = on_host(b);
  const weights::RotatedPair pair =
      rotation->rotate_pair(linear, host_a.const_data_ptr<float>(), host_b.const_data_ptr<float>(),
                            static_cast<std::size_t>(a.size(0)), static_cast<float>(scaling));
  const at::Tensor rotated_b = to_tensor(pair.b, b.sizes().vec());
  ctx->save_for_backward({host_a, rotated_b});
  save_pointer(ctx, "rotation", rotation);
  ctx->saved_data["linear"] = static_cast<std::int64_t>(linear);
  ctx->saved_data["scaling"] = scaling;
  const auto options = a.options().requires_grad(false);
  const at::Tensor bias = to_tensor(pair.bias, {static_cast<std::int64_t>(pair.bias.size())});
  return {to_tensor(pair.a, a.sizes().vec()).to(options), rotated_b.to(options), bias.to(options)};
}

variable_list RotatePairFunction::backward(AutogradContext* ctx, const variable_list& grads) {
  const variable_list saved = ctx->get_saved_variables();
  const at::Tensor &a = saved[0], &rotated_b = saved[1];
  at::Tensor da = on_host(grads[0]).clone();
  at::Tensor db = on_host(grads[1]).clone();
  const at::Tensor dbias = on_host(grads[2]);
  saved_pointer<const weights::Rotation>(ctx, "rotation")
      ->rotate_pair_backward(
          static_cast<std::size_t>(ctx->saved_data["linear"].toInt()), a.const_data_ptr<float>(),
          rotated_b.const_data_ptr<float>(), static_cast<std::size_t>(a.size(0)),
          static_cast<float>(ctx->saved_data["scaling"].toDouble()), dbias.const_data_ptr<float>(),
          da.mutable_data_ptr<float>(), db.mutable_data_ptr<float>());
  const auto options = grads[0].options();
  return {da.to(options), db.to(options), at::Tensor(), at::Tensor(), at::Tensor()};
}

}  // namespace qalof::train
