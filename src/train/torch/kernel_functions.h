// Autograd functions over the runtime's kernels, one per operation of the decoder. Forward passes
// call what the runtime calls; backward passes follow docs/numerics.md.
#pragma once

#include <cstdint>

#include <torch/csrc/autograd/custom_function.h>

#include "train/gradient_gemm.h"
#include "train/torch/graph.h"
#include "weights/adapter_weights.h"
#include "weights/linear_op.h"

namespace qalof::train {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

/// Buffers and settings shared by the functions of one graph. Must outlive every autograd graph
/// made with it.
struct KernelResources {
  const model::ModelConfig* config = nullptr;
  ParallelFor* parallel = nullptr;
  GradientGemm gemm;
  weights::LinearWorkspace linear;

  KernelResources(const model::ModelConfig& model_config, ParallelFor& parallel_for)
      : config(&model_config), parallel(&parallel_for), gemm(parallel_for) {}
  std::vector<float> a_panels, b_panels;
  GradientPrecision gradient;
  std::uint64_t step = 0;
  std::uint64_t rounding_calls =
      0;  // backward products of the micro-batch, each with its own stream
  std::vector<std::int8_t> gradient_codes;
  std::vector<float> gradient_scales;
  LinearObserver observe_linear;
};

/// Saves a pointer in saved_data, as an integer.
template <typename T>
void save_pointer(AutogradContext* ctx, const char* name, const T* pointer) {
  ctx->saved_data[name] = static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(pointer));
}
template <typename T>
T* saved_pointer(AutogradContext* ctx, const char* name) {
  return reinterpret_cast<T*>(static_cast<std::intptr_t>(ctx->saved_data[name].toInt()));
}

/// An empty tensor that means "absent" in functions with a fixed number of tensor arguments.
at::Tensor no_tensor();
/// A view of a dense f32 CPU tensor [rows, cols].
MatrixView matrix(const at::Tensor& tensor);
inline bool is_given(const at::Tensor& tensor) { return tensor.numel() > 0; }

/// Weights [k, n] packed for dx [m, n] = dy [m, k] W: dequantized values in f32 or bf16, or codes,
/// whose scales are then applied to dy's columns.
struct BackwardWeights {
  kernels::PackedMatrix matrix;  // [n, k]; without panels until made
  std::vector<std::byte> owned;  // what matrix points to, unless that is shared by processes
  std::vector<float> dy_scales;  // [k] or empty
  std::vector<float> ones;       // [n], the scales of an integer product
};

/// dx = dy W, plus sum where that is not null. input, where not null, is a low-rank product of dy
/// that is computed first. Not thread-safe.
void multiply_gradient(const MatrixView& dy, const BackwardWeights& weights,
                       struct KernelResources& resources, float* dx,
                       const kernels::LowRankSum* sum = nullptr,
                       const kernels::LowRankInput* input = nullptr);

/// Floats and learned values that codes are made from, for a linear whose weights an adapter owns.
struct OwnCodes {
  const std::vector<float>* base = nullptr;  // [out, in], without a merged adapter
  weights::LearnedLinear values;             // of this step; no steps: the scheme's scales
  std::shared_ptr<const QuantizerStart> start;
};

/// The values that a linear's weights are multiplied with, [tokens, in]: x itself, x rounded to
/// bfloat16, or x quantized and dequantized, by call's precision.
at::Tensor quantized_input(const at::Tensor& x, const weights::LinearCall& call,
                           KernelResources& resources);

/// One linear at one precision. Lives as long as its graph.
struct KernelLinear {
  weights::LinearCall call;                   // without LoRA
  const BackwardWeights* backward = nullptr;  // dx = dy * backward
  OwnCodes own;
};

struct LinearArguments {
  std::size_t index = 0;
  const KernelLinear* linear = nullptr;
  double lora_scaling = 1;
  bool merged = false;  // the product of a and b is part of the weights
  double ste_clip = 0;
  KernelResources* resources = nullptr;
};

/// A linear: x [tokens, in] -> [tokens, out]. a, b: LoRA pair; weight: given where the base trains;
/// bias: given where it depends on parameters, else the call's is added; steps, clip: offsets of
/// learned values (QuantizerParams). Absent ones are no_tensor().
struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& a,
                          const Variable& b, const Variable& weight, const Variable& bias,
                          const Variable& steps, const Variable& clip,
                          const LinearArguments& arguments);
  static variable_list backward(AutogradContext* ctx, const variable_list& dy);
};

/// Layer norm; RMS norm where beta is no_tensor().
struct LayerNormFunction : torch::autograd::Function<LayerNormFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& gamma,
                          const Variable& beta, KernelResources* resources);
  static variable_list backward(AutogradContext* ctx, const variable_list& dy);
};

/// Returns {x + added, norm(x + added)}.
struct AddNormFunction : torch::autograd::Function<AddNormFunction> {
  static variable_list forward(AutogradContext* ctx, const Variable& x, const Variable& added,
                               const Variable& gamma, const Variable& beta,
                               KernelResources* resources);
  static variable_list backward(AutogradContext* ctx, const variable_list& grads);
};

struct AttentionArguments {
  std::size_t layer = 0;
  const std::vector<int>* k_bits = nullptr;  // [kv head]
  const std::vector<int>* v_bits = nullptr;
  double ste_clip = 0;
  KernelResources* resources = nullptr;
};

/// Causal attention: qkv [tokens, qkv_width] -> [tokens, q_width]; offsets is an int64 CPU
/// tensor [windows + 1]. Without a mask (ste_clip 0), K and V are rounded in qkv itself, which
/// nothing else may read.
struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& qkv, const at::Tensor& offsets,
                          const AttentionArguments& arguments);
  static variable_list backward(AutogradContext* ctx, const variable_list& dy);
};

/// The config's variant of GELU; not for gated activations.
struct GeluFunction : torch::autograd::Function<GeluFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& x, KernelResources* resources);
  static variable_list backward(AutogradContext* ctx, const variable_list& dy);
};

/// The config's gated activation: activation(gate) * up, both [tokens, inner] and dense.
struct GatedFunction : torch::autograd::Function<GatedFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& gate, const Variable& up,
                          KernelResources* resources);
  static variable_list backward(AutogradContext* ctx, const variable_list& dy);
};

/// RMS norms of the heads of q and k in qkv [tokens, qkv_width], with gains [head_dim].
struct QkNormFunction : torch::autograd::Function<QkNormFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& qkv, const Variable& q_gain,
                          const Variable& k_gain, KernelResources* resources);
  static variable_list backward(AutogradContext* ctx, const variable_list& dy);
};

/// Rotary positions of q and k in qkv [tokens, qkv_width]; angles [tokens, 2 * pairs] is a table of
/// kernels::rotary_table.
struct RotaryFunction : torch::autograd::Function<RotaryFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& qkv, const at::Tensor& angles,
                          KernelResources* resources);
  static variable_list backward(AutogradContext* ctx, const variable_list& dy);
};

/// Sum of token embedding times the config's scale and, where wpe is given, position embedding,
/// both rounded to bf16 first where bits is 16; ids and positions are int64 CPU tensors. For a
/// trainable base.
struct EmbedFunction : torch::autograd::Function<EmbedFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& wte, const Variable& wpe,
                          const at::Tensor& ids, const at::Tensor& positions, int bits,
                          KernelResources* resources);
  static variable_list backward(AutogradContext* ctx, const variable_list& dy);
};

/// Logits [rows, outputs] of the runtime's head on hidden [rows, hidden].
struct HeadFunction : torch::autograd::Function<HeadFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& hidden, const Variable& weight,
                          const Variable& bias, KernelResources* resources);
  static variable_list backward(AutogradContext* ctx, const variable_list& dy);
};

}  // namespace qalof::train
