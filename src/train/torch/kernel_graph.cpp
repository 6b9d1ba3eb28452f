// The CPU graph: packs weights for forward and backward passes and chains the autograd functions.
#include <algorithm>
#include <array>
#include <map>
#include <tuple>

#include "core/error.h"
#include "kernels/ops.h"
#include "kernels/quantize.h"
#include "train/torch/checkpointed.h"
#include "train/torch/rotation_functions.h"
#include "weights/transpose.h"

namespace qalof::train {

namespace {

at::Tensor index_tensor(std::span<const std::int32_t> values) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<std::int64_t>());
  return tensor;
}

class KernelGraph final : public Graph {
 public:
  KernelGraph(std::shared_ptr<const weights::BaseModel> base, const BaseParams* trainable,
              ParallelFor& parallel, GradientPrecision gradient, LinearObserver observe_linear)
      : Graph(base->config()),
        base_(std::move(base)),
        trainable_(trainable),
        resources_(base_->config(), parallel) {
    resources_.gradient = gradient;
    resources_.observe_linear = std::move(observe_linear);
  }

  at::Device device() const override { return at::kCPU; }

  at::Tensor embed(const PackedBatch& batch, const GraphPlan& plan) override {
    if (trainable_ != nullptr) {
      return EmbedFunction::apply(trainable_->wte, trainable_->wpe, index_tensor(batch.ids),
                                  index_tensor(batch.positions), plan.embedding.bits, &resources_);
    }
    at::Tensor rows = at::empty({static_cast<std::int64_t>(batch.tokens()),
                                 static_cast<std::int64_t>(base_->config().hidden)});
    model_of(plan.scheme)
        .embed(batch.ids, batch.positions, plan.embedding, rows.mutable_data_ptr<float>());
    return rows;
  }

  at::Tensor embed_rows(const at::Tensor& rows, const PackedBatch& batch,
                        const GraphPlan& plan) override {
    QALOF_CHECK(trainable_ == nullptr, ErrorKind::kInternal,
                "embeddings that are not of tokens, on a base that trains");
    const weights::BaseModel& base = model_of(plan.scheme);
    at::Tensor result = rows;
    if (base.config().embedding_scale != 1) result = rows * base.config().embedding_scale;
    if (!base.config().rotary) {
      at::Tensor positions = at::empty_like(rows);
      base.position_rows(batch.positions, plan.embedding, positions.mutable_data_ptr<float>());
      result = result + positions;
    }
    const weights::Rotation* rotation = base.rotation().get();
    if (!turns_residual(rotation)) return result;
    if (base.config().norm == model::NormKind::kLayer)
      result = result - result.mean({-1}, /*keepdim=*/true);
    return turned(result, *rotation->residual(), 1);
  }

  at::Tensor decode(const at::Tensor& embedded, const PackedBatch& batch, const GraphPlan& plan,
                    const NetworkView& view, std::vector<at::Tensor>* blocks) override {
    const model::ModelConfig& config = base_->config();
    const weights::BaseModel& base = model_of(plan.scheme);
    at::Tensor offsets = at::empty({static_cast<std::int64_t>(batch.offsets.size())}, at::kLong);
    std::copy(batch.offsets.begin(), batch.offsets.end(), offsets.mutable_data_ptr<std::int64_t>());
    const auto pass =
        std::make_shared<const Pass>(Pass{plan,
                                          view,
                                          trainable_ != nullptr ? *trainable_ : frozen_norms(base),
                                          base.rotation().get(),
                                          std::move(offsets),
                                          {angles_of(batch, false), angles_of(batch, true)}});
    const NormParams& entry = pass->params.attention_norms.front();
    Stream stream = {embedded,
                     LayerNormFunction::apply(embedded, entry.gamma, entry.beta, &resources_)};
    const bool checkpoints = checkpoints_blocks() && at::GradMode::is_enabled();
    for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
      const auto block = [this, layer, pass](const Stream& in) {
        return run_block(layer, in, *pass);
      };
      stream = checkpoints ? checkpointed(block, stream,
                                          block_parameters(layer, base_->layers()[layer],
                                                           pass->view, pass->params))
                           : block(stream);
      if (blocks == nullptr) continue;
      const bool is_turned = turns_residual(pass->rotation) && layer + 1 < config.num_layers;
      blocks->push_back(is_turned
                            ? turned(stream[0], *pass->rotation->residual(), 1, /*inverse=*/true)
                            : stream[0]);
    }
    return stream[1];
  }

  at::Tensor head_logits(const at::Tensor& hidden, const HeadParams& head) override {
    return HeadFunction::apply(hidden, head.weight, head.bias.defined() ? head.bias : no_tensor(),
                               &resources_);
  }

  at::Tensor lm_logits(const at::Tensor& hidden, const GraphPlan& plan) override {
    const KernelLinear& head = lm_head(plan.embedding);
    at::Tensor logits = at::empty({hidden.size(0), static_cast<std::int64_t>(head.call.weight.n)});
    weights::run_linear(head.call, hidden.const_data_ptr<float>(),
                        static_cast<std::size_t>(hidden.size(0)), logits.mutable_data_ptr<float>(),
                        resources_.linear, *resources_.parallel);
    if (const float cap = base_->config().logit_cap; cap != 0)
      kernels::soft_cap(logits.mutable_data_ptr<float>(), static_cast<std::size_t>(logits.numel()),
                        cap, *resources_.parallel);
    return logits;
  }
  at::Tensor lm_hidden_gradient(const at::Tensor& dlogits, const GraphPlan& plan) override {
    at::Tensor dhidden =
        at::empty({dlogits.size(0), static_cast<std::int64_t>(base_->config().hidden)});
    multiply_gradient(matrix(dlogits), *lm_head(plan.embedding).backward, resources_,
                      dhidden.mutable_data_ptr<float>());
    return dhidden;
  }
  void add_lm_head_gradient(const at::Tensor& dlogits, const at::Tensor& hidden,
                            at::Tensor& dhead) override {
    resources_.gemm.multiply_transposed(matrix(dlogits), matrix(hidden), 1.0F,
                                        kernels::Accumulate::kAdd, dhead.mutable_data_ptr<float>());
  }
  at::Tensor lm_head_parameter() const override {
    return trainable_ != nullptr ? trainable_->lm_matrix() : at::Tensor();
  }
  void begin_batch(std::int64_t step, std::size_t batch) override {
    resources_.step = static_cast<std::uint64_t>(step);
    resources_.rounding_calls = std::uint64_t{batch} << 32;
  }
  void weights_changed() override {
    for (auto& [key, entry] : own_linears_) entry.is_ready = entry.is_ready && !entry.trains;
    if (trainable_ == nullptr) return;
    // Buffers are kept for the next packing.
    for (auto& [key, entry] : linears_) entry.is_ready = false;
  }

 private:
  struct Entry {
    KernelLinear linear;
    BackwardWeights backward;
    std::unique_ptr<weights::OwnedMatrix> owned;  // where the base trains, or an adapter owns them
    bool is_ready = false;
    bool trains = false;  // for own_linears_: changes with every step
  };
  // Linear, weight bits, activation bits, scheme.
  using Key = std::tuple<std::size_t, int, int, quant::QuantScheme>;

  // What every block of a forward pass reads.
  struct Pass {
    const GraphPlan& plan;
    NetworkView view;
    const BaseParams& params;
    const weights::Rotation* rotation;
    at::Tensor offsets;
    std::array<at::Tensor, 2> angles;
  };
  // The residual, and its norm as the next part reads it, [tokens, hidden] both.
  using Stream = std::vector<at::Tensor>;

  Stream add_and_norm(const at::Tensor& residual, const at::Tensor& added,
                      const NormParams& weights) {
    return AddNormFunction::apply(residual, added, weights.gamma, weights.beta, &resources_);
  }

  // A block; the norm after the last one is the network's.
  Stream run_block(std::size_t layer, const Stream& in, const Pass& pass) {
    const model::ModelConfig& config = base_->config();
    const model::LayerSteps& steps = base_->layers()[layer];
    const BaseParams& params = pass.params;
    const weights::Rotation* rotation = pass.rotation;
    at::Tensor qkv = attention_input(layer, in[1], pass.plan, pass.view);
    if (config.has_qk_norms)
      qkv = QkNormFunction::apply(qkv, params.q_norms[layer].gamma, params.k_norms[layer].gamma,
                                  &resources_);
    if (config.rotary_at(layer) != nullptr)
      qkv = RotaryFunction::apply(qkv, pass.angles[config.uses_sliding_rotary(layer) ? 1 : 0],
                                  &resources_);
    if (rotation != nullptr && rotation->after_positions() != nullptr)
      qkv = turned(qkv, *rotation->after_positions(), config.num_heads + config.num_kv_heads);
    const AttentionArguments arguments{layer, &pass.plan.k_bits[layer], &pass.plan.v_bits[layer],
                                       pass.plan.ste_clip, &resources_};
    at::Tensor attended =
        linear(steps.attention_out, AttentionFunction::apply(qkv, pass.offsets, arguments),
               pass.plan, pass.view);
    if (config.has_out_norms) attended = normed_by(params.attention_out_norms[layer], attended);
    const Stream middle = add_and_norm(in[0], attended, params.mlp_norms[layer]);
    at::Tensor activated = activation(layer, middle[1], pass.plan, pass.view);
    if (rotation != nullptr && rotation->inner() != nullptr)
      activated = turned(activated, *rotation->inner(), 1);
    at::Tensor added = linear(steps.mlp_out, activated, pass.plan, pass.view);
    if (config.has_out_norms) added = normed_by(params.mlp_out_norms[layer], added);
    const NormParams& next = norm_after(layer, params);
    if (!turns_residual(rotation) || layer + 1 < config.num_layers)
      return add_and_norm(middle[0], added, next);
    const at::Tensor last = turned(middle[0] + added, *rotation->residual(), 1, /*inverse=*/true);
    return {last, normed_by(next, last)};
  }

  static bool turns_residual(const weights::Rotation* rotation) {
    return rotation != nullptr && rotation->residual() != nullptr;
  }

  const NormParams& norm_after(std::size_t layer, const BaseParams& params) const {
    return layer + 1 == base_->config().num_layers ? params.final_norm
                                                   : params.attention_norms[layer + 1];
  }

  const weights::BaseModel& model_of(const quant::QuantScheme& scheme) const {
    QALOF_CHECK(!scheme.is_rotated() || trainable_ == nullptr, ErrorKind::kUnsupported,
                "scheme {}: a base that trains cannot be rotated", quant::to_string(scheme));
    return *weights::model_for(base_, scheme);
  }

  // Only the norms of a frozen base; views, since nothing writes to them and the base outlives
  // them.
  const BaseParams& frozen_norms(const weights::BaseModel& base) {
    BaseParams& params = frozen_[&base];
    if (params.final_norm.gamma.defined()) return params;
    auto view = [](const std::vector<float>& values) {
      if (values.empty()) return no_tensor();
      return at::from_blob(const_cast<float*>(values.data()),
                           {static_cast<std::int64_t>(values.size())});
    };
    auto norm = [&](const weights::BaseModel::Norm& source) {
      return NormParams{view(source.gamma), view(source.beta)};
    };
    for (std::size_t layer = 0; layer < base.config().num_layers; ++layer) {
      params.attention_norms.push_back(norm(base.attention_norm(layer)));
      params.mlp_norms.push_back(norm(base.mlp_norm(layer)));
      params.attention_out_norms.push_back(norm(base.attention_out_norm(layer)));
      params.mlp_out_norms.push_back(norm(base.mlp_out_norm(layer)));
      params.q_norms.push_back(norm(base.q_norm(layer)));
      params.k_norms.push_back(norm(base.k_norm(layer)));
    }
    params.final_norm = norm(base.final_norm());
    return params;
  }

  // The rotary table [tokens, 2 * pairs] of layers with the main positions or with a window's.
  at::Tensor angles_of(const PackedBatch& batch, bool sliding) const {
    const std::size_t width = 2 * base_->rotary_pairs(sliding);
    if (width == 0) return {};
    at::Tensor angles =
        at::empty({static_cast<std::int64_t>(batch.tokens()), static_cast<std::int64_t>(width)});
    for (std::size_t w = 0; w < batch.windows(); ++w) {
      const std::size_t first = batch.offsets[w], count = batch.offsets[w + 1] - first;
      base_->rotary_table(sliding, std::span(batch.positions).subspan(first, count), count,
                          angles.mutable_data_ptr<float>() + first * width);
    }
    return angles;
  }

  // q, k and v [tokens, qkv_width] of a layer.
  at::Tensor attention_input(std::size_t layer, const at::Tensor& normed, const GraphPlan& plan,
                             const NetworkView& view) {
    std::vector<at::Tensor> parts;
    for (const std::size_t index : base_->layers()[layer].attention_in)
      parts.push_back(linear(index, normed, plan, view));
    return parts.size() == 1 ? parts.front() : at::cat(parts, 1);
  }

  // The input of a layer's mlp_out.
  at::Tensor activation(std::size_t layer, const at::Tensor& normed, const GraphPlan& plan,
                        const NetworkView& view) {
    const model::ModelConfig& config = base_->config();
    const std::vector<std::size_t>& steps = base_->layers()[layer].mlp_in;
    const at::Tensor inner = linear(steps.front(), normed, plan, view);
    if (!config.is_gated()) return GeluFunction::apply(inner, &resources_);
    if (steps.size() == 2)
      return GatedFunction::apply(inner, linear(steps[1], normed, plan, view), &resources_);
    const auto width = static_cast<std::int64_t>(config.inner);
    return GatedFunction::apply(inner.narrow(1, 0, width).contiguous(),
                                inner.narrow(1, width, width).contiguous(), &resources_);
  }

  at::Tensor normed_by(const NormParams& norm, const at::Tensor& x) {
    return LayerNormFunction::apply(x, norm.gamma, norm.beta, &resources_);
  }

  at::Tensor turned(const at::Tensor& x, const kernels::Hadamard& hadamard, std::size_t blocks,
                    bool inverse = false) {
    return HadamardFunction::apply(
        x, HadamardArguments{&hadamard, blocks, inverse, resources_.parallel});
  }

  at::Tensor linear(std::size_t index, const at::Tensor& x, const GraphPlan& plan,
                    const NetworkView& view) {
    LinearArguments arguments;
    arguments.index = index;
    arguments.lora_scaling = view.lora_scaling;
    arguments.ste_clip = plan.ste_clip;
    arguments.resources = &resources_;
    const bool has_lora = !view.lora.empty() && view.lora[index].a.defined();
    arguments.merged = view.merged && has_lora;
    const QuantizerParams quantizer =
        view.quantizers.empty() ? QuantizerParams{} : view.quantizers[index];
    arguments.linear = arguments.merged || quantizer.start
                           ? &own(index, plan, view, quantizer)
                           : &prepared(index, plan.linears[index], plan.scheme);
    auto given = [](const at::Tensor& tensor) { return tensor.defined() ? tensor : no_tensor(); };
    at::Tensor a = no_tensor(), b = no_tensor(), weight = no_tensor(), bias = no_tensor();
    if (has_lora) {
      a = view.lora[index].a;
      b = view.lora[index].b;
      if (const weights::Rotation* rotation = model_of(plan.scheme).rotation().get()) {
        const auto pair = RotatePairFunction::apply(a, b, rotation, index, view.lora_scaling);
        a = pair[0];
        b = pair[1];
        if (is_given(pair[2])) bias = pair[2];
      }
    }
    if (trainable_ != nullptr) {
      weight = trainable_->weights[index];
      bias = trainable_->biases[index];
    }
    return LinearFunction::apply(x, a, b, weight, bias, given(quantizer.steps),
                                 given(quantizer.clip), arguments);
  }

  const KernelLinear& prepared(std::size_t index, quant::Precision precision,
                               quant::QuantScheme scheme) {
    Entry& entry = linears_[{index, precision.weight.bits, precision.activation.bits, scheme}];
    if (entry.is_ready) return entry.linear;
    if (trainable_ != nullptr) {
      pack_trained(trainable_->weights[index], precision, scheme, entry);
      const at::Tensor& bias = trainable_->biases[index];
      entry.linear.call.bias = is_given(bias) ? bias.const_data_ptr<float>() : nullptr;
    } else {
      const weights::BaseModel& base = model_of(scheme);
      use(base.packed(index, precision, scheme, *resources_.parallel), precision, entry,
          base.shared_memory(),
          fmt::format("{} linear {} of {} bits in {}", base.shared_name(), index,
                      precision.weight.bits, quant::to_string(scheme.weights())));
      const std::vector<float>& bias = base.bias(index);
      entry.linear.call.bias = bias.empty() ? nullptr : bias.data();
    }
    entry.linear.call.range = weights::activation_range(scheme);
    return entry.linear;
  }

  // A linear whose weights or clip factor belong to the adapter, with their current values; the
  // same numbers as weights::adapt_linear.
  const KernelLinear& own(std::size_t index, const GraphPlan& plan, const NetworkView& view,
                          const QuantizerParams& quantizer) {
    const quant::Precision precision = plan.linears[index];
    const bool merged = view.merged && !view.lora.empty() && view.lora[index].a.defined();
    const at::Tensor& identity = merged                      ? view.lora[index].a
                                 : quantizer.steps.defined() ? quantizer.steps
                                                             : quantizer.clip;
    Entry& entry =
        own_linears_[{Key{index, precision.weight.bits, precision.activation.bits, plan.scheme},
                      identity.const_data_ptr<float>()}];
    if (entry.is_ready) return entry.linear;
    KernelLinear& linear = entry.linear;
    linear.own.values = quantizer.start ? quantizer.values() : weights::LearnedLinear{};
    linear.own.start = quantizer.start;
    const bool has_steps = !linear.own.values.steps.empty();
    if (!merged && !has_steps) {
      const KernelLinear& shared = prepared(index, precision, plan.scheme);
      linear.call = shared.call;
      linear.backward = shared.backward;
    } else {
      linear.own.base = &base_floats(index, plan.scheme);
      pack_own(index, precision, plan.scheme, merged ? &view : nullptr, entry);
    }
    linear.call.range.clip = linear.own.values.clip;
    entry.trains = identity.requires_grad();
    entry.is_ready = true;
    return linear;
  }

  void pack_own(std::size_t index, quant::Precision precision, const quant::QuantScheme& scheme,
                const NetworkView* merged, Entry& entry) {
    ParallelFor& parallel = *resources_.parallel;
    const model::LinearSpec& spec = base_->linears()[index];
    std::vector<float> sum;
    const std::vector<float>* floats = entry.linear.own.base;
    if (merged != nullptr) {
      sum = *floats;
      const LoraParams& pair = merged->lora[index];
      weights::add_low_rank(pair.a.const_data_ptr<float>(), pair.b.const_data_ptr<float>(),
                            static_cast<std::size_t>(pair.a.size(0)),
                            static_cast<float>(merged->lora_scaling), spec.out, spec.in, sum.data(),
                            parallel);
      floats = &sum;
    }
    entry.owned = weights::pack_own_weights(*floats, spec.out, spec.in, precision, scheme,
                                            &entry.linear.own.values, parallel);
    use(entry.owned->view, precision, entry);
    const std::vector<float>& bias = model_of(scheme).bias(index);
    entry.linear.call.bias = bias.empty() ? nullptr : bias.data();
    entry.linear.call.range = weights::activation_range(scheme);
  }

  const std::vector<float>& base_floats(std::size_t index, const quant::QuantScheme& scheme) {
    std::vector<float>& floats = base_floats_[{scheme.rotations, index}];
    if (floats.empty()) floats = model_of(scheme).source().linear_f32(index);
    return floats;
  }

  const KernelLinear& lm_head(quant::BitWidth width) {
    Entry& entry = linears_[{base_->linears().size(), width.bits, width.bits, {}}];
    if (entry.is_ready) return entry.linear;
    const quant::Precision precision{width, width};
    if (trainable_ != nullptr) {
      base_->require_lm_head();
      pack_trained(trainable_->lm_matrix(), precision, {}, entry);
    } else {
      use(base_->lm_head(width, *resources_.parallel), precision, entry);
    }
    return entry.linear;
  }

  void pack_trained(const at::Tensor& weight, quant::Precision precision, quant::QuantScheme scheme,
                    Entry& entry) {
    const float* values = weight.const_data_ptr<float>();
    const std::vector<float> copy(values, values + weight.numel());
    entry.owned = weights::pack_weights(copy, static_cast<std::size_t>(weight.size(0)),
                                        static_cast<std::size_t>(weight.size(1)), precision, scheme,
                                        *resources_.parallel);
    use(entry.owned->view, precision, entry);
  }

  // Sets the forward form and makes the backward form from it. shared: of a frozen base's weights
  // that processes share, or null; name tells them apart there.
  void use(const kernels::PackedMatrix& packed, quant::Precision precision, Entry& entry,
           SharedMemory* shared = nullptr, const std::string& name = "") {
    KernelLinear& linear = entry.linear;
    linear.call.precision = precision;
    linear.call.weight = packed;
    linear.backward = &entry.backward;
    if (resources_.gradient.bits != 0) pack_backward(packed, entry.backward, shared, name);
    entry.is_ready = true;
  }

  void pack_backward(const kernels::PackedMatrix& w, BackwardWeights& backward,
                     SharedMemory* shared, const std::string& name) {
    using kernels::WeightFormat;
    const bool is_integer = kernels::is_integer(w.format);
    const bool is_bf16 = w.format == WeightFormat::kBf16;
    int bits = is_integer || is_bf16 ? resources_.gradient.bits : 32;
    if (w.group != 0 || is_bf16) bits = std::max(bits, 16);
    kernels::PackedMatrix& matrix = backward.matrix;
    matrix = {};
    matrix.format = bits == 32   ? WeightFormat::kF32
                    : bits == 16 ? WeightFormat::kBf16
                                 : WeightFormat::kInt8;
    matrix.n = w.k;
    matrix.k = w.n;
    const std::size_t panels = kernels::packed_matrix_bytes(matrix.format, matrix.n, matrix.k);
    const std::size_t size = panels + (bits == 8 ? matrix.n * sizeof(std::int32_t) : 0);
    const std::byte* bytes = nullptr;
    if (shared != nullptr) {
      bytes = shared
                  ->get(fmt::format("{} from {} backward in {} bits", name,
                                    static_cast<int>(w.format), bits),
                        [&] {
                          std::vector<std::byte> made(size);
                          pack_transposed(w, matrix, made.data(), panels);
                          return made;
                        })
                  .data();
    } else {
      backward.owned.resize(size);  // keeps the buffer of an earlier packing
      pack_transposed(w, matrix, backward.owned.data(), panels);
      bytes = backward.owned.data();
    }
    matrix.panels = bytes;
    // Codes are exact in bf16; their scales are on the axis that is summed over, so dy takes them.
    if (is_integer && w.group == 0 && bits != 32)
      backward.dy_scales.assign(w.scales, w.scales + w.n);
    if (bits != 8) return;
    backward.ones.assign(matrix.n, 1.0F);
    matrix.scales = backward.ones.data();
    matrix.code_sums = reinterpret_cast<const std::int32_t*>(bytes + panels);
  }

  // Panels of w transposed, in the matrix's format; for integers followed by the sums of codes.
  void pack_transposed(const kernels::PackedMatrix& w, const kernels::PackedMatrix& matrix,
                       std::byte* bytes, std::size_t panels) {
    using kernels::WeightFormat;
    ParallelFor& parallel = *resources_.parallel;
    if (matrix.format == WeightFormat::kF32) {
      const std::vector<float> reals = weights::unpack_reals(w, parallel);
      kernels::pack_f32(reals.data(), matrix.n, matrix.k, matrix.n, /*transposed=*/true,
                        reinterpret_cast<float*>(bytes), parallel);
      return;
    }
    if (w.group != 0 || w.format == WeightFormat::kBf16) {
      // Scales per group of inputs cannot be applied to dy: packs dequantized values, rounded where
      // they are not bf16.
      const std::vector<float> reals =
          weights::transposed(weights::unpack_reals(w, parallel), w.n, w.k, parallel);
      kernels::pack_bf16(reals.data(), matrix.n, matrix.k, reinterpret_cast<std::uint16_t*>(bytes),
                         parallel);
      return;
    }
    std::vector<std::int8_t> codes(w.n * w.k);
    kernels::unpack_codes(w, codes.data());
    codes = weights::transposed(codes, w.n, w.k, parallel);
    if (matrix.format == WeightFormat::kBf16) {
      const std::vector<float> values(codes.begin(), codes.end());
      kernels::pack_bf16(values.data(), matrix.n, matrix.k, reinterpret_cast<std::uint16_t*>(bytes),
                         parallel);
      return;
    }
    kernels::pack_codes(codes.data(), matrix.n, matrix.k, matrix.format, bytes,
                        reinterpret_cast<std::int32_t*>(bytes + panels), parallel);
  }

  std::shared_ptr<const weights::BaseModel> base_;
  const BaseParams* trainable_;
  std::map<const weights::BaseModel*, BaseParams> frozen_;
  KernelResources resources_;
  std::map<Key, Entry> linears_;
  // Keyed by the address of the adapter's tensor, too, which outlives the graph.
  std::map<std::pair<Key, const float*>, Entry> own_linears_;
  std::map<std::pair<quant::Rotations, std::size_t>, std::vector<float>> base_floats_;
};

}  // namespace

GraphPlan::GraphPlan(const quant::PrecisionPlan& plan, double clip)
    : linears(plan.linears),
      scheme(plan.scheme),
      embedding{plan.default_width.bits == 32 ? 32 : 16},
      ste_clip(clip) {
  auto bits = [](const std::vector<quant::BitWidth>& widths) {
    std::vector<int> values;
    for (const quant::BitWidth width : widths) values.push_back(width.bits);
    return values;
  };
  for (const auto& widths : plan.k) k_bits.push_back(bits(widths));
  for (const auto& widths : plan.v) v_bits.push_back(bits(widths));
}

std::unique_ptr<Graph> make_kernel_graph(std::shared_ptr<const weights::BaseModel> base,
                                         const BaseParams* trainable, ParallelFor& parallel,
                                         GradientPrecision gradient,
                                         LinearObserver observe_linear) {
  return std::make_unique<KernelGraph>(std::move(base), trainable, parallel, gradient,
                                       std::move(observe_linear));
}

}  // namespace qalof::train
