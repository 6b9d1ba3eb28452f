// The decoder in plain ATen operations: the graph for CUDA, and the oracle of the kernel graph.
// Linears of integer plans in scheme minmax multiply codes (integers in floats, exact), so that
// they add no error of their own; in other schemes they multiply dequantized values. Float sums run
// in ATen's order, so that the two graphs agree in score and divergence, not in bits.
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <tuple>

#include "core/error.h"
#include "train/torch/checkpointed.h"
#include "train/torch/graph.h"
#include "train/torch/rotation_functions.h"
#include "weights/weight_packing.h"

namespace qalof::train {

namespace {

// The value of `real` with the gradient of x (straight-through), or none where |x| >= clip.
at::Tensor straight_through(const at::Tensor& x, const at::Tensor& real, double clip) {
  at::Tensor carrier = x;
  if (clip > 0) carrier = x * (x.abs() < clip).to(x.scalar_type()).detach();
  // A difference of equal numbers is 0 exactly, so the value is that of `real`.
  return real.detach() + (carrier - carrier.detach());
}

at::Tensor round_to_bf16(const at::Tensor& x) { return x.to(at::kBFloat16).to(x.scalar_type()); }

// Codes along the last dimension, and their scale (docs/numerics.md).
struct Codes {
  at::Tensor codes, scale;

  at::Tensor real() const { return codes * scale; }
};

Codes quantize_seed(const at::Tensor& x, const at::Tensor& max_abs, int bits) {
  const double levels = static_cast<double>((1 << (bits - 1)) - 1);
  const at::Tensor multiplier = (max_abs + 1e-6).reciprocal() * levels;
  return {(x * multiplier).round(), (multiplier + 1e-6).reciprocal()};
}

Codes quantize_rows(const at::Tensor& x, int bits) {
  return quantize_seed(x, x.abs().amax({-1}, /*keepdim=*/true), bits);
}

// Asymmetric activations (docs/numerics.md, "Activations").
Codes quantize_rows_asymmetric(const at::Tensor& x, int bits) {
  const double levels = static_cast<double>((1 << bits) - 1);
  const at::Tensor low = x.amin({-1}, /*keepdim=*/true).clamp_max(0);
  const at::Tensor high = x.amax({-1}, /*keepdim=*/true).clamp_min(0);
  const at::Tensor multiplier = (high - low + 1e-6).reciprocal() * levels;
  const at::Tensor bottom = (low * multiplier).round();
  return {at::minimum(at::maximum((x * multiplier).round(), bottom), bottom + levels),
          (multiplier + 1e-6).reciprocal()};
}

// Activations [tokens, in], quantized in a scheme and dequantized.
at::Tensor activation_reals(const at::Tensor& x, int bits, const quant::QuantScheme& scheme) {
  const std::int64_t in = x.size(1);
  const auto group = static_cast<std::int64_t>(scheme.activation_group);
  at::Tensor rows = x;
  if (group > 0) {
    // Padding with zeros changes no range: asymmetric ranges contain 0, symmetric ones are max|x|.
    const std::int64_t padding = (group - in % group) % group;
    if (padding > 0) rows = at::constant_pad_nd(rows, {0, padding});
    rows = rows.reshape({x.size(0), (in + padding) / group, group});
  }
  const bool asymmetric = scheme.activation_asymmetric && bits < 8;
  const at::Tensor real =
      (asymmetric ? quantize_rows_asymmetric(rows, bits) : quantize_rows(rows, bits)).real();
  return group > 0 ? real.reshape({x.size(0), -1}).narrow(1, 0, in) : real;
}

// 1 where gradients pass the quantizer of x, else 0; undefined where they pass everywhere.
at::Tensor pass_mask(const at::Tensor& x, double clip) {
  return clip > 0 ? (x.abs() < clip).to(x.scalar_type()) : at::Tensor();
}

// y = x_q W_q^T on integer codes; gradients are those of dequantized values, straight-through.
class IntegerLinear : public torch::autograd::Function<IntegerLinear> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, const Codes* xq, const Codes* wq,
                            double clip) {
    const bool wants_weight = weight.requires_grad();
    context->save_for_backward({wants_weight ? xq->real() : at::Tensor(), wq->codes, wq->scale,
                                pass_mask(x, clip),
                                wants_weight ? pass_mask(weight, clip) : at::Tensor()});
    return xq->codes.mm(wq->codes.t()).mul_(wq->scale.t()).mul_(xq->scale);
  }

  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* context,
                                               torch::autograd::tensor_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& dy = gradients[0];
    at::Tensor dx = (dy * saved[2].t()).mm(saved[1]);
    if (saved[3].defined()) dx.mul_(saved[3]);
    at::Tensor dweight;
    if (saved[0].defined()) dweight = dy.t().mm(saved[0]);
    if (dweight.defined() && saved[4].defined()) dweight.mul_(saved[4]);
    return {dx, dweight, {}, {}, {}};
  }
};

at::Tensor fake_quantize(const at::Tensor& x, int bits, double clip) {
  if (bits == 32) return x;
  const at::Tensor value = x.detach();
  if (bits == 16) return straight_through(x, round_to_bf16(value), /*clip=*/0);
  return straight_through(x, quantize_rows(value, bits).real(), clip);
}

// The matrix of a rotation; rows are multiplied with it from the left.
at::Tensor matrix_of(const kernels::Hadamard& hadamard, const at::Tensor& like) {
  const auto order = static_cast<std::int64_t>(hadamard.order());
  const at::Tensor matrix = at::eye(order);
  for (std::int64_t row = 0; row < order; ++row)
    hadamard.apply(matrix.mutable_data_ptr<float>() + row * order);
  return matrix.to(like.device(), like.scalar_type());
}

class AtenGraph final : public Graph {
 public:
  // base: the base of frozen params, for schemes that dequantize the runtime's codes; else null.
  AtenGraph(const model::ModelConfig& config, BaseParams params,
            std::shared_ptr<const weights::BaseModel> base, ParallelFor* parallel)
      : Graph(config), config_(config), parallel_(parallel), steps_(model::layer_steps(config)) {
    own_.params = std::move(params);
    own_.base = std::move(base);
  }

  at::Device device() const override { return own_.params.wte.device(); }

  at::Tensor embed(const PackedBatch& batch, const GraphPlan& plan) override {
    return embed_rows(embeddings(own_.params.wte, batch.ids, plan), batch, plan);
  }

  at::Tensor embed_rows(const at::Tensor& rows, const PackedBatch& batch,
                        const GraphPlan& plan) override {
    at::Tensor result = config_.embedding_scale != 1 ? rows * config_.embedding_scale : rows;
    if (own_.params.wpe.numel() > 0)
      result = result + embeddings(own_.params.wpe, batch.positions, plan);
    const Side& side = side_of(plan);
    if (!side.residual.defined()) return result;
    if (config_.norm == model::NormKind::kLayer)
      result = result - result.mean({-1}, /*keepdim=*/true);
    return result.mm(side.residual);
  }

  at::Tensor decode(const at::Tensor& embedded, const PackedBatch& batch, const GraphPlan& plan,
                    const NetworkView& view, std::vector<at::Tensor>* blocks) override {
    const auto pass = std::make_shared<const Pass>(Pass{plan, view, layout_of(batch)});
    const Side& side = side_of(plan);
    at::Tensor residual = embedded;
    const bool checkpoints = checkpoints_blocks() && at::GradMode::is_enabled();
    for (std::size_t layer = 0; layer < config_.num_layers; ++layer) {
      const auto block = [this, layer, pass](const std::vector<at::Tensor>& in) {
        return std::vector<at::Tensor>{run_block(layer, in[0], *pass)};
      };
      residual = checkpoints
                     ? checkpointed(block, {residual},
                                    block_parameters(layer, steps_[layer], view, side.params))[0]
                     : block({residual})[0];
      if (blocks != nullptr) blocks->push_back(in_own_basis(residual, side));
    }
    return norm(in_own_basis(residual, side), own_.params.final_norm);
  }

  at::Tensor head_logits(const at::Tensor& hidden, const HeadParams& head) override {
    return at::linear(hidden, head.weight, head.bias);
  }
  at::Tensor lm_logits(const at::Tensor& hidden, const GraphPlan& plan) override {
    const at::Tensor x = plan.embedding.bits == 32 ? hidden : round_to_bf16(hidden);
    const at::Tensor logits = at::linear(x, lm_head(plan));
    return config_.logit_cap != 0 ? capped(logits, config_.logit_cap) : logits;
  }
  at::Tensor lm_hidden_gradient(const at::Tensor& dlogits, const GraphPlan& plan) override {
    return dlogits.mm(lm_head(plan));
  }
  void add_lm_head_gradient(const at::Tensor& dlogits, const at::Tensor& hidden,
                            at::Tensor& dhead) override {
    dhead.addmm_(dlogits.t(), hidden);
  }
  at::Tensor lm_head_parameter() const override {
    const at::Tensor& head = own_.params.lm_matrix();
    return head.requires_grad() ? head : at::Tensor();
  }

 private:
  // The weights that plans compute with: the base's own, or those of a rotated base.
  struct Side {
    BaseParams params;
    std::shared_ptr<const weights::BaseModel> base;
    const weights::Rotation* rotation = nullptr;
    // Rotation matrices, each where it is multiplied with; heads: after rotary positions.
    at::Tensor residual, heads, inner;
    std::map<std::pair<std::size_t, int>, Codes> codes;
    std::map<std::tuple<std::size_t, int, quant::QuantScheme>, at::Tensor> reals;
  };

  // The cell of each row of a batch in a [windows, longest] grid for attention; cosines and sines
  // of rotary positions [tokens, 1, pairs], of the main ones and of layers with a window.
  struct Layout {
    at::Tensor cells;
    std::array<at::Tensor, 2> cos, sin;
    std::int64_t windows = 0, longest = 0;
  };

  // What every block of a forward pass reads.
  struct Pass {
    const GraphPlan& plan;
    NetworkView view;
    Layout layout;
  };

  at::Tensor run_block(std::size_t layer, const at::Tensor& in, const Pass& pass) {
    const Side& side = side_of(pass.plan);
    const model::LayerSteps& steps = steps_[layer];
    const at::Tensor entry = norm(in, side.params.attention_norms[layer]);
    std::vector<at::Tensor> parts;
    for (const std::size_t index : steps.attention_in)
      parts.push_back(linear(index, entry, pass.plan, pass.view));
    const at::Tensor qkv =
        turned_heads(positioned(normed_heads(at::cat(parts, 1), layer), pass.layout, layer), side);
    at::Tensor attended = linear(steps.attention_out, attention(qkv, pass.layout, pass.plan, layer),
                                 pass.plan, pass.view);
    if (config_.has_out_norms) attended = norm(attended, own_.params.attention_out_norms[layer]);
    const at::Tensor residual = in + attended;
    at::Tensor activated =
        activation(steps, norm(residual, side.params.mlp_norms[layer]), pass.plan, pass.view);
    if (side.inner.defined()) activated = activated.mm(side.inner);
    at::Tensor added = linear(steps.mlp_out, activated, pass.plan, pass.view);
    if (config_.has_out_norms) added = norm(added, own_.params.mlp_out_norms[layer]);
    input_ = {};
    return residual + added;
  }

  static at::Tensor capped(const at::Tensor& x, float cap) { return (x / cap).tanh() * cap; }

  // The input of a layer's mlp_out.
  at::Tensor activation(const model::LayerSteps& steps, const at::Tensor& x, const GraphPlan& plan,
                        const NetworkView& view) {
    const at::Tensor inner = linear(steps.mlp_in.front(), x, plan, view);
    const auto gelu = [&](const at::Tensor& gate) {
      const bool is_exact = config_.activation == model::Activation::kGeluErf ||
                            config_.activation == model::Activation::kGeGluErf;
      return at::gelu(gate, is_exact ? "none" : "tanh");
    };
    if (!config_.is_gated()) return gelu(inner);
    const auto width = static_cast<std::int64_t>(config_.inner);
    const bool is_fused = steps.mlp_in.size() == 1;
    const at::Tensor gate = is_fused ? inner.narrow(1, 0, width) : inner;
    const at::Tensor up =
        is_fused ? inner.narrow(1, width, width) : linear(steps.mlp_in[1], x, plan, view);
    return (config_.activation == model::Activation::kSwiGlu ? at::silu(gate) : gelu(gate)) * up;
  }

  // qkv with the norms of the heads of q and k; qkv itself where the model has none.
  at::Tensor normed_heads(const at::Tensor& qkv, std::size_t layer) const {
    if (!config_.has_qk_norms) return qkv;
    const auto q_width = static_cast<std::int64_t>(config_.q_width());
    const auto kv_width = static_cast<std::int64_t>(config_.kv_width());
    const auto normed = [&](std::int64_t first, std::int64_t width, const NormParams& weights) {
      const at::Tensor heads =
          qkv.narrow(1, first, width).reshape({-1, static_cast<std::int64_t>(config_.head_dim())});
      return norm(heads, weights).reshape({qkv.size(0), width});
    };
    return at::cat({normed(0, q_width, own_.params.q_norms[layer]),
                    normed(q_width, kv_width, own_.params.k_norms[layer]),
                    qkv.narrow(1, q_width + kv_width, kv_width)},
                   1);
  }

  Side& side_of(const GraphPlan& plan) {
    if (!plan.scheme.is_rotated()) return own_;
    Side& side = rotated_[plan.scheme.rotations];
    if (side.rotation == nullptr) {
      QALOF_CHECK(own_.base != nullptr, ErrorKind::kUnsupported,
                  "scheme {}: a base that trains cannot be rotated", quant::to_string(plan.scheme));
      load_rotated(plan.scheme.rotations, side);
    }
    return side;
  }

  void load_rotated(const quant::Rotations& rotations, Side& side) {
    const at::Tensor& like = own_.params.wte;
    const at::Tensor none = at::empty({0}, like.options());
    side.base = own_.base->rotated(rotations);
    const weights::BaseModel& base = *side.base;
    const weights::Rotation& rotation = *base.rotation();
    if (rotation.residual() == nullptr) {
      side.params.attention_norms = own_.params.attention_norms;
      side.params.mlp_norms = own_.params.mlp_norms;
    } else {
      const NormParams without_gain{none, none};
      side.params.attention_norms.assign(config_.num_layers, without_gain);
      side.params.mlp_norms.assign(config_.num_layers, without_gain);
    }
    auto load = [&](const std::vector<float>& values, std::vector<std::int64_t> shape) {
      return to_tensor(values, std::move(shape)).to(like.device(), like.scalar_type());
    };
    for (std::size_t i = 0; i < base.linears().size(); ++i) {
      const auto out = static_cast<std::int64_t>(base.linears()[i].out);
      const auto in = static_cast<std::int64_t>(base.linears()[i].in);
      side.params.weights.push_back(load(base.source().linear_f32(i), {out, in}));
      side.params.biases.push_back(base.bias(i).empty() ? none : load(base.bias(i), {out}));
    }
    const auto load_matrix = [&](const kernels::Hadamard* hadamard, at::Tensor& matrix) {
      if (hadamard != nullptr) matrix = matrix_of(*hadamard, like);
    };
    load_matrix(rotation.residual(), side.residual);
    load_matrix(rotation.inner(), side.inner);
    load_matrix(rotation.after_positions(), side.heads);
    side.rotation = &rotation;
  }

  static at::Tensor in_own_basis(const at::Tensor& residual, const Side& side) {
    return side.residual.defined() ? residual.mm(side.residual.t()) : residual;
  }

  // Rotates the heads of q and k in qkv where the rotation comes after rotary positions.
  at::Tensor turned_heads(const at::Tensor& qkv, const Side& side) const {
    if (!side.heads.defined()) return qkv;
    const auto kv_width = static_cast<std::int64_t>(config_.kv_width());
    const std::int64_t turned = qkv.size(1) - kv_width;
    const at::Tensor heads =
        qkv.narrow(1, 0, turned).reshape({-1, side.heads.size(0)}).mm(side.heads);
    return at::cat({heads.reshape({qkv.size(0), turned}), qkv.narrow(1, turned, kv_width)}, 1);
  }

  // Frequencies [tokens, pairs] of each row's sequence.
  at::Tensor frequencies_of(const PackedBatch& batch, const model::RotaryPositions& rotary) const {
    std::vector<float> all;
    for (std::size_t w = 0; w < batch.windows(); ++w) {
      const std::size_t count = batch.offsets[w + 1] - batch.offsets[w];
      const std::vector<float> own =
          model::rotary_frequencies(rotary, config_.head_dim(), rotary.scaling_length(count));
      for (std::size_t t = 0; t < count; ++t) all.insert(all.end(), own.begin(), own.end());
    }
    const auto tokens = static_cast<std::int64_t>(batch.tokens());
    return to_tensor(all, {tokens, static_cast<std::int64_t>(all.size()) / tokens}).to(device());
  }

  at::Tensor indices(const std::vector<std::int32_t>& values) const {
    return at::tensor(std::vector<std::int64_t>(values.begin(), values.end()), at::kLong)
        .to(device());
  }

  Layout layout_of(const PackedBatch& batch) const {
    Layout layout;
    layout.windows = static_cast<std::int64_t>(batch.windows());
    for (std::size_t w = 0; w < batch.windows(); ++w) {
      layout.longest = std::max(layout.longest,
                                static_cast<std::int64_t>(batch.offsets[w + 1] - batch.offsets[w]));
    }
    std::vector<std::int64_t> cells;
    for (std::size_t w = 0; w < batch.windows(); ++w) {
      for (std::size_t t = 0; t < batch.offsets[w + 1] - batch.offsets[w]; ++t) {
        cells.push_back(static_cast<std::int64_t>(w) * layout.longest +
                        static_cast<std::int64_t>(t));
      }
    }
    layout.cells = at::tensor(cells, at::kLong).to(device());
    for (const std::size_t kind : {std::size_t{0}, std::size_t{1}}) {
      const auto& rotary = kind == 0 ? config_.rotary : config_.sliding_rotary;
      if (!rotary) continue;
      // The angle is one f32 product, as in the kernels.
      const at::Tensor angle =
          (indices(batch.positions).to(at::kFloat).unsqueeze(1) * frequencies_of(batch, *rotary))
              .to(at::kDouble);
      const auto table = [&](const at::Tensor& values) {
        return (values * rotary->table_scale).to(own_.params.wte.scalar_type()).unsqueeze(1);
      };
      layout.cos[kind] = table(angle.cos());
      layout.sin[kind] = table(angle.sin());
    }
    return layout;
  }

  at::Tensor lm_head(const GraphPlan& plan) const {
    QALOF_CHECK(config_.lm_head != model::LmHead::kNone, ErrorKind::kUnsupported,
                "the model has no LM head, which language modelling needs");
    const at::Tensor head = own_.params.lm_matrix().detach();
    return plan.embedding.bits == 32 ? head : round_to_bf16(head);
  }

  at::Tensor embeddings(const at::Tensor& table, const std::vector<std::int32_t>& ids,
                        const GraphPlan& plan) const {
    const at::Tensor rows = table.index_select(0, indices(ids));
    return plan.embedding.bits == 32
               ? rows
               : straight_through(rows, round_to_bf16(rows.detach()), /*clip=*/0);
  }

  at::Tensor norm(const at::Tensor& x, const NormParams& weights) const {
    const bool has_gain = weights.gamma.numel() > 0;
    if (config_.norm == model::NormKind::kRms || !has_gain) {
      const at::Tensor square = x.square().mean({-1}, /*keepdim=*/true);
      const at::Tensor y = x * (square + static_cast<double>(config_.norm_epsilon)).rsqrt();
      return has_gain ? y * weights.gamma : y;
    }
    return at::layer_norm(x, {x.size(-1)}, weights.gamma, weights.beta,
                          static_cast<double>(config_.norm_epsilon));
  }

  at::Tensor linear(std::size_t index, const at::Tensor& x, const GraphPlan& plan,
                    const NetworkView& view) {
    const quant::Precision precision = plan.linears[index];
    const int x_bits = precision.activation.bits, w_bits = precision.weight.bits;
    Side& side = side_of(plan);
    at::Tensor y;
    if (!plan.scheme.is_minmax() && w_bits < 16) {
      y = at::linear(input_reals(x, x_bits, plan), reals(side, index, w_bits, plan.scheme));
    } else if (x_bits < 16 && w_bits < 16) {
      const Codes wq = codes(side, index, w_bits);
      y = IntegerLinear::apply(x, side.params.weights[index], &input_codes(x, x_bits), &wq,
                               plan.ste_clip);
    } else {
      y = at::linear(input_reals(x, x_bits, plan), fake_weight(side, index, w_bits, plan.ste_clip));
    }
    at::Tensor bias = side.params.biases[index];
    if (!view.lora.empty() && view.lora[index].a.defined()) {
      LoraParams lora = view.lora[index];
      if (side.rotation != nullptr) {
        const auto pair =
            RotatePairFunction::apply(lora.a, lora.b, side.rotation, index, view.lora_scaling);
        lora = {pair[0], pair[1]};
        if (is_given(pair[2])) bias = pair[2];
      }
      y = y + at::linear(at::linear(x, lora.a), lora.b) * view.lora_scaling;
    }
    return bias.numel() > 0 ? y + bias : y;
  }

  // The quantized forms of an input, shared by the linears that read it.
  struct Input {
    at::Tensor x, real;
    int bits = 0;
    Codes codes;
  };

  Input& input_of(const at::Tensor& x, int bits) {
    if (!input_.x.is_same(x) || input_.bits != bits) input_ = {x, {}, bits, {}};
    return input_;
  }
  const Codes& input_codes(const at::Tensor& x, int bits) {
    Input& input = input_of(x, bits);
    if (!input.codes.codes.defined()) input.codes = quantize_rows(x.detach(), bits);
    return input.codes;
  }
  const at::Tensor& input_reals(const at::Tensor& x, int bits, const GraphPlan& plan) {
    Input& input = input_of(x, bits);
    if (input.real.defined()) return input.real;
    input.real = bits < 16 ? straight_through(x, activation_reals(x.detach(), bits, plan.scheme),
                                              plan.ste_clip)
                           : fake_quantize(x, bits, /*clip=*/0);
    return input.real;
  }

  // A weight in scheme minmax, dequantized; made once where it is frozen.
  static at::Tensor fake_weight(Side& side, std::size_t index, int bits, double clip) {
    const at::Tensor& weight = side.params.weights[index];
    if (weight.requires_grad() || bits == 32) return fake_quantize(weight, bits, clip);
    at::Tensor& kept = side.reals[{index, bits, {}}];
    if (!kept.defined()) kept = fake_quantize(weight, bits, /*clip=*/0);
    return kept;
  }

  // Codes of a weight in scheme minmax; made once where it is frozen.
  static Codes codes(Side& side, std::size_t index, int bits) {
    const at::Tensor& weight = side.params.weights[index];
    if (weight.requires_grad()) return quantize_rows(weight.detach(), bits);
    Codes& kept = side.codes[{index, bits}];
    if (!kept.codes.defined()) kept = quantize_rows(weight, bits);
    return kept;
  }

  // A frozen weight, quantized in another scheme and dequantized.
  const at::Tensor& reals(Side& side, std::size_t index, int bits,
                          const quant::QuantScheme& scheme) const {
    at::Tensor& kept = side.reals[{index, bits, scheme.weights()}];
    if (kept.defined()) return kept;
    QALOF_CHECK(side.base != nullptr, ErrorKind::kUnsupported,
                "scheme {}: on this device weights that train have seed alone",
                quant::to_string(scheme));
    const model::LinearSpec& spec = side.base->linears()[index];
    const weights::RowCodes codes =
        weights::quantize_weights(side.base->source().linear_f32(index), spec.out, spec.in, bits,
                                  scheme.weights(), *parallel_);
    const at::Tensor& weight = side.params.weights[index];
    kept = to_tensor(weights::dequantize_codes(codes, *parallel_), weight.sizes().vec())
               .to(weight.device(), weight.scalar_type());
    return kept;
  }

  // K or V rows at the bits of each head; the range is one per row over all heads.
  at::Tensor quantize_kv(const at::Tensor& rows, const std::vector<int>& bits, double clip) const {
    if (std::all_of(bits.begin(), bits.end(), [&](int b) { return b == bits.front(); }))
      return fake_quantize(rows, bits.front(), clip);
    const auto head_dim = static_cast<std::int64_t>(config_.head_dim());
    const at::Tensor max_abs = rows.detach().abs().amax({-1}, /*keepdim=*/true);
    std::vector<at::Tensor> heads;
    for (std::size_t h = 0; h < bits.size(); ++h) {
      const at::Tensor x = rows.narrow(1, static_cast<std::int64_t>(h) * head_dim, head_dim);
      if (bits[h] >= 16) {
        heads.push_back(fake_quantize(x, bits[h], clip));
      } else {
        heads.push_back(
            straight_through(x, quantize_seed(x.detach(), max_abs, bits[h]).real(), clip));
      }
    }
    return at::cat(heads, 1);
  }

  at::Tensor attention(const at::Tensor& qkv, const Layout& layout, const GraphPlan& plan,
                       std::size_t layer) const {
    const auto q_width = static_cast<std::int64_t>(config_.q_width());
    const auto head_dim = static_cast<std::int64_t>(config_.head_dim());
    const auto kv_width = static_cast<std::int64_t>(config_.kv_width());
    // Short windows are padded on the right, where a causal mask hides the padding from real
    // queries.
    auto grid = [&](const at::Tensor& rows) {
      const std::int64_t heads = rows.size(1) / head_dim;
      return at::zeros({layout.windows * layout.longest, rows.size(1)}, rows.options())
          .index_copy(0, layout.cells, rows)
          .view({layout.windows, layout.longest, heads, head_dim})
          .transpose(1, 2);
    };
    const at::Tensor q = grid(qkv.narrow(1, 0, q_width));
    at::Tensor k =
        grid(quantize_kv(qkv.narrow(1, q_width, kv_width), plan.k_bits[layer], plan.ste_clip));
    at::Tensor v = grid(quantize_kv(qkv.narrow(1, q_width + kv_width, kv_width), plan.v_bits[layer],
                                    plan.ste_clip));
    if (const std::int64_t groups = q.size(1) / k.size(1); groups > 1) {
      k = k.repeat_interleave(groups, 1);
      v = v.repeat_interleave(groups, 1);
    }
    return attend(q, k, v, layer)
        .transpose(1, 2)
        .reshape({layout.windows * layout.longest, q_width})
        .index_select(0, layout.cells);
  }

  // Causal attention of q, k, v [windows, heads, longest, head_dim].
  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                    std::size_t layer) const {
    const double scale = static_cast<double>(config_.score_scale(layer));
    const std::size_t window = config_.window(layer);
    if (window == 0 && config_.score_cap == 0)
      return at::scaled_dot_product_attention(q, k, v, {}, /*dropout_p=*/0.0, /*is_causal=*/true,
                                              scale);
    const std::int64_t length = q.size(2);
    const at::Tensor at_row = at::arange(length, q.options().dtype(at::kLong)).unsqueeze(1);
    const at::Tensor distance = at_row - at_row.t();
    at::Tensor visible = distance >= 0;
    if (window != 0) visible = visible.logical_and(distance < static_cast<std::int64_t>(window));
    if (config_.score_cap == 0)
      return at::scaled_dot_product_attention(q, k, v, visible, /*dropout_p=*/0.0,
                                              /*is_causal=*/false, scale);
    const at::Tensor scores = capped(at::matmul(q, k.transpose(2, 3)) * scale, config_.score_cap);
    return at::matmul(at::softmax(scores.masked_fill(visible.logical_not(), -INFINITY), /*dim=*/-1),
                      v);
  }

  // qkv with rotary positions applied to q and k; qkv itself where the layer has none.
  at::Tensor positioned(const at::Tensor& qkv, const Layout& layout, std::size_t layer) const {
    if (config_.rotary_at(layer) == nullptr) return qkv;
    const auto q_width = static_cast<std::int64_t>(config_.q_width());
    const auto kv_width = static_cast<std::int64_t>(config_.kv_width());
    const auto dim = static_cast<std::int64_t>(config_.head_dim());
    const std::size_t kind = config_.uses_sliding_rotary(layer) ? 1 : 0;
    const at::Tensor &cos = layout.cos[kind], &sin = layout.sin[kind];
    const auto turn = [&](std::int64_t first, std::int64_t width) {
      const std::int64_t half = cos.size(2);
      const at::Tensor x = qkv.narrow(1, first, width).reshape({qkv.size(0), width / dim, dim});
      const at::Tensor a = x.narrow(2, 0, half), b = x.narrow(2, half, half);
      return at::cat({a * cos - b * sin, b * cos + a * sin, x.narrow(2, 2 * half, dim - 2 * half)},
                     2)
          .reshape({qkv.size(0), width});
    };
    return at::cat(
        {turn(0, q_width), turn(q_width, kv_width), qkv.narrow(1, q_width + kv_width, kv_width)},
        1);
  }

  model::ModelConfig config_;
  ParallelFor* parallel_;
  std::vector<model::LayerSteps> steps_;
  Side own_;
  std::map<quant::Rotations, Side> rotated_;
  Input input_;
};

}  // namespace

std::unique_ptr<Graph> make_aten_graph(const model::ModelConfig& config, BaseParams params) {
  return std::make_unique<AtenGraph>(config, std::move(params), nullptr, nullptr);
}

std::unique_ptr<Graph> make_aten_graph(std::shared_ptr<const weights::BaseModel> base,
                                       at::Device device, ParallelFor& parallel) {
  BaseParams params = load_base_params(*base, device);
  const model::ModelConfig& config = base->config();
  return std::make_unique<AtenGraph>(config, std::move(params), std::move(base), &parallel);
}

}  // namespace qalof::train
