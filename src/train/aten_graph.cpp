// The decoder in plain ATen operations: the graph of CUDA, and the oracle of the kernel graph.
// Linears of integer plans multiply codes (integers in floats, exact), so that they add no error of
// their own; other float sums run in ATen's order, so that the two graphs agree in score and
// divergence, not in bits.
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "train/graph_torch.h"

namespace qalof::train {

namespace {

// Value of `real`, gradient of x: straight-through, or none where |x| >= clip.
at::Tensor straight_through(const at::Tensor& x, const at::Tensor& real, double clip) {
  at::Tensor carrier = x;
  if (clip > 0) carrier = x * (x.abs() < clip).to(x.scalar_type()).detach();
  // A difference of equal numbers is 0 exactly, so the value is that of `real`.
  return real.detach() + (carrier - carrier.detach());
}

at::Tensor round_to_bf16(const at::Tensor& x) { return x.to(at::kBFloat16).to(x.scalar_type()); }

// Scheme seed along the last dimension (docs/numerics.md): real = codes * scale.
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

// 1 where gradients pass the quantizer of x, or undefined where they pass everywhere.
at::Tensor pass_mask(const at::Tensor& x, double clip) {
  return clip > 0 ? (x.abs() < clip).to(x.scalar_type()) : at::Tensor();
}

// y = x_q W_q^T of integer codes; the gradient is that of real values, straight-through.
class IntegerLinear : public torch::autograd::Function<IntegerLinear> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, int x_bits, int w_bits, double clip) {
    const Codes xq = quantize_rows(x, x_bits), wq = quantize_rows(weight, w_bits);
    const bool wants_weight = weight.requires_grad();
    context->save_for_backward({wants_weight ? xq.real() : at::Tensor(), wq.real(),
                                pass_mask(x, clip),
                                wants_weight ? pass_mask(weight, clip) : at::Tensor()});
    return xq.codes.mm(wq.codes.t()) * wq.scale.t() * xq.scale;
  }

  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* context,
                                               torch::autograd::tensor_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& dy = gradients[0];
    at::Tensor dx = dy.mm(saved[1]);
    if (saved[2].defined()) dx = dx * saved[2];
    at::Tensor dweight;
    if (saved[0].defined()) dweight = dy.t().mm(saved[0]);
    if (dweight.defined() && saved[3].defined()) dweight = dweight * saved[3];
    return {dx, dweight, {}, {}, {}};
  }
};

at::Tensor fake_quantize(const at::Tensor& x, int bits, double clip) {
  if (bits == 32) return x;
  const at::Tensor value = x.detach();
  if (bits == 16) return straight_through(x, round_to_bf16(value), /*clip=*/0);
  return straight_through(x, quantize_rows(value, bits).real(), clip);
}

class AtenGraph final : public Graph {
 public:
  AtenGraph(const model::ModelConfig& config, BaseParams params)
      : config_(config), params_(std::move(params)), steps_(model::layer_steps(config)) {}

  at::Device device() const override { return params_.wte.device(); }

  at::Tensor embed(const PackedBatch& batch, const GraphPlan& plan) override {
    return embed_rows(rounded_embedding(params_.wte, plan).index_select(0, indices(batch.ids)),
                      batch, plan);
  }

  at::Tensor embed_rows(const at::Tensor& rows, const PackedBatch& batch,
                        const GraphPlan& plan) override {
    if (params_.wpe.numel() == 0) return rows;
    return rows + rounded_embedding(params_.wpe, plan).index_select(0, indices(batch.positions));
  }

  at::Tensor decode(const at::Tensor& embedded, const PackedBatch& batch, const GraphPlan& plan,
                    const NetworkView& view, std::vector<at::Tensor>* blocks) override {
    const Layout layout = layout_of(batch);
    at::Tensor residual = embedded;
    for (std::size_t layer = 0; layer < config_.num_layers; ++layer) {
      const model::LayerSteps& steps = steps_[layer];
      const at::Tensor entry = norm(residual, params_.attention_norms[layer]);
      std::vector<at::Tensor> parts;
      for (const std::size_t index : steps.attention_in)
        parts.push_back(linear(index, entry, plan, view));
      const at::Tensor qkv = rotated(at::cat(parts, 1), layout.positions);
      const at::Tensor attended = attention(qkv, layout, plan, layer);
      residual = residual + linear(steps.attention_out, attended, plan, view);
      const at::Tensor middle = norm(residual, params_.mlp_norms[layer]);
      const at::Tensor inner = linear(steps.mlp_in.front(), middle, plan, view);
      const at::Tensor activated =
          config_.activation == model::Activation::kGelu
              ? at::gelu(inner, "tanh")
              : at::silu(inner) * linear(steps.mlp_in[1], middle, plan, view);
      residual = residual + linear(steps.mlp_out, activated, plan, view);
      if (blocks != nullptr) blocks->push_back(residual);
    }
    return norm(residual, params_.final_norm);
  }

  at::Tensor head_logits(const at::Tensor& hidden, const HeadParams& head) override {
    return at::linear(hidden, head.weight, head.bias);
  }
  at::Tensor lm_logits(const at::Tensor& hidden, const GraphPlan& plan) override {
    const at::Tensor x = plan.embedding.bits == 32 ? hidden : round_to_bf16(hidden);
    return at::linear(x, lm_head(plan));
  }
  at::Tensor lm_hidden_gradient(const at::Tensor& dlogits, const GraphPlan& plan) override {
    return dlogits.mm(lm_head(plan));
  }
  void add_lm_head_gradient(const at::Tensor& dlogits, const at::Tensor& hidden,
                            at::Tensor& dhead) override {
    dhead.addmm_(dlogits.t(), hidden);
  }
  at::Tensor lm_head_parameter() const override {
    return params_.wte.requires_grad() ? params_.wte : at::Tensor();
  }

 private:
  // Rows of a batch, and where each lies in a [windows, longest] grid for attention.
  struct Layout {
    at::Tensor positions, cells;
    std::int64_t windows = 0, longest = 0;
  };

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
    layout.positions = indices(batch.positions);
    layout.cells = at::tensor(cells, at::kLong).to(device());
    return layout;
  }

  at::Tensor lm_head(const GraphPlan& plan) const {
    const at::Tensor wte = params_.wte.detach();
    return plan.embedding.bits == 32 ? wte : round_to_bf16(wte);
  }

  at::Tensor rounded_embedding(const at::Tensor& table, const GraphPlan& plan) const {
    if (plan.embedding.bits == 32) return table;
    return straight_through(table, round_to_bf16(table.detach()), /*clip=*/0);
  }

  at::Tensor norm(const at::Tensor& x, const NormParams& weights) const {
    if (config_.norm == model::NormKind::kRms) {
      const at::Tensor square = x.square().mean({-1}, /*keepdim=*/true);
      return x * (square + static_cast<double>(config_.norm_epsilon)).rsqrt() * weights.gamma;
    }
    return at::layer_norm(x, {x.size(-1)}, weights.gamma, weights.beta,
                          static_cast<double>(config_.norm_epsilon));
  }

  at::Tensor linear(std::size_t index, const at::Tensor& x, const GraphPlan& plan,
                    const NetworkView& view) const {
    const quant::Precision precision = plan.linears[index];
    const int x_bits = precision.activation.bits, w_bits = precision.weight.bits;
    const at::Tensor& weight = params_.weights[index];
    at::Tensor y;
    if (x_bits < 16 && w_bits < 16) {
      y = IntegerLinear::apply(x, weight, x_bits, w_bits, plan.ste_clip);
    } else {
      y = at::linear(fake_quantize(x, x_bits, plan.ste_clip),
                     fake_quantize(weight, w_bits, plan.ste_clip));
    }
    if (params_.biases[index].numel() > 0) y = y + params_.biases[index];
    if (!view.lora.empty() && view.lora[index].a.defined()) {
      const LoraParams& lora = view.lora[index];
      y = y + at::linear(at::linear(x, lora.a), lora.b) * view.lora_scaling;
    }
    return y;
  }

  // K or V rows at the bits of each head; the range is one per row over all heads.
  at::Tensor quantize_kv(const at::Tensor& rows, const std::vector<int>& bits, double clip) const {
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
    const auto hidden = static_cast<std::int64_t>(config_.hidden);
    const auto head_dim = static_cast<std::int64_t>(config_.head_dim());
    const std::int64_t kv_width = (qkv.size(1) - hidden) / 2;
    // Short windows are padded on the right, where a causal mask hides the padding from real
    // queries.
    auto grid = [&](const at::Tensor& rows) {
      const std::int64_t heads = rows.size(1) / head_dim;
      return at::zeros({layout.windows * layout.longest, rows.size(1)}, rows.options())
          .index_copy(0, layout.cells, rows)
          .view({layout.windows, layout.longest, heads, head_dim})
          .transpose(1, 2);
    };
    const at::Tensor q = grid(qkv.narrow(1, 0, hidden));
    at::Tensor k =
        grid(quantize_kv(qkv.narrow(1, hidden, kv_width), plan.k_bits[layer], plan.ste_clip));
    at::Tensor v = grid(
        quantize_kv(qkv.narrow(1, hidden + kv_width, kv_width), plan.v_bits[layer], plan.ste_clip));
    if (const std::int64_t groups = q.size(1) / k.size(1); groups > 1) {
      k = k.repeat_interleave(groups, 1);
      v = v.repeat_interleave(groups, 1);
    }
    const at::Tensor out = at::scaled_dot_product_attention(q, k, v, {}, /*dropout_p=*/0.0,
                                                            /*is_causal=*/true);
    return out.transpose(1, 2)
        .reshape({layout.windows * layout.longest, hidden})
        .index_select(0, layout.cells);
  }

  // q and k of qkv turned by the angles of rotary positions; qkv itself where there are none.
  at::Tensor rotated(const at::Tensor& qkv, const at::Tensor& positions) const {
    if (!config_.rotary) return qkv;
    const at::Tensor frequencies = to_tensor(model::rotary_frequencies(config_),
                                             {static_cast<std::int64_t>(config_.head_dim() / 2)})
                                       .to(qkv.device());
    // The angle is one f32 product, as the kernels have it.
    const at::Tensor angle = (positions.to(at::kFloat).unsqueeze(1) * frequencies).to(at::kDouble);
    const at::Tensor cos = angle.cos().to(qkv.scalar_type()).unsqueeze(1);
    const at::Tensor sin = angle.sin().to(qkv.scalar_type()).unsqueeze(1);
    const auto hidden = static_cast<std::int64_t>(config_.hidden);
    const auto kv_width = static_cast<std::int64_t>(config_.kv_width());
    const auto turn = [&](std::int64_t first, std::int64_t width) {
      const std::int64_t half = frequencies.size(0);
      const at::Tensor x =
          qkv.narrow(1, first, width).reshape({qkv.size(0), width / (2 * half), 2 * half});
      const at::Tensor a = x.narrow(2, 0, half), b = x.narrow(2, half, half);
      return at::cat({a * cos - b * sin, b * cos + a * sin}, 2).reshape({qkv.size(0), width});
    };
    return at::cat(
        {turn(0, hidden), turn(hidden, kv_width), qkv.narrow(1, hidden + kv_width, kv_width)}, 1);
  }

  model::ModelConfig config_;
  BaseParams params_;
  std::vector<model::LayerSteps> steps_;
};

}  // namespace

std::unique_ptr<Graph> make_aten_graph(const model::ModelConfig& config, BaseParams params) {
  return std::make_unique<AtenGraph>(config, std::move(params));
}

}  // namespace qalof::train
