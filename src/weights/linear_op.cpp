// Runs one linear: quantizes or rounds the rows, multiplies, and adds bias, outliers and LoRA.
#include "weights/linear_op.h"

#include <cmath>

#include "kernels/hadamard.h"
#include "kernels/ops.h"
#include "kernels/quantize.h"

namespace qalof::weights {

namespace {

// Grows only, so that a decoder's steady state allocates nothing.
template <typename T>
T* at_least(std::vector<T>& buffer, std::size_t count) {
  if (buffer.size() < count) buffer.resize(count);
  return buffer.data();
}

const float* without_outliers(const float* x, std::size_t count, float threshold,
                              LinearWorkspace& workspace) {
  float* inliers = at_least(workspace.inliers, count);
  for (std::size_t i = 0; i < count; ++i) inliers[i] = std::fabs(x[i]) >= threshold ? 0.0F : x[i];
  return inliers;
}

kernels::Gate gate_of(kernels::RowInput::Op op) {
  using Op = kernels::RowInput::Op;
  return op == Op::kSwiGlu      ? kernels::Gate::kSilu
         : op == Op::kGeGluTanh ? kernels::Gate::kGeluTanh
                                : kernels::Gate::kGeluErf;
}

// y += scaling * (x A^T) B^T.
void add_lora(const LinearCall& call, const float* x, std::size_t m, float* y,
              LinearWorkspace& workspace, ParallelFor& parallel) {
  if (call.lora == nullptr) return;
  const LoraView& lora = *call.lora;
  float* low_rank = at_least(workspace.low_rank, m * lora.a.n);
  kernels::gemm_f32(x, m, call.weight.k, lora.a, 1.0F, nullptr, kernels::Accumulate::kStore,
                    low_rank, parallel);
  kernels::gemm_f32(low_rank, m, lora.a.n, lora.b, lora.scaling, nullptr, kernels::Accumulate::kAdd,
                    y, parallel);
}

// Bitwise the result of rounding to bf16, multiplying, then add_lora.
void multiply_bf16(const LinearCall& call, const float* x, std::size_t m, float* y,
                   LinearWorkspace& workspace, ParallelFor& parallel) {
  if (call.lora == nullptr)
    return kernels::gemm_bf16(x, m, nullptr, call.weight, call.bias, y, parallel);
  const LoraView& lora = *call.lora;
  const kernels::LowRankInput input = {lora.a, at_least(workspace.low_rank, m * lora.a.n)};
  const kernels::LowRankSum sum = {input.inner, lora.b, lora.scaling};
  kernels::gemm_bf16(x, m, nullptr, call.weight, call.bias, y, parallel, &sum, &input);
}

}  // namespace

kernels::WeightFormat code_format(int bits) {
  switch (bits) {
    case 2:
      return kernels::WeightFormat::kInt2;
    case 3:
      return kernels::WeightFormat::kInt3;
    case 4:
      return kernels::WeightFormat::kInt4;
    default:
      return kernels::WeightFormat::kInt8;
  }
}

kernels::WeightFormat weight_format(quant::Precision precision, quant::QuantScheme scheme) {
  if (!precision.weight.is_integer()) {
    return precision.weight.bits == 16 ? kernels::WeightFormat::kBf16 : kernels::WeightFormat::kF32;
  }
  if (scheme.is_codebook()) {
    return precision.activation.bits == 16 ? kernels::WeightFormat::kBf16
                                           : kernels::WeightFormat::kF32;
  }
  // Codes are small integers and exact as floats: float activations are multiplied with the codes
  // and the product with the scale.
  if (!precision.activation.is_integer()) return kernels::WeightFormat::kF32;
  return code_format(precision.weight.bits);
}

kernels::RowRange activation_range(const quant::QuantScheme& scheme) {
  return {scheme.activation_group, scheme.activation_asymmetric};
}

void run_linear(const LinearCall& call, const float* x, std::size_t m, float* y,
                LinearWorkspace& workspace, ParallelFor& parallel) {
  const kernels::PackedMatrix& w = call.weight;
  if (call.precision.activation.is_integer()) {
    std::int8_t* codes = at_least(workspace.codes, m * w.k);
    const std::size_t groups = kernels::num_groups(w.k, call.range.group);
    float* scales = at_least(workspace.scales, m * groups);
    const float threshold = call.outlier_threshold;
    const float* inliers = threshold > 0 ? without_outliers(x, m * w.k, threshold, workspace) : x;
    kernels::quantize_rows(inliers, m, w.k, call.precision.activation.bits, call.range, codes,
                           scales, parallel);
    kernels::gemm_int(codes, scales, m, w, call.bias, y, parallel, nullptr,
                      /*x_groups=*/call.range.group != 0);
    if (threshold > 0) kernels::add_outliers(x, m, threshold, w, y, parallel);
  } else if (w.format == kernels::WeightFormat::kBf16 && call.precision.activation.bits == 16) {
    return multiply_bf16(call, x, m, y, workspace, parallel);
  } else {
    const float* input = x;
    if (call.precision.activation.bits == 16) {
      float* rounded = at_least(workspace.rounded, m * w.k);
      kernels::round_to_bf16(x, m * w.k, rounded, parallel);
      input = rounded;
    }
    kernels::gemm_f32(input, m, w.k, w, 1.0F, call.bias, kernels::Accumulate::kStore, y, parallel);
  }
  add_lora(call, x, m, y, workspace, parallel);
}

void run_linear(const LinearCall& call, const kernels::RowInput& input, std::size_t m, float* y,
                LinearWorkspace& workspace, ParallelFor& parallel) {
  using Op = kernels::RowInput::Op;
  const std::size_t k = call.weight.k;
  if (call.precision.activation.is_integer() && call.outlier_threshold == 0) {
    kernels::RowInput rows = input;
    // Only LoRA reads the float rows.
    if (call.lora == nullptr) rows.result = nullptr;
    float* low_rank =
        call.lora == nullptr ? nullptr : at_least(workspace.low_rank, m * call.lora->a.n);
    kernels::quantize_gemm_int(rows, call.precision.activation.bits, m, call.weight, call.bias,
                               call.lora, low_rank, y, parallel, call.range);
    return;
  }
  switch (input.op) {
    case Op::kNone:
      return run_linear(call, input.x, m, y, workspace, parallel);
    case Op::kLayerNorm:
      kernels::layer_norm(input.x, m, k, input.gamma, input.beta, input.eps, input.result, nullptr,
                          parallel);
      break;
    case Op::kGeluTanh:
      kernels::gelu_new(input.x, m * k, input.result, parallel);
      break;
    case Op::kGeluErf:
      kernels::gelu_erf(input.x, m * k, input.result, parallel);
      break;
    case Op::kRmsNorm:
      kernels::rms_norm(input.x, m, k, input.gamma, input.eps, input.result, nullptr, parallel);
      break;
    case Op::kSwiGlu:
    case Op::kGeGluTanh:
    case Op::kGeGluErf:
      kernels::gate_rows(gate_of(input.op), input.x, input.up, m, k,
                         input.stride != 0 ? input.stride : k, input.result, parallel);
      break;
  }
  if (input.hadamard != nullptr) input.hadamard->apply(input.result, m, k, 1, parallel);
  run_linear(call, input.result, m, y, workspace, parallel);
}

}  // namespace qalof::weights
