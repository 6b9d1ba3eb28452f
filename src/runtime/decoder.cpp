// The forward pass over packed rows: batching by execution, attention with KV caches, the layers'
// linears, heads, and LM losses that hold few logits at a time.
#include "runtime/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/memory.h"
#include "kernels/gemm_shared.h"
#include "kernels/ops.h"
#include "kernels/quantize.h"
#include "weights/rotation.h"

namespace qalof::runtime {

namespace {

// Rows of logits held at a time by lm_token_losses: 64 x 50,257 floats are 13 MB.
constexpr std::size_t kLogitRows = 64;
constexpr std::size_t kRowsPerTask = 32;
// Linears that read the same rows: q, k and v, or gate and up.
constexpr std::size_t kMostShared = 3;

template <typename T>
void grow(std::vector<T>& buffer, std::size_t count) {
  if (buffer.size() < count) resize_for("numbers between layers", buffer, count);
}

const Execution& execution_of(const Execution& call, const Sequence& sequence) {
  return sequence.execution != nullptr ? *sequence.execution : call;
}

kernels::RowInput::Op row_operation(model::Activation activation) {
  switch (activation) {
    case model::Activation::kGeluTanh:
      return kernels::RowInput::Op::kGeluTanh;
    case model::Activation::kGeluErf:
      return kernels::RowInput::Op::kGeluErf;
    case model::Activation::kSwiGlu:
      return kernels::RowInput::Op::kSwiGlu;
    case model::Activation::kGeGluTanh:
      return kernels::RowInput::Op::kGeGluTanh;
    case model::Activation::kGeGluErf:
      return kernels::RowInput::Op::kGeGluErf;
  }
  fail(ErrorKind::kInternal, "activation {}", static_cast<int>(activation));
}

void check_sequence(const Execution& execution, const weights::BaseModel& base,
                    const Sequence& sequence, std::size_t s) {
  const model::ModelConfig& config = base.config();
  const KvCache* cache = sequence.cache;
  const std::size_t past = cache != nullptr ? cache->length() : 0;
  QALOF_CHECK(!sequence.ids.empty(), ErrorKind::kBadInput, "sequence {} is empty", s);
  QALOF_CHECK(past + sequence.ids.size() <= config.max_length(), ErrorKind::kBadInput,
              "sequence {} has {} tokens, the model has {} positions", s,
              past + sequence.ids.size(), config.max_length());
  QALOF_CHECK(cache == nullptr || past + sequence.ids.size() <= cache->capacity(),
              ErrorKind::kResource,
              "sequence {}: the KV cache holds {} of {} positions, {} more do not fit", s, past,
              cache->capacity(), sequence.ids.size());
  QALOF_CHECK(&execution.base() == &base, ErrorKind::kInternal,
              "sequence {}: its execution is of another base model", s);
  QALOF_CHECK(cache == nullptr || cache->precision() == execution.kv(), ErrorKind::kInternal,
              "sequence {}: its KV cache was made for other widths", s);
  for (std::size_t i = 0; i < sequence.ids.size(); ++i) {
    const std::int32_t id = sequence.ids[i];
    QALOF_CHECK(id >= 0 && static_cast<std::size_t>(id) < config.vocab_size, ErrorKind::kBadInput,
                "sequence {}: token id {} at {}, expected 0..{}", s, id, i, config.vocab_size - 1);
  }
}

// The rows of a sequence: its new tokens, and before them those of its cache where their keys must
// be computed anew because the sequence is now longer than a bound of its rotary positions.
DecoderWorkspace::Placed placed_rows(const Sequence& sequence, std::size_t index,
                                     std::size_t out_row, const model::ModelConfig& config) {
  DecoderWorkspace::Placed placed{index, nullptr, 0, sequence.ids.size(), out_row};
  if (sequence.cache == nullptr) return placed;
  const KvCache& cache = *sequence.cache;
  placed.past = cache.length();
  const std::size_t scaling = config.scaling_length(placed.past + placed.rows);
  if (placed.past == 0 || scaling == cache.scaling_length()) return placed;
  placed.again = placed.past;
  placed.rows += placed.past;
  placed.past = 0;
  return placed;
}

// Orders the rows so that the sequences of one execution are contiguous; executions and sequences
// keep their order of first appearance.
void place(const Execution& call, std::span<const Sequence> sequences,
           DecoderWorkspace& workspace) {
  workspace.groups.clear();
  workspace.placed.clear();
  workspace.ids.clear();
  workspace.positions.clear();
  std::size_t out_row = 0;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const Execution& execution = execution_of(call, sequences[s]);
    check_sequence(execution, call.base(), sequences[s], s);
    workspace.placed.push_back(placed_rows(sequences[s], s, out_row, call.base().config()));
    out_row += sequences[s].ids.size();
    bool known = false;
    for (const auto& group : workspace.groups) known = known || group.execution == &execution;
    if (!known) workspace.groups.push_back({&execution, 0, 0, false});
  }
  std::size_t next = 0, row = 0;  // placed[0..next) are final
  for (auto& group : workspace.groups) {
    group.first_row = row;
    for (std::size_t i = next; i < workspace.placed.size(); ++i) {
      const Sequence& sequence = sequences[workspace.placed[i].sequence];
      if (&execution_of(call, sequence) != group.execution) continue;
      // Keeps the order of the others.
      std::rotate(workspace.placed.begin() + static_cast<std::ptrdiff_t>(next),
                  workspace.placed.begin() + static_cast<std::ptrdiff_t>(i),
                  workspace.placed.begin() + static_cast<std::ptrdiff_t>(i + 1));
      DecoderWorkspace::Placed& placed = workspace.placed[next++];
      placed.execution = group.execution;
      placed.row = row;
      row += placed.rows;
      group.has_cache = group.has_cache || sequence.cache != nullptr;
      if (placed.again > 0) {
        const std::span<const std::int32_t> before = sequence.cache->ids();
        workspace.ids.insert(workspace.ids.end(), before.begin(), before.end());
      }
      workspace.ids.insert(workspace.ids.end(), sequence.ids.begin(), sequence.ids.end());
      for (std::size_t t = 0; t < placed.rows; ++t)
        workspace.positions.push_back(static_cast<std::int32_t>(placed.past + t));
    }
    group.rows = row - group.first_row;
  }
}

// True where two linears without adapters quantize and read rows alike.
bool share_rows(const weights::LinearCall& a, const weights::LinearCall& b) {
  const auto is_plain = [](const weights::LinearCall& call) {
    return call.precision.activation.is_integer() && call.lora == nullptr &&
           call.outlier_threshold == 0;
  };
  return is_plain(a) && is_plain(b) && a.precision.activation.bits == b.precision.activation.bits &&
         a.range.group == b.range.group && a.range.asymmetric == b.range.asymmetric &&
         a.range.clip == b.range.clip && kernels::share_rows(a.weight, b.weight);
}

std::uint64_t linear_bytes(const weights::LinearCall& call, std::size_t rows) {
  return kernels::packed_matrix_bytes(call.weight.format, call.weight.n, call.weight.k) +
         rows * (call.weight.n + call.weight.k) * sizeof(float);
}

kernels::AttentionShape attention_shape(const model::ModelConfig& config, std::size_t layer,
                                        const QkvLayout& qkv) {
  kernels::AttentionShape shape{};
  shape.heads = config.num_heads;
  shape.kv_heads = config.num_kv_heads;
  shape.head_dim = config.head_dim();
  shape.q_stride = qkv.q_stride;
  shape.k_stride = qkv.kv_stride;
  shape.v_stride = qkv.kv_stride;
  shape.out_stride = config.q_width();
  shape.scale = config.score_scale(layer);
  shape.window = config.window(layer);
  shape.score_cap = config.score_cap;
  return shape;
}

// One layer's attention of all sequences: rounds K and V, stores them in the caches and attends.
void run_attention(std::span<const Sequence> sequences, const model::ModelConfig& config,
                   std::size_t layer, const QkvLayout& qkv, DecoderWorkspace& workspace,
                   ParallelFor& parallel) {
  const std::size_t q_width = config.q_width();
  const std::size_t kv_width = config.kv_width();
  const kernels::AttentionShape shape = attention_shape(config, layer, qkv);
  const auto multiplies_codes = [&](const Execution& execution) {
    return runtime::multiplies_codes(shape, execution.kv().k_bits[layer],
                                     execution.kv().v_bits[layer]);
  };
  const auto rows_at = [&](std::size_t row, bool with_codes) {
    const std::size_t at = row * kv_width, scale_at = row * config.num_kv_heads;
    KvRows k{qkv.k + row * qkv.kv_stride, qkv.kv_stride};
    KvRows v{qkv.v + row * qkv.kv_stride, qkv.kv_stride};
    if (with_codes) {
      k.codes = workspace.k_codes.data() + at;
      v.codes = workspace.v_codes.data() + at;
      k.scales = workspace.k_scales.data() + scale_at;
      v.scales = workspace.v_scales.data() + scale_at;
    }
    return std::pair{k, v};
  };
  for (const auto& group : workspace.groups) {
    const bool only_codes = multiplies_codes(*group.execution);
    auto [k, v] = rows_at(group.first_row, group.has_cache || only_codes);
    k.only_codes = v.only_codes = only_codes;
    const KvPrecision& precision = group.execution->kv();
    quantize_kv(k, group.rows, config, precision.k_bits[layer], precision.scheme, parallel);
    quantize_kv(v, group.rows, config, precision.v_bits[layer], precision.scheme, parallel);
  }
  // Where a layer's window moves over what a cache holds, a sequence's rows go through it in
  // pieces: the first of all sequences, then the second of those that are longer, and so on.
  for (std::size_t round = 0;; ++round) {
    std::size_t count = 0;
    for (const auto& at : workspace.placed) {
      KvCache* cache = sequences[at.sequence].cache;
      const std::size_t past = cache == nullptr ? 0 : cache->length();
      const std::size_t piece = past == 0 ? at.rows : cache->piece(layer);
      const std::size_t written = round * piece;
      if (written >= at.rows) continue;
      const std::size_t row = at.row + written;
      const auto [k, v] = rows_at(row, true);
      kernels::AttentionSequence& work = workspace.sequences[count];
      work = {};
      work.q = qkv.q + row * qkv.q_stride;
      work.k = k.values;
      work.v = v.values;
      work.out = workspace.attended.data() + row * q_width;
      work.q_len = std::min(piece, at.rows - written);
      work.multiplies_codes = multiplies_codes(*at.execution);
      if (cache != nullptr) cache->write(layer, k, v, work.q_len, written, parallel);
      if (past > 0) {
        work.past = past + written - cache->first(layer);
        work.stored_k = cache->k(layer);
        work.stored_v = cache->v(layer);
      } else if (work.multiplies_codes) {
        const std::size_t heads = config.num_kv_heads;
        work.stored_k = stored_heads(k, config, workspace.new_heads.data() + 2 * count * heads);
        work.stored_v =
            stored_heads(v, config, workspace.new_heads.data() + (2 * count + 1) * heads);
      }
      // Else the first chunk reads its own keys as floats: faster than the cache, and bitwise the
      // same.
      ++count;
    }
    if (count == 0) return;
    kernels::attention(shape, workspace.sequences.data(), count, parallel);
  }
}

// Norms the heads of q and k, applies rotary positions to them and, in a rotated model, then the
// Hadamard rotation of heads; each where the model has it.
void prepare_qk(const weights::BaseModel& base, std::size_t layer, const QkvLayout& qkv,
                const DecoderWorkspace& workspace, ParallelFor& parallel) {
  const model::ModelConfig& config = base.config();
  const std::size_t tokens = workspace.ids.size(), dim = config.head_dim();
  const bool sliding = config.uses_sliding_rotary(layer);
  const auto prepare = [&](float* x, std::size_t stride, std::size_t heads,
                           const std::vector<float>& gain) {
    if (!gain.empty())
      kernels::norm_heads(x, tokens, stride, heads, dim, gain.data(), config.norm_epsilon, x,
                          nullptr, parallel);
    if (config.rotary_at(layer) != nullptr)
      kernels::rotate(x, tokens, stride, {heads, dim, base.rotary_pairs(sliding)},
                      workspace.rotary[sliding ? 1 : 0].data(), parallel);
    if (base.rotation() != nullptr && base.rotation()->after_positions() != nullptr)
      base.rotation()->after_positions()->apply(x, tokens, stride, heads, parallel);
  };
  prepare(qkv.q, qkv.q_stride, config.num_heads, base.q_norm(layer).gamma);
  prepare(qkv.k, qkv.kv_stride, config.num_kv_heads, base.k_norm(layer).gamma);
}

}  // namespace

QkvLayout qkv_layout(const model::ModelConfig& config, const model::LayerSteps& steps,
                     std::size_t tokens, float* base) {
  const std::size_t q_width = config.q_width(), kv_width = config.kv_width();
  if (steps.attention_in.size() == 1) {
    const std::size_t row = config.qkv_width();
    return {base, base + q_width, base + q_width + kv_width, row, row};
  }
  float* k = base + tokens * q_width;
  return {base, k, k + tokens * kv_width, q_width, kv_width};
}

namespace {

struct Layers {
  std::size_t first, end;
  const float* states;  // input of layer first, or null: layer 0 reads the embeddings
};

// One pass of sequences through a stretch of layers. The residual stream stays in the workspace;
// each step adds to it.
class ForwardPass {
 public:
  ForwardPass(const Execution& execution, std::span<const Sequence> sequences,
              DecoderWorkspace& workspace, ParallelFor& parallel, Profile* profile)
      : base_(execution.base()),
        config_(base_.config()),
        sequences_(sequences),
        workspace_(workspace),
        parallel_(parallel),
        profile_(profile),
        hidden_(config_.hidden),
        rotation_(base_.rotation().get()) {
    place(execution, sequences, workspace);
    tokens_ = workspace.ids.size();
    reserve();
    residual_ = workspace.residual.data();
    qkv_ = qkv_layout(config_, base_.layers().front(), tokens_, workspace.qkv.data());
  }

  // hidden_out null: skips the final norm.
  void run(const Layers& layers, float* hidden_out) {
    begin(layers.states);
    for (std::size_t layer = layers.first; layer < layers.end; ++layer) {
      if (workspace_.observe_states) workspace_.observe_states(layer, residual_, tokens_);
      attention(layer);
      mlp(layer);
    }
    if (hidden_out != nullptr) finish(hidden_out);
  }

 private:
  std::uint64_t row_bytes() const { return tokens_ * hidden_ * sizeof(float); }

  void reserve() {
    const std::size_t kv_width = config_.kv_width();
    grow(workspace_.residual, tokens_ * hidden_);
    grow(workspace_.normed, tokens_ * hidden_);
    grow(workspace_.qkv, tokens_ * config_.qkv_width());
    for (auto* buffer : {&workspace_.k_codes, &workspace_.v_codes})
      grow(*buffer, tokens_ * kv_width);
    for (auto* buffer : {&workspace_.k_scales, &workspace_.v_scales})
      grow(*buffer, tokens_ * config_.num_kv_heads);
    grow(workspace_.attended, tokens_ * config_.q_width());
    grow(workspace_.inner, (config_.is_gated() ? 2 : 1) * tokens_ * config_.inner);
    if (is_gate_fused()) grow(workspace_.activated, tokens_ * config_.inner);
    grow(workspace_.projected, tokens_ * hidden_);
    grow(workspace_.sequences, sequences_.size());
    grow(workspace_.new_heads, 2 * sequences_.size() * config_.num_kv_heads);
  }
  bool is_gate_fused() const {
    return config_.is_gated() && base_.layers().front().mlp_in.size() == 1;
  }

  // Fills the residual stream: with states [tokens, hidden], or null: with embeddings.
  void begin(const float* states) {
    if (states != nullptr) {
      std::copy_n(states, tokens_ * hidden_, residual_);
    } else {
      const Profile::Scope scope(profile_, "embed", 2 * row_bytes());
      const std::span<const std::int32_t> ids(workspace_.ids), positions(workspace_.positions);
      for (const auto& group : workspace_.groups) {
        base_.embed(ids.subspan(group.first_row, group.rows),
                    positions.subspan(group.first_row, group.rows),
                    group.execution->embedding_width(), residual_ + group.first_row * hidden_);
      }
    }
    for (const bool sliding : {false, true}) make_rotary_table(sliding);
    for (const auto& at : workspace_.placed) {
      KvCache* cache = sequences_[at.sequence].cache;
      if (cache == nullptr) continue;
      const std::span<const std::int32_t> ids(workspace_.ids);
      cache->follow(ids.subspan(at.row, at.rows), config_.scaling_length(at.past + at.rows),
                    at.again > 0);
    }
  }

  void make_rotary_table(bool sliding) {
    const std::size_t width = 2 * base_.rotary_pairs(sliding);
    if (width == 0) return;
    std::vector<float>& table = workspace_.rotary[sliding ? 1 : 0];
    grow(table, tokens_ * width);
    const std::span<const std::int32_t> positions(workspace_.positions);
    for (const auto& at : workspace_.placed)
      base_.rotary_table(sliding, positions.subspan(at.row, at.rows), at.past + at.rows,
                         table.data() + at.row * width);
  }

  void attention(std::size_t layer) {
    const model::LayerSteps& steps = base_.layers()[layer];
    float* const outputs[] = {qkv_.q, qkv_.k, qkv_.v};
    linears_of_norm("self_attn.qkv", steps.attention_in, base_.attention_norm(layer), outputs);
    {
      const Profile::Scope scope(
          profile_, "attention",
          tokens_ * (config_.qkv_width() + config_.q_width()) * sizeof(float) +
              cached_bytes() / config_.num_layers);
      if (config_.rotary || config_.has_qk_norms)
        prepare_qk(base_, layer, qkv_, workspace_, parallel_);
      run_attention(sequences_, config_, layer, qkv_, workspace_, parallel_);
    }
    linear(steps.attention_out, {workspace_.attended.data()}, workspace_.projected.data());
    add_projected(base_.attention_out_norm(layer));
  }

  void mlp(std::size_t layer) {
    const model::LayerSteps& steps = base_.layers()[layer];
    float* const inner = workspace_.inner.data();
    float* const outputs[] = {inner, inner + tokens_ * config_.inner};
    linears_of_norm("mlp.gate_up", steps.mlp_in, base_.mlp_norm(layer), outputs);
    kernels::RowInput activated{inner, row_operation(config_.activation)};
    activated.result = inner;
    if (rotation_ != nullptr) activated.hadamard = rotation_->inner();
    if (is_gate_fused()) {
      activated.up = inner + config_.inner;
      activated.stride = 2 * config_.inner;
      activated.result = workspace_.activated.data();
    } else if (config_.is_gated()) {
      activated.up = outputs[1];
    }
    linear(steps.mlp_out, activated, workspace_.projected.data());
    add_projected(base_.mlp_out_norm(layer));
  }

  // Writes normed states in the order of the sequences, and moves their caches on.
  void finish(float* hidden_out) {
    if (rotation_ != nullptr) rotation_->leave_residual(residual_, tokens_, parallel_);
    const bool in_order =
        workspace_.groups.size() <= 1 &&
        std::ranges::all_of(workspace_.placed, [](const auto& at) { return at.again == 0; });
    if (in_order) {
      final_norm(0, tokens_, hidden_out);
    } else {
      for (const auto& at : workspace_.placed)
        final_norm(at.row + at.again, at.rows - at.again, hidden_out + at.out_row * hidden_);
    }
    for (const auto& at : workspace_.placed) {
      KvCache* cache = sequences_[at.sequence].cache;
      if (cache != nullptr) cache->advance(at.rows);
    }
  }

  // Runs one linear on all rows of the workspace, group by group.
  void linear(std::size_t index, const kernels::RowInput& input, float* y) {
    for (const auto& group : workspace_.groups) linear(group, index, input, y);
  }
  // input and y: of all rows.
  void linear(const DecoderWorkspace::Group& group, std::size_t index,
              const kernels::RowInput& input, float* y) {
    const weights::LinearCall& call = group.execution->linear(index);
    const Profile::Scope scope(profile_, base_.linears()[index].name_in_layer(),
                               linear_bytes(call, group.rows));
    const kernels::RowInput rows = rows_of(group, input, call.weight.k);
    weights::run_linear(call, rows, group.rows, y + group.first_row * call.weight.n,
                        workspace_.linear, parallel_);
    if (workspace_.observe_inputs && !call.precision.activation.is_integer()) {
      const bool is_plain = rows.op == kernels::RowInput::Op::kNone;
      workspace_.observe_inputs(index, is_plain ? rows.x : rows.result, group.rows);
    }
  }
  static kernels::RowInput rows_of(const DecoderWorkspace::Group& group,
                                   const kernels::RowInput& input, std::size_t k) {
    const std::size_t at = group.first_row * k;
    const std::size_t read_at = input.stride != 0 ? group.first_row * input.stride : at;
    kernels::RowInput rows = input;
    rows.x += read_at;
    if (rows.up != nullptr) rows.up += read_at;
    if (rows.result != nullptr) rows.result += at;
    return rows;
  }

  // A single linear fuses the norm. Several linears share rows: normed and quantized once where
  // their weights allow it, else normed first.
  void linears_of_norm(const char* name, const std::vector<std::size_t>& indices,
                       const weights::BaseModel::Norm& norm, std::span<float* const> outputs) {
    const kernels::RowInput input = normed_residual(norm);
    if (indices.size() == 1) return linear(indices.front(), input, outputs.front());
    for (const auto& group : workspace_.groups) {
      if (run_shared(name, group, indices, input, outputs)) continue;
      {
        const Profile::Scope scope(profile_, "norm", 2 * group.rows * hidden_ * sizeof(float));
        norm_rows(norm, group.first_row, group.rows,
                  workspace_.normed.data() + group.first_row * hidden_);
      }
      for (std::size_t i = 0; i < indices.size(); ++i)
        linear(group, indices[i], {workspace_.normed.data()}, outputs[i]);
    }
  }

  // Runs linears on the same rows in one pass; false where they cannot share them.
  bool run_shared(const char* name, const DecoderWorkspace::Group& group,
                  const std::vector<std::size_t>& indices, const kernels::RowInput& input,
                  std::span<float* const> outputs) {
    kernels::SharedProduct products[kMostShared];
    if (indices.size() > kMostShared) return false;
    const weights::LinearCall& first = group.execution->linear(indices.front());
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < indices.size(); ++i) {
      const weights::LinearCall& call = group.execution->linear(indices[i]);
      if (!share_rows(first, call)) return false;
      products[i] = {&call.weight, call.bias, outputs[i] + group.first_row * call.weight.n};
      bytes += linear_bytes(call, group.rows);
    }
    const Profile::Scope scope(profile_, name, bytes);
    kernels::RowInput rows = rows_of(group, input, first.weight.k);
    rows.result = nullptr;
    kernels::quantize_gemm_int_shared(rows, first.precision.activation.bits, group.rows,
                                      std::span(products).first(indices.size()), parallel_,
                                      first.range);
    return true;
  }

  kernels::RowInput normed_residual(const weights::BaseModel::Norm& norm) const {
    const bool is_rms = config_.norm == model::NormKind::kRms || norm.beta.empty();
    return {residual_,
            is_rms ? kernels::RowInput::Op::kRmsNorm : kernels::RowInput::Op::kLayerNorm,
            norm.gamma.data(),
            norm.beta.data(),
            config_.norm_epsilon,
            workspace_.normed.data()};
  }

  void norm_rows(const weights::BaseModel::Norm& norm, std::size_t first, std::size_t rows,
                 float* dst) {
    const float* src = residual_ + first * hidden_;
    if (norm.beta.empty()) {
      kernels::rms_norm(src, rows, hidden_, norm.gamma.data(), config_.norm_epsilon, dst, nullptr,
                        parallel_);
    } else {
      kernels::layer_norm(src, rows, hidden_, norm.gamma.data(), norm.beta.data(),
                          config_.norm_epsilon, dst, nullptr, parallel_);
    }
  }

  void final_norm(std::size_t first, std::size_t rows, float* dst) {
    const Profile::Scope scope(profile_, "final_norm", 2 * rows * hidden_ * sizeof(float));
    norm_rows(base_.final_norm(), first, rows, dst);
  }

  // norm: of what is added; without gain there is none.
  void add_projected(const weights::BaseModel::Norm& norm) {
    const Profile::Scope scope(profile_, "residual", 3 * row_bytes());
    float* added = workspace_.projected.data();
    if (!norm.gamma.empty())
      kernels::rms_norm(added, tokens_, hidden_, norm.gamma.data(), config_.norm_epsilon, added,
                        nullptr, parallel_);
    kernels::add_in_place(workspace_.projected.data(), tokens_ * hidden_, residual_, parallel_);
  }

  // Of all layers.
  std::uint64_t cached_bytes() const {
    std::uint64_t bytes = 0;
    for (const Sequence& sequence : sequences_) {
      if (const KvCache* cache = sequence.cache; cache != nullptr) bytes += cache->held_bytes();
    }
    return bytes;
  }

  const weights::BaseModel& base_;
  const model::ModelConfig& config_;
  std::span<const Sequence> sequences_;
  DecoderWorkspace& workspace_;
  ParallelFor& parallel_;
  Profile* profile_;
  std::size_t hidden_, tokens_ = 0;
  const weights::Rotation* rotation_;  // of a rotated base; else null
  float* residual_ = nullptr;          // [tokens, hidden]
  QkvLayout qkv_{};
};

void check_layers(const Execution& execution, std::span<const Sequence> sequences,
                  std::size_t first_layer, std::size_t end_layer) {
  const std::size_t layers = execution.base().config().num_layers;
  QALOF_CHECK(first_layer < end_layer && end_layer <= layers, ErrorKind::kInternal,
              "forward from layer {} to {}: the model has {}", first_layer, end_layer, layers);
  for (const Sequence& sequence : sequences) {
    QALOF_CHECK(sequence.cache == nullptr && sequence.execution == nullptr, ErrorKind::kInternal,
                "forward from layer {}: a sequence has a cache or an execution of its own",
                first_layer);
  }
}

}  // namespace

void forward(const Execution& execution, std::span<const Sequence> sequences,
             DecoderWorkspace& workspace, float* hidden, ParallelFor& parallel, Profile* profile) {
  ForwardPass(execution, sequences, workspace, parallel, profile)
      .run({0, execution.base().config().num_layers, nullptr}, hidden);
}

void forward_from(const Execution& execution, std::span<const Sequence> sequences,
                  std::size_t first_layer, const float* states, DecoderWorkspace& workspace,
                  float* hidden, ParallelFor& parallel) {
  const std::size_t end = execution.base().config().num_layers;
  check_layers(execution, sequences, first_layer, end);
  ForwardPass(execution, sequences, workspace, parallel, nullptr)
      .run({first_layer, end, states}, hidden);
}

void forward_layers(const Execution& execution, std::span<const Sequence> sequences,
                    std::size_t first_layer, std::size_t end_layer, const float* states,
                    DecoderWorkspace& workspace, ParallelFor& parallel) {
  check_layers(execution, sequences, first_layer, end_layer);
  ForwardPass(execution, sequences, workspace, parallel, nullptr)
      .run({first_layer, end_layer, states}, nullptr);
}

void apply_head(const weights::Head& head, const float* hidden, std::size_t rows, std::size_t width,
                float* logits, ParallelFor& parallel) {
  const std::size_t tasks = (rows + kRowsPerTask - 1) / kRowsPerTask;
  parallel.run(tasks, [&](std::size_t task) {
    const std::size_t end = std::min(rows, (task + 1) * kRowsPerTask);
    for (std::size_t row = task * kRowsPerTask; row < end; ++row) {
      const float* h = hidden + row * width;
      for (std::size_t o = 0; o < head.outputs; ++o) {
        const float* w = head.weight.data() + o * width;
        // Sixteen partial sums: a fixed order that the compiler can keep in registers.
        float sums[16] = {};
        std::size_t i = 0;
        for (; i + 16 <= width; i += 16) {
          for (std::size_t lane = 0; lane < 16; ++lane) sums[lane] += h[i + lane] * w[i + lane];
        }
        for (std::size_t lane = 0; i < width; ++i, ++lane) sums[lane] += h[i] * w[i];
        for (std::size_t half = 8; half > 0; half /= 2) {
          for (std::size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
        }
        logits[row * head.outputs + o] = sums[0] + (head.bias.empty() ? 0.0F : head.bias[o]);
      }
    }
  });
}

void lm_logits(const Execution& execution, const float* hidden, std::size_t rows, float* logits,
               ParallelFor& parallel, weights::LinearWorkspace* workspace) {
  const quant::BitWidth width = execution.lm_head_width();
  weights::LinearWorkspace own;
  weights::LinearCall call;
  call.precision = weights::lm_head_precision(width);
  call.weight = execution.base().lm_head(width, parallel);
  weights::run_linear(call, hidden, rows, logits, workspace != nullptr ? *workspace : own,
                      parallel);
  const model::ModelConfig& config = execution.base().config();
  if (config.logit_cap != 0)
    kernels::soft_cap(logits, rows * config.vocab_size, config.logit_cap, parallel);
}

std::vector<float> lm_token_losses(const Execution& execution, const float* hidden,
                                   std::span<const std::int32_t> targets, ParallelFor& parallel) {
  const model::ModelConfig& config = execution.base().config();
  const std::size_t vocab = config.vocab_size;
  std::vector<float> losses(targets.size());
  std::vector<float> logits(std::min(kLogitRows, targets.size()) * vocab);
  for (std::size_t first = 0; first < targets.size(); first += kLogitRows) {
    const std::size_t rows = std::min(kLogitRows, targets.size() - first);
    lm_logits(execution, hidden + first * config.hidden, rows, logits.data(), parallel);
    parallel.run(rows, [&](std::size_t row) {
      const float* z = logits.data() + row * vocab;
      const float top = *std::max_element(z, z + vocab);
      double sum = 0;
      for (std::size_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(z[i] - top));
      const auto target = static_cast<std::size_t>(targets[first + row]);
      losses[first + row] = static_cast<float>(std::log(sum) + static_cast<double>(top) -
                                               static_cast<double>(z[target]));
    });
  }
  return losses;
}

}  // namespace qalof::runtime
