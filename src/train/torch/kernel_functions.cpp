// Forward and backward passes of the autograd functions, by the kernels the runtime uses.
#include "train/torch/kernel_functions.h"

#include <cmath>

#include "core/random.h"
#include "kernels/learned_quantizer.h"
#include "kernels/ops.h"
#include "kernels/quantize.h"
#include "kernels/stochastic_rounding.h"
#include "runtime/decoder.h"

namespace qalof::train {

namespace {

const float* data(const at::Tensor& tensor) { return tensor.const_data_ptr<float>(); }
float* mutable_data(const at::Tensor& tensor) { return tensor.mutable_data_ptr<float>(); }
std::size_t rows(const at::Tensor& tensor) { return static_cast<std::size_t>(tensor.size(0)); }
std::size_t cols(const at::Tensor& tensor) { return static_cast<std::size_t>(tensor.size(1)); }
std::size_t count(const at::Tensor& tensor) { return static_cast<std::size_t>(tensor.numel()); }

KernelResources& resources_of(AutogradContext* ctx) {
  return *saved_pointer<KernelResources>(ctx, "resources");
}

kernels::PackedMatrix pack(const at::Tensor& matrix, std::vector<float>& panels,
                           ParallelFor& parallel) {
  const std::size_t n = rows(matrix), k = cols(matrix);
  const kernels::WeightFormat format = kernels::f32_format(n);
  const std::size_t size = kernels::packed_matrix_bytes(format, n, k) / sizeof(float);
  if (panels.size() < size) panels.resize(size);
  kernels::pack_f32(data(matrix), n, k, k, /*transposed=*/false, panels.data(), parallel, format);
  return {format, n, k, panels.data(), nullptr, nullptr};
}

// The straight-through mask of the original implementation: gradients are 0 where |x| >= clip.
void mask_clipped(at::Tensor& gradient, const at::Tensor& x, double clip) {
  gradient.masked_fill_(x.abs() >= clip, 0.0);
}

}  // namespace

at::Tensor quantized_input(const at::Tensor& x, const weights::LinearCall& call,
                           KernelResources& resources) {
  const int bits = call.precision.activation.bits;
  if (bits == 32) return x;
  at::Tensor real = at::empty_like(x);
  if (bits == 16) {
    kernels::round_to_bf16(data(x), count(x), mutable_data(real), *resources.parallel);
    return real;
  }
  std::vector<std::int8_t>& codes = resources.linear.codes;
  std::vector<float>& scales = resources.linear.scales;
  if (codes.size() < count(x)) codes.resize(count(x));
  const std::size_t group = call.range.group == 0 ? cols(x) : call.range.group;
  const std::size_t num_scales = rows(x) * kernels::num_groups(cols(x), group);
  if (scales.size() < num_scales) scales.resize(num_scales);
  kernels::quantize_rows(data(x), rows(x), cols(x), bits, call.range, codes.data(), scales.data(),
                         *resources.parallel);
  kernels::dequantize_groups(codes.data(), scales.data(), nullptr, rows(x), cols(x), group,
                             mutable_data(real), *resources.parallel);
  return real;
}

void multiply_gradient(const MatrixView& dy, const BackwardWeights& weights,
                       KernelResources& resources, float* dx, const kernels::LowRankSum* sum,
                       const kernels::LowRankInput* input) {
  const kernels::PackedMatrix& w = weights.matrix;
  const float* dy_scales = weights.dy_scales.empty() ? nullptr : weights.dy_scales.data();
  if (w.format == kernels::WeightFormat::kBf16) {
    return kernels::gemm_bf16(dy.data, dy.rows, dy_scales, w, nullptr, dx, *resources.parallel, sum,
                              input);
  }
  if (input != nullptr)
    resources.gemm.multiply(dy, input->a, 1.0F, kernels::Accumulate::kStore, input->inner);
  if (w.format == kernels::WeightFormat::kF32) {
    resources.gemm.multiply(dy, w, 1.0F, kernels::Accumulate::kStore, dx);
    if (sum != nullptr) {
      resources.gemm.multiply({sum->inner, dy.rows, sum->b.k}, sum->b, sum->scaling,
                              kernels::Accumulate::kAdd, dx);
    }
  } else {
    std::vector<std::int8_t>& codes = resources.gradient_codes;
    std::vector<float>& scales = resources.gradient_scales;
    if (codes.size() < dy.rows * dy.cols) codes.resize(dy.rows * dy.cols);
    if (scales.size() < dy.rows) scales.resize(dy.rows);
    const RandomStream stream(resources.gradient.seed, "gradient rounding");
    const std::uint32_t key = stream.words(resources.step, resources.rounding_calls++)[0];
    kernels::quantize_rows_stochastic(dy.data, dy.rows, dy.cols, dy_scales, key, codes.data(),
                                      scales.data(), *resources.parallel);
    kernels::gemm_int(codes.data(), scales.data(), dy.rows, w, nullptr, dx, *resources.parallel,
                      sum);
  }
}

at::Tensor no_tensor() { return at::empty({0}); }

MatrixView matrix(const at::Tensor& tensor) { return {data(tensor), rows(tensor), cols(tensor)}; }

namespace {

// Gradients of pair and steps where the adapter owns the weights (docs/numerics.md, "Learned
// steps" and "Adapter forms").
struct OwnGradients {
  at::Tensor da, db, dsteps;
};
OwnGradients own_gradients(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& a,
                           const at::Tensor& b, float scaling, const KernelLinear& linear,
                           KernelResources& resources) {
  const std::size_t out = linear.call.weight.n, in = linear.call.weight.k;
  ParallelFor& parallel = *resources.parallel;
  OwnGradients result;
  at::Tensor dw = at::empty({static_cast<std::int64_t>(out), static_cast<std::int64_t>(in)});
  const at::Tensor input = quantized_input(x, linear.call, resources);
  resources.gemm.multiply_transposed(matrix(dy), matrix(input), 1.0F, kernels::Accumulate::kStore,
                                     mutable_data(dw));
  const weights::LearnedLinear& values = linear.own.values;
  if (!values.steps.empty()) {
    std::vector<float> sum;
    const std::vector<float>* weights = linear.own.base;
    if (is_given(a)) {
      sum = *weights;
      weights::add_low_rank(data(a), data(b), rows(a), scaling, out, in, sum.data(), parallel);
      weights = &sum;
    }
    const QuantizerStart& start = *linear.own.start;
    const kernels::StepGrid grid{start.bits, start.scheme.group, values.steps.data(),
                                 values.zeros.empty() ? nullptr : values.zeros.data()};
    result.dsteps = at::empty({static_cast<std::int64_t>(values.steps.size())});
    float* dsteps = mutable_data(result.dsteps);
    kernels::step_gradients(mutable_data(dw), weights->data(), out, in, grid, dsteps, parallel);
    for (std::size_t i = 0; i < values.steps.size(); ++i)
      dsteps[i] *= start.values.steps[i] * start.rate;
  }
  if (!is_given(a)) return result;
  constexpr auto kStore = kernels::Accumulate::kStore;
  result.da = at::empty_like(a);
  result.db = at::empty_like(b);
  resources.gemm.multiply_transposed(matrix(b), matrix(dw), scaling, kStore,
                                     mutable_data(result.da));
  const at::Tensor a_transposed = a.detach().t().contiguous();
  resources.gemm.multiply(matrix(dw), matrix(a_transposed), scaling, kStore,
                          mutable_data(result.db));
  return result;
}

}  // namespace

Variable LinearFunction::forward(AutogradContext* ctx, const Variable& x, const Variable& a,
                                 const Variable& b, const Variable& weight, const Variable& bias,
                                 const Variable& steps, const Variable& clip,
                                 const LinearArguments& arguments) {
  KernelResources& resources = *arguments.resources;
  weights::LinearCall call = arguments.linear->call;
  if (is_given(bias)) call.bias = data(bias);
  const bool has_lora = is_given(a) && !arguments.merged;
  weights::LoraView lora;
  if (has_lora) {
    lora.a = pack(a, resources.a_panels, *resources.parallel);
    lora.b = pack(b, resources.b_panels, *resources.parallel);
    lora.scaling = static_cast<float>(arguments.lora_scaling);
    call.lora = &lora;
  }
  at::Tensor y = at::empty({x.size(0), static_cast<std::int64_t>(call.weight.n)}, x.options());
  weights::run_linear(call, kernels::RowInput{data(x)}, rows(x), mutable_data(y), resources.linear,
                      *resources.parallel);
  at::Tensor low_rank;  // x A^T
  if (has_lora) {
    low_rank = at::empty({x.size(0), a.size(0)}, x.options());
    std::copy_n(resources.linear.low_rank.data(), count(low_rank), mutable_data(low_rank));
  }
  ctx->save_for_backward({x, a, b, weight, low_rank});
  save_pointer(ctx, "linear", arguments.linear);
  ctx->saved_data["index"] = static_cast<std::int64_t>(arguments.index);
  ctx->saved_data["scaling"] = arguments.lora_scaling;
  ctx->saved_data["clip"] = arguments.ste_clip;
  ctx->saved_data["merged"] = arguments.merged;
  ctx->saved_data["learns_clip"] = is_given(clip);
  save_pointer(ctx, "resources", &resources);
  (void)steps;  // an argument for autograd alone: the values are in arguments.linear
  return y;
}

variable_list LinearFunction::backward(AutogradContext* ctx, const variable_list& grads) {
  const variable_list saved = ctx->get_saved_variables();
  const at::Tensor &x = saved[0], &a = saved[1], &b = saved[2], &weight = saved[3];
  const at::Tensor& low_rank = saved[4];
  const at::Tensor dy = grads[0].contiguous();
  KernelResources& resources = resources_of(ctx);
  GradientGemm& gemm = resources.gemm;
  const auto& linear = *saved_pointer<const KernelLinear>(ctx, "linear");
  const double clip = ctx->saved_data["clip"].toDouble();
  const auto scaling = static_cast<float>(ctx->saved_data["scaling"].toDouble());
  const int a_bits = linear.call.precision.activation.bits;
  const int w_bits = linear.call.precision.weight.bits;
  constexpr auto kStore = kernels::Accumulate::kStore;
  at::Tensor dx, da, db, dweight, dbias;
  const bool merged = ctx->saved_data["merged"].toBool();
  const bool learns_clip = ctx->saved_data["learns_clip"].toBool();
  const bool has_branch = is_given(a) && !merged;
  at::Tensor dsteps, dclip;
  at::Tensor dy_b;
  kernels::LowRankInput input;  // dy_b = dy B
  if (has_branch) {
    dy_b = at::empty_like(low_rank);
    input = {pack_right(matrix(b), resources.b_panels, *resources.parallel), mutable_data(dy_b)};
  }
  if (resources.observe_linear) {
    const at::Tensor dinput = at::empty_like(x);
    multiply_gradient(matrix(dy), *linear.backward, resources, mutable_data(dinput));
    resources.observe_linear(static_cast<std::size_t>(ctx->saved_data["index"].toInt()), x, dy,
                             dinput);
  }
  if (ctx->needs_input_grad(0) || learns_clip) {
    dx = at::empty_like(x);
    // The adapter reads the float x, so the mask of x's quantizer must not apply to its gradient.
    const bool masked = learns_clip || (clip > 0 && a_bits <= 8);
    kernels::LowRankSum lora;
    if (has_branch && !masked) {
      lora = {data(dy_b), pack_right(matrix(a), resources.a_panels, *resources.parallel), scaling};
    }
    multiply_gradient(matrix(dy), *linear.backward, resources, mutable_data(dx),
                      lora.inner == nullptr ? nullptr : &lora, has_branch ? &input : nullptr);
    if (learns_clip) {
      const double gradient =
          kernels::clip_gradient(data(x), rows(x), cols(x), a_bits, linear.call.range,
                                 mutable_data(dx), *resources.parallel);
      dclip = at::full({1}, gradient * static_cast<double>(linear.own.start->rate));
    } else if (masked) {
      mask_clipped(dx, x, clip);
    }
    if (masked && has_branch) {
      gemm.multiply(matrix(dy_b), matrix(a), scaling, kernels::Accumulate::kAdd, mutable_data(dx));
    }
  } else if (has_branch) {
    gemm.multiply(matrix(dy), input.a, 1.0F, kStore, input.inner);
  }
  if (ctx->needs_input_grad(5) || (merged && is_given(a) && ctx->needs_input_grad(1))) {
    const at::Tensor none = no_tensor();
    OwnGradients own =
        own_gradients(dy, x, merged ? a : none, merged ? b : none, scaling, linear, resources);
    dsteps = own.dsteps;
    da = own.da;
    db = own.db;
  }
  if (has_branch) {
    if (ctx->needs_input_grad(1)) {
      da = at::empty_like(a);
      gemm.multiply_transposed(matrix(dy_b), matrix(x), scaling, kStore, mutable_data(da));
    }
    if (ctx->needs_input_grad(2)) {
      db = at::empty_like(b);
      gemm.multiply_transposed(matrix(dy), matrix(low_rank), scaling, kStore, mutable_data(db));
    }
  }
  if (ctx->needs_input_grad(3)) {
    dweight = at::empty_like(weight);
    const at::Tensor real = quantized_input(x, linear.call, resources);
    gemm.multiply_transposed(matrix(dy), matrix(real), 1.0F, kStore, mutable_data(dweight));
    if (clip > 0 && w_bits <= 8) mask_clipped(dweight, weight, clip);
  }
  if (ctx->needs_input_grad(4)) dbias = dy.sum(0);
  return {dx, da, db, dweight, dbias, dsteps, dclip, at::Tensor()};
}

namespace {

struct NormGradient {
  at::Tensor dx, dgamma, dbeta;
};

// Backward pass of a norm whose function saved input, gamma and stats; gamma is argument
// gamma_index of that function. skip, the gradient of the residual path, may be undefined.
NormGradient norm_gradient(AutogradContext* ctx, std::size_t gamma_index, const at::Tensor& grad,
                           const at::Tensor& skip) {
  const variable_list saved = ctx->get_saved_variables();
  const at::Tensor &x = saved[0], &gamma = saved[1], &stats = saved[2];
  const at::Tensor dy = grad.defined() ? grad.contiguous() : at::zeros_like(x);
  const at::Tensor beside = skip.defined() ? skip.contiguous() : at::Tensor();
  NormGradient result{at::empty_like(x), {}, {}};
  KernelResources& resources = resources_of(ctx);
  const bool is_rms = ctx->saved_data["is_rms"].toBool();
  if (ctx->needs_input_grad(gamma_index) || ctx->needs_input_grad(gamma_index + 1)) {
    result.dgamma = at::zeros_like(gamma);
    if (!is_rms) result.dbeta = at::zeros_like(gamma);
  }
  const bool trains = result.dgamma.defined();
  if (is_rms) {
    kernels::rms_norm_backward(data(dy), data(x), data(stats), data(gamma), rows(x), cols(x),
                               mutable_data(result.dx),
                               trains ? mutable_data(result.dgamma) : nullptr, *resources.parallel,
                               beside.defined() ? data(beside) : nullptr);
    return result;
  }
  kernels::layer_norm_backward(
      data(dy), data(x), data(stats), data(gamma), rows(x), cols(x), mutable_data(result.dx),
      trains ? mutable_data(result.dgamma) : nullptr, trains ? mutable_data(result.dbeta) : nullptr,
      *resources.parallel, beside.defined() ? data(beside) : nullptr);
  return result;
}

}  // namespace

Variable LayerNormFunction::forward(AutogradContext* ctx, const Variable& x, const Variable& gamma,
                                    const Variable& beta, KernelResources* resources) {
  at::Tensor y = at::empty_like(x), stats = at::empty({x.size(0), 2}, x.options());
  const float eps = resources->config->norm_epsilon;
  const bool is_rms = !is_given(beta);
  if (is_rms) {
    kernels::rms_norm(data(x), rows(x), cols(x), data(gamma), eps, mutable_data(y),
                      mutable_data(stats), *resources->parallel);
  } else {
    kernels::layer_norm(data(x), rows(x), cols(x), data(gamma), data(beta), eps, mutable_data(y),
                        mutable_data(stats), *resources->parallel);
  }
  ctx->save_for_backward({x, gamma, stats});
  ctx->saved_data["is_rms"] = is_rms;
  save_pointer(ctx, "resources", resources);
  return y;
}

variable_list LayerNormFunction::backward(AutogradContext* ctx, const variable_list& grads) {
  const NormGradient gradient = norm_gradient(ctx, 1, grads[0], at::Tensor());
  return {gradient.dx, gradient.dgamma, gradient.dbeta, at::Tensor()};
}

variable_list AddNormFunction::forward(AutogradContext* ctx, const Variable& x,
                                       const Variable& added, const Variable& gamma,
                                       const Variable& beta, KernelResources* resources) {
  at::Tensor sum = at::empty_like(x), y = at::empty_like(x);
  at::Tensor stats = at::empty({x.size(0), 2}, x.options());
  const float eps = resources->config->norm_epsilon;
  const bool is_rms = !is_given(beta);
  if (is_rms) {
    kernels::add_rms_norm(data(x), data(added), rows(x), cols(x), data(gamma), eps,
                          mutable_data(sum), mutable_data(y), mutable_data(stats),
                          *resources->parallel);
  } else {
    kernels::add_layer_norm(data(x), data(added), rows(x), cols(x), data(gamma), data(beta), eps,
                            mutable_data(sum), mutable_data(y), mutable_data(stats),
                            *resources->parallel);
  }
  ctx->save_for_backward({sum, gamma, stats});
  ctx->saved_data["is_rms"] = is_rms;
  ctx->set_materialize_grads(false);
  save_pointer(ctx, "resources", resources);
  return {sum, y};
}

variable_list AddNormFunction::backward(AutogradContext* ctx, const variable_list& grads) {
  const NormGradient gradient = norm_gradient(ctx, 2, grads[1], grads[0]);
  return {gradient.dx, gradient.dx, gradient.dgamma, gradient.dbeta, at::Tensor()};
}

namespace {

struct AttentionLayout {
  kernels::AttentionShape shape;
  std::vector<kernels::AttentionSequence> sequences;
  std::vector<kernels::StoredKv> heads;  // [sequences][k, v][kv_heads] where codes are multiplied

  // Has the sequences read the codes of K and V, which begin at rows offsets.
  void multiply_codes(const model::ModelConfig& config, const runtime::KvRows& k,
                      const runtime::KvRows& v, const at::Tensor& offsets) {
    const std::size_t kv_heads = config.num_kv_heads;
    heads.resize(sequences.size() * 2 * kv_heads);
    kernels::StoredKv* at = heads.data();
    const auto stored = [&](runtime::KvRows rows, std::size_t row) {
      rows.codes += row * config.kv_width();
      rows.scales += row * kv_heads;
      const kernels::StoredKv* found = runtime::stored_heads(rows, config, at);
      at += kv_heads;
      return found;
    };
    for (std::size_t w = 0; w < sequences.size(); ++w) {
      const auto row = static_cast<std::size_t>(offsets.const_data_ptr<std::int64_t>()[w]);
      sequences[w].stored_k = stored(k, row);
      sequences[w].stored_v = stored(v, row);
      sequences[w].multiplies_codes = true;
    }
  }
};

// qkv holds the rounded K and V.
AttentionLayout attention_layout(const model::ModelConfig& config, const at::Tensor& offsets,
                                 std::size_t layer, const at::Tensor& qkv, const at::Tensor& out,
                                 const at::Tensor& log_sum_exp) {
  const std::size_t kv_width = config.kv_width();
  AttentionLayout layout;
  layout.shape = {config.num_heads,
                  config.num_kv_heads,
                  config.head_dim(),
                  cols(qkv),
                  cols(qkv),
                  cols(qkv),
                  config.q_width(),
                  config.score_scale(layer),
                  config.window(layer),
                  config.score_cap};
  const auto bounds = offsets.const_data_ptr<std::int64_t>();
  for (std::int64_t w = 0; w + 1 < offsets.numel(); ++w) {
    const auto row = static_cast<std::size_t>(bounds[w]);
    kernels::AttentionSequence sequence{};
    sequence.q = data(qkv) + row * cols(qkv);
    sequence.k = sequence.q + config.q_width();
    sequence.v = sequence.k + kv_width;
    sequence.out = mutable_data(out) + row * cols(out);
    sequence.log_sum_exp = mutable_data(log_sum_exp) + row * cols(log_sum_exp);
    sequence.q_len = static_cast<std::size_t>(bounds[w + 1] - bounds[w]);
    layout.sequences.push_back(sequence);
  }
  return layout;
}

}  // namespace

Variable AttentionFunction::forward(AutogradContext* ctx, const Variable& qkv,
                                    const at::Tensor& offsets,
                                    const AttentionArguments& arguments) {
  KernelResources& resources = *arguments.resources;
  const model::ModelConfig& config = *resources.config;
  const std::size_t kv_width = config.kv_width();
  const auto heads = static_cast<std::int64_t>(config.num_heads);
  at::Tensor out =
      at::empty({qkv.size(0), static_cast<std::int64_t>(config.q_width())}, qkv.options());
  at::Tensor log_sum_exp = at::empty({qkv.size(0), heads}, qkv.options());
  // K and V are rounded in place, since nothing else reads qkv; the mask needs the values before
  // rounding, hence the copy.
  const at::Tensor rounded = arguments.ste_clip > 0 ? qkv.clone() : qkv;
  float* k = mutable_data(rounded) + config.q_width();
  AttentionLayout layout =
      attention_layout(config, offsets, arguments.layer, rounded, out, log_sum_exp);
  runtime::KvRows k_rows{k, cols(rounded)}, v_rows{k + kv_width, cols(rounded)};
  at::Tensor codes, scales;  // [k, v][tokens], where the runtime multiplies codes, too
  if (runtime::multiplies_codes(layout.shape, *arguments.k_bits, *arguments.v_bits)) {
    codes = at::empty({2, qkv.size(0), static_cast<std::int64_t>(kv_width)},
                      qkv.options().dtype(at::kChar));
    scales =
        at::empty({2, qkv.size(0), static_cast<std::int64_t>(config.num_kv_heads)}, qkv.options());
    const auto attach = [&](runtime::KvRows& to, std::int64_t which) {
      to.codes = codes[which].mutable_data_ptr<std::int8_t>();
      to.scales = mutable_data(scales[which]);
    };
    attach(k_rows, 0);
    attach(v_rows, 1);
    layout.multiply_codes(config, k_rows, v_rows, offsets);
  }
  const auto round = [&](const runtime::KvRows& values, const std::vector<int>& bits) {
    runtime::quantize_kv(values, rows(rounded), config, bits, runtime::KvScheme::kToken,
                         *resources.parallel);
  };
  round(k_rows, *arguments.k_bits);
  round(v_rows, *arguments.v_bits);
  kernels::attention(layout.shape, layout.sequences.data(), layout.sequences.size(),
                     *resources.parallel);
  ctx->save_for_backward({qkv, offsets, rounded, out, log_sum_exp});
  ctx->saved_data["clip"] = arguments.ste_clip;
  ctx->saved_data["layer"] = static_cast<std::int64_t>(arguments.layer);
  save_pointer(ctx, "k_bits", arguments.k_bits);
  save_pointer(ctx, "v_bits", arguments.v_bits);
  save_pointer(ctx, "resources", &resources);
  return out;
}

variable_list AttentionFunction::backward(AutogradContext* ctx, const variable_list& grads) {
  const variable_list saved = ctx->get_saved_variables();
  const at::Tensor &qkv = saved[0], &offsets = saved[1], &rounded = saved[2];
  const at::Tensor &out = saved[3], &log_sum_exp = saved[4];
  KernelResources& resources = resources_of(ctx);
  const model::ModelConfig& config = *resources.config;
  const std::size_t q_width = config.q_width(), kv_width = config.kv_width();
  const auto layer = static_cast<std::size_t>(ctx->saved_data["layer"].toInt());
  const at::Tensor dout = grads[0].contiguous();
  at::Tensor dqkv = at::empty_like(qkv);
  const AttentionLayout layout =
      attention_layout(config, offsets, layer, rounded, out, log_sum_exp);
  std::vector<kernels::AttentionGradient> gradients;
  const auto bounds = offsets.const_data_ptr<std::int64_t>();
  for (std::size_t w = 0; w < layout.sequences.size(); ++w) {
    const auto row = static_cast<std::size_t>(bounds[w]);
    float* dq = mutable_data(dqkv) + row * cols(dqkv);
    gradients.push_back({data(dout) + row * cols(dout), dq, dq + q_width, dq + q_width + kv_width});
  }
  kernels::attention_backward(layout.shape, layout.sequences.data(), gradients.data(),
                              layout.sequences.size(), *resources.parallel);
  if (const double clip = ctx->saved_data["clip"].toDouble(); clip > 0) {
    const auto head_dim = static_cast<std::int64_t>(config.head_dim());
    auto mask = [&](const char* name, std::size_t first) {
      const std::vector<int>& bits = *saved_pointer<const std::vector<int>>(ctx, name);
      for (std::size_t h = 0; h < bits.size(); ++h) {
        if (bits[h] > 8) continue;
        const std::int64_t column = static_cast<std::int64_t>(first + h * config.head_dim());
        at::Tensor gradient = dqkv.narrow(1, column, head_dim);
        mask_clipped(gradient, qkv.narrow(1, column, head_dim), clip);
      }
    };
    mask("k_bits", q_width);
    mask("v_bits", q_width + kv_width);
  }
  return {dqkv, at::Tensor(), at::Tensor()};
}

namespace {

bool has_exact_gelu(const KernelResources& resources) {
  return resources.config->activation == model::Activation::kGeluErf;
}

}  // namespace

Variable GeluFunction::forward(AutogradContext* ctx, const Variable& x,
                               KernelResources* resources) {
  at::Tensor y = at::empty_like(x);
  const auto gelu = has_exact_gelu(*resources) ? kernels::gelu_erf : kernels::gelu_new;
  gelu(data(x), count(x), mutable_data(y), *resources->parallel);
  ctx->save_for_backward({x});
  save_pointer(ctx, "resources", resources);
  return y;
}

variable_list GeluFunction::backward(AutogradContext* ctx, const variable_list& grads) {
  const at::Tensor x = ctx->get_saved_variables()[0];
  const at::Tensor dy = grads[0].contiguous();
  at::Tensor dx = at::empty_like(x);
  const KernelResources& resources = resources_of(ctx);
  const auto gelu_backward =
      has_exact_gelu(resources) ? kernels::gelu_erf_backward : kernels::gelu_new_backward;
  gelu_backward(data(dy), data(x), count(x), mutable_data(dx), *resources.parallel);
  return {dx, at::Tensor()};
}

namespace {

kernels::Gate gate_of(const KernelResources& resources) {
  switch (resources.config->activation) {
    case model::Activation::kGeGluTanh:
      return kernels::Gate::kGeluTanh;
    case model::Activation::kGeGluErf:
      return kernels::Gate::kGeluErf;
    default:
      return kernels::Gate::kSilu;
  }
}

}  // namespace

Variable GatedFunction::forward(AutogradContext* ctx, const Variable& gate, const Variable& up,
                                KernelResources* resources) {
  at::Tensor y = at::empty_like(gate);
  kernels::gate_rows(gate_of(*resources), data(gate), data(up), rows(gate), cols(gate), cols(gate),
                     mutable_data(y), *resources->parallel);
  ctx->save_for_backward({gate, up});
  save_pointer(ctx, "resources", resources);
  return y;
}

variable_list GatedFunction::backward(AutogradContext* ctx, const variable_list& grads) {
  const variable_list saved = ctx->get_saved_variables();
  const at::Tensor dy = grads[0].contiguous();
  at::Tensor dgate = at::empty_like(dy), dup = at::empty_like(dy);
  const KernelResources& resources = resources_of(ctx);
  kernels::gate_backward(gate_of(resources), data(dy), data(saved[0]), data(saved[1]), count(dy),
                         mutable_data(dgate), mutable_data(dup), *resources.parallel);
  return {dgate, dup, at::Tensor()};
}

Variable QkNormFunction::forward(AutogradContext* ctx, const Variable& qkv, const Variable& q_gain,
                                 const Variable& k_gain, KernelResources* resources) {
  const model::ModelConfig& config = *resources->config;
  at::Tensor y = qkv.detach().clone();
  const auto norm = [&](std::size_t first, std::size_t heads, const at::Tensor& gain) {
    at::Tensor stats = at::empty({y.size(0), static_cast<std::int64_t>(2 * heads)}, y.options());
    kernels::norm_heads(data(qkv) + first, rows(y), cols(y), heads, config.head_dim(), data(gain),
                        config.norm_epsilon, mutable_data(y) + first, mutable_data(stats),
                        *resources->parallel);
    return stats;
  };
  const at::Tensor q_stats = norm(0, config.num_heads, q_gain);
  const at::Tensor k_stats = norm(config.q_width(), config.num_kv_heads, k_gain);
  ctx->save_for_backward({qkv, q_gain, k_gain, q_stats, k_stats});
  save_pointer(ctx, "resources", resources);
  return y;
}

variable_list QkNormFunction::backward(AutogradContext* ctx, const variable_list& grads) {
  const variable_list saved = ctx->get_saved_variables();
  const KernelResources& resources = resources_of(ctx);
  const model::ModelConfig& config = *resources.config;
  at::Tensor dqkv = grads[0].contiguous().clone();
  const auto norm = [&](std::size_t first, std::size_t heads, std::size_t index) {
    at::Tensor dgain = ctx->needs_input_grad(index) ? at::zeros_like(saved[index]) : at::Tensor();
    kernels::norm_heads_backward(
        mutable_data(dqkv) + first, data(saved[0]) + first, data(saved[index + 2]),
        data(saved[index]), rows(dqkv), cols(dqkv), heads, config.head_dim(),
        dgain.defined() ? mutable_data(dgain) : nullptr, *resources.parallel);
    return dgain;
  };
  const at::Tensor dq_gain = norm(0, config.num_heads, 1);
  const at::Tensor dk_gain = norm(config.q_width(), config.num_kv_heads, 2);
  return {dqkv, dq_gain, dk_gain, at::Tensor()};
}

namespace {

// Turns q and k in rows of qkv, or turns them back, by the angles.
template <typename Turn>
void turn_qk(const Turn& turn, const at::Tensor& qkv, const at::Tensor& angles,
             const KernelResources& resources) {
  const model::ModelConfig& config = *resources.config;
  float* q = mutable_data(qkv);
  const std::size_t dim = config.head_dim(), half = cols(angles) / 2;
  turn(q, rows(qkv), cols(qkv), kernels::RotaryHeads{config.num_heads, dim, half}, data(angles),
       *resources.parallel);
  turn(q + config.q_width(), rows(qkv), cols(qkv),
       kernels::RotaryHeads{config.num_kv_heads, dim, half}, data(angles), *resources.parallel);
}

}  // namespace

Variable RotaryFunction::forward(AutogradContext* ctx, const Variable& qkv,
                                 const at::Tensor& angles, KernelResources* resources) {
  const at::Tensor y = qkv.detach().clone();
  turn_qk(kernels::rotate, y, angles, *resources);
  ctx->save_for_backward({angles});
  save_pointer(ctx, "resources", resources);
  return y;
}

variable_list RotaryFunction::backward(AutogradContext* ctx, const variable_list& grads) {
  const at::Tensor dqkv = grads[0].contiguous().clone();
  turn_qk(kernels::rotate_backward, dqkv, ctx->get_saved_variables()[0], resources_of(ctx));
  return {dqkv, at::Tensor(), at::Tensor()};
}

Variable EmbedFunction::forward(AutogradContext* ctx, const Variable& wte, const Variable& wpe,
                                const at::Tensor& ids, const at::Tensor& positions, int bits,
                                KernelResources* resources) {
  const std::size_t tokens = count(ids), hidden = cols(wte);
  at::Tensor out = at::empty({ids.numel(), wte.size(1)}, wte.options());
  const auto id = ids.const_data_ptr<std::int64_t>();
  const auto position = positions.const_data_ptr<std::int64_t>();
  std::vector<float> position_row(hidden);
  const float scale = resources->config->embedding_scale;
  SerialFor serial;
  for (std::size_t t = 0; t < tokens; ++t) {
    float* row = mutable_data(out) + t * hidden;
    std::copy_n(data(wte) + static_cast<std::size_t>(id[t]) * hidden, hidden, row);
    if (bits < 32) kernels::round_to_bf16(row, hidden, row, serial);
    if (scale != 1) {
      for (std::size_t i = 0; i < hidden; ++i) row[i] *= scale;
    }
    if (!is_given(wpe)) continue;
    std::copy_n(data(wpe) + static_cast<std::size_t>(position[t]) * hidden, hidden,
                position_row.data());
    if (bits < 32) kernels::round_to_bf16(position_row.data(), hidden, position_row.data(), serial);
    for (std::size_t i = 0; i < hidden; ++i) row[i] += position_row[i];
  }
  ctx->save_for_backward({wte, wpe, ids, positions});
  save_pointer(ctx, "resources", resources);
  return out;
}

variable_list EmbedFunction::backward(AutogradContext* ctx, const variable_list& grads) {
  const variable_list saved = ctx->get_saved_variables();
  const at::Tensor dy = grads[0].contiguous();
  at::Tensor dwte = at::zeros_like(saved[0]), dwpe = at::zeros_like(saved[1]);
  const auto id = saved[2].const_data_ptr<std::int64_t>();
  const auto position = saved[3].const_data_ptr<std::int64_t>();
  const std::size_t hidden = cols(dy);
  const float scale = resources_of(ctx).config->embedding_scale;
  // Serial, in order of tokens, so that sums do not depend on the number of threads.
  for (std::size_t t = 0; t < rows(dy); ++t) {
    const float* src = data(dy) + t * hidden;
    float* token = mutable_data(dwte) + static_cast<std::size_t>(id[t]) * hidden;
    for (std::size_t i = 0; i < hidden; ++i) token[i] += scale * src[i];
    if (!is_given(dwpe)) continue;
    float* place = mutable_data(dwpe) + static_cast<std::size_t>(position[t]) * hidden;
    for (std::size_t i = 0; i < hidden; ++i) place[i] += src[i];
  }
  return {dwte, dwpe, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
}

Variable HeadFunction::forward(AutogradContext* ctx, const Variable& hidden, const Variable& weight,
                               const Variable& bias, KernelResources* resources) {
  weights::Head head;
  head.outputs = rows(weight);
  head.weight.assign(data(weight), data(weight) + count(weight));
  if (is_given(bias)) head.bias.assign(data(bias), data(bias) + count(bias));
  at::Tensor logits = at::empty({hidden.size(0), weight.size(0)}, hidden.options());
  runtime::apply_head(head, data(hidden), rows(hidden), cols(hidden), mutable_data(logits),
                      *resources->parallel);
  ctx->save_for_backward({hidden, weight});
  ctx->saved_data["has_bias"] = is_given(bias);
  save_pointer(ctx, "resources", resources);
  return logits;
}

variable_list HeadFunction::backward(AutogradContext* ctx, const variable_list& grads) {
  const variable_list saved = ctx->get_saved_variables();
  const at::Tensor &hidden = saved[0], &weight = saved[1];
  const at::Tensor dy = grads[0].contiguous();
  GradientGemm& gemm = resources_of(ctx).gemm;
  constexpr auto kStore = kernels::Accumulate::kStore;
  at::Tensor dhidden = at::empty_like(hidden), dweight = at::empty_like(weight);
  gemm.multiply(matrix(dy), matrix(weight), 1.0F, kStore, mutable_data(dhidden));
  gemm.multiply_transposed(matrix(dy), matrix(hidden), 1.0F, kStore, mutable_data(dweight));
  const bool has_bias = ctx->saved_data["has_bias"].toBool();
  return {dhidden, dweight, has_bias ? dy.sum(0) : at::Tensor(), at::Tensor()};
}

}  // namespace qalof::train
