// The forward pass over packed rows: batching by execution, attention with KV caches, the layers'
// linears, heads, and LM losses that hold few logits at a time.
#include "runtime/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/memory.h"
#include "kernels/ops.h"
#include "kernels/quantize.h"
#include "weights/rotation.h"

namespace qalof::runtime {

namespace {

// Rows of logits held at a time by lm_token_losses: 64 x 50,257 floats are 13 MB.
constexpr std::size_t kLogitRows = 64;
constexpr std::size_t kRowsPerTask = 32;

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
  }
  fail(ErrorKind::kInternal, "activation {}", static_cast<int>(activation));
}

void check_sequence(const Execution& execution, const weights::BaseModel& base,
                    const Sequence& sequence, std::size_t s) {
  const model::ModelConfig& config = base.config();
  const KvCache* cache = sequence.cache;
  const std::size_t past = cache != nullptr ? cache->length() : 0;
  QALOF_CHECK(!sequence.ids.empty(), ErrorKind::kBadInput, "sequence {} is empty", s);
  QALOF_CHECK(past + sequence.ids.size() <= config.max_positions, ErrorKind::kBadInput,
              "sequence {} has {} tokens, the model has {} positions", s,
              past + sequence.ids.size(), config.max_positions);
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
    workspace.placed.push_back({s, 0, sequences[s].ids.size(), out_row});
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
      workspace.placed[next++].row = row;
      row += sequence.ids.size();
      group.has_cache = group.has_cache || sequence.cache != nullptr;
      const std::size_t past = sequence.cache != nullptr ? sequence.cache->length() : 0;
      for (std::size_t t = 0; t < sequence.ids.size(); ++t) {
        workspace.ids.push_back(sequence.ids[t]);
        workspace.positions.push_back(static_cast<std::int32_t>(past + t));
      }
    }
    group.rows = row - group.first_row;
  }
}

std::uint64_t linear_bytes(const weights::LinearCall& call, std::size_t rows) {
  return kernels::packed_matrix_bytes(call.weight.format, call.weight.n, call.weight.k) +
         rows * (call.weight.n + call.weight.k) * sizeof(float);
}

// One layer's attention of all sequences: rounds K and V, stores them in the caches and attends.
void run_attention(std::span<const Sequence> sequences, const model::ModelConfig& config,
                   std::size_t layer, const QkvLayout& qkv, DecoderWorkspace& workspace,
                   ParallelFor& parallel) {
  const std::size_t hidden = config.hidden;
  const std::size_t kv_width = config.kv_width();
  const auto rows_at = [&](std::size_t row, bool has_cache) {
    const std::size_t at = row * kv_width, scale_at = row * config.num_kv_heads;
    KvRows k{qkv.k + row * qkv.kv_stride, qkv.kv_stride};
    KvRows v{qkv.v + row * qkv.kv_stride, qkv.kv_stride};
    if (has_cache) {
      k.codes = workspace.k_codes.data() + at;
      v.codes = workspace.v_codes.data() + at;
      k.scales = workspace.k_scales.data() + scale_at;
      v.scales = workspace.v_scales.data() + scale_at;
    }
    return std::pair{k, v};
  };
  for (const auto& group : workspace.groups) {
    const auto [k, v] = rows_at(group.first_row, group.has_cache);
    const KvPrecision& precision = group.execution->kv();
    quantize_kv(k, group.rows, config, precision.k_bits[layer], precision.scheme, parallel);
    quantize_kv(v, group.rows, config, precision.v_bits[layer], precision.scheme, parallel);
  }
  for (std::size_t i = 0; i < workspace.placed.size(); ++i) {
    const auto& at = workspace.placed[i];
    const auto [k, v] = rows_at(at.row, true);
    kernels::AttentionSequence& work = workspace.sequences[i];
    work = {};
    work.q = qkv.q + at.row * qkv.q_stride;
    work.k = k.values;
    work.v = v.values;
    work.out = workspace.attended.data() + at.row * hidden;
    work.q_len = at.rows;
    KvCache* cache = sequences[at.sequence].cache;
    if (cache == nullptr) continue;
    cache->write(layer, k, v, at.rows, parallel);
    work.past = cache->length();
    // The first chunk reads its own keys as floats: faster than the cache, and bitwise the same.
    if (work.past == 0) continue;
    work.stored_k = cache->k(layer);
    work.stored_v = cache->v(layer);
  }
  kernels::AttentionShape shape{};
  shape.heads = config.num_heads;
  shape.kv_heads = config.num_kv_heads;
  shape.head_dim = config.head_dim();
  shape.q_stride = qkv.q_stride;
  shape.k_stride = qkv.kv_stride;
  shape.v_stride = qkv.kv_stride;
  shape.out_stride = hidden;
  shape.scale = 1.0F / std::sqrt(static_cast<float>(config.head_dim()));
  kernels::attention(shape, workspace.sequences.data(), workspace.placed.size(), parallel);
}

// Applies rotary positions to q and k and, in a rotated model, then the Hadamard rotation of heads.
void rotate_qk(const weights::BaseModel& base, const QkvLayout& qkv,
               const DecoderWorkspace& workspace, ParallelFor& parallel) {
  const model::ModelConfig& config = base.config();
  const std::size_t half = base.rotary().size(), tokens = workspace.ids.size();
  kernels::rotate(qkv.q, tokens, qkv.q_stride, config.num_heads, half, workspace.rotary.data(),
                  parallel);
  kernels::rotate(qkv.k, tokens, qkv.kv_stride, config.num_kv_heads, half, workspace.rotary.data(),
                  parallel);
  if (base.rotation() == nullptr) return;
  const kernels::Hadamard& head = *base.rotation()->after_positions();
  head.apply(qkv.q, tokens, qkv.q_stride, config.num_heads, parallel);
  head.apply(qkv.k, tokens, qkv.kv_stride, config.num_kv_heads, parallel);
}

}  // namespace

QkvLayout qkv_layout(const model::ModelConfig& config, const model::LayerSteps& steps,
                     std::size_t tokens, float* base) {
  const std::size_t hidden = config.hidden, kv_width = config.kv_width();
  if (steps.attention_in.size() == 1) {
    const std::size_t row = hidden + 2 * kv_width;
    return {base, base + hidden, base + hidden + kv_width, row, row};
  }
  float* k = base + tokens * hidden;
  return {base, k, k + tokens * kv_width, hidden, kv_width};
}

namespace {

struct Layers {
  std::size_t first, end;
  const float* states;  // input of layer first, or null: layer 0 reads the embeddings
};

// hidden_out null: skips the final norm.
void run_layers(const Execution& execution, std::span<const Sequence> sequences, Layers layers,
                DecoderWorkspace& workspace, float* hidden_out, ParallelFor& parallel,
                Profile* profile) {
  const weights::BaseModel& base = execution.base();
  const model::ModelConfig& config = base.config();
  const std::size_t hidden = config.hidden;
  const std::size_t kv_width = config.kv_width();
  const std::size_t qkv_width = hidden + 2 * kv_width;
  place(execution, sequences, workspace);
  const std::size_t tokens = workspace.ids.size();
  const std::uint64_t row_bytes = tokens * hidden * sizeof(float);
  grow(workspace.residual, tokens * hidden);
  grow(workspace.normed, tokens * hidden);
  grow(workspace.qkv, tokens * qkv_width);
  for (auto* buffer : {&workspace.k_codes, &workspace.v_codes}) grow(*buffer, tokens * kv_width);
  for (auto* buffer : {&workspace.k_scales, &workspace.v_scales})
    grow(*buffer, tokens * config.num_kv_heads);
  grow(workspace.attended, tokens * hidden);
  grow(workspace.inner, base.layers().front().mlp_in.size() * tokens * config.inner);
  grow(workspace.projected, tokens * hidden);
  grow(workspace.sequences, sequences.size());
  std::uint64_t cached_bytes = 0;  // of all layers
  for (const Sequence& sequence : sequences) {
    if (const KvCache* cache = sequence.cache; cache != nullptr)
      cached_bytes += cache->bytes() / cache->capacity() * cache->length();
  }
  float* residual = workspace.residual.data();

  // Runs one linear on all rows of the workspace, group by group.
  auto linear = [&](std::size_t index, const kernels::RowInput& input, float* y) {
    const char* name = base.linears()[index].name_in_layer();
    for (const auto& group : workspace.groups) {
      const weights::LinearCall& call = group.execution->linear(index);
      const Profile::Scope scope(profile, name, linear_bytes(call, group.rows));
      const std::size_t at = group.first_row * call.weight.k;
      kernels::RowInput rows = input;
      rows.x += at;
      if (rows.up != nullptr) rows.up += at;
      if (rows.result != nullptr) rows.result += at;
      weights::run_linear(call, rows, group.rows, y + group.first_row * call.weight.n,
                          workspace.linear, parallel);
      if (workspace.observe_inputs && !call.precision.activation.is_integer()) {
        const bool is_plain = rows.op == kernels::RowInput::Op::kNone;
        workspace.observe_inputs(index, is_plain ? rows.x : rows.result, group.rows);
      }
    }
  };
  const weights::Rotation* rotation = base.rotation().get();
  const bool is_rms = config.norm == model::NormKind::kRms || rotation != nullptr;
  auto normed_residual = [&](const weights::BaseModel::Norm& norm) {
    return kernels::RowInput{
        residual,
        is_rms ? kernels::RowInput::Op::kRmsNorm : kernels::RowInput::Op::kLayerNorm,
        norm.gamma.data(),
        norm.beta.data(),
        config.norm_epsilon,
        workspace.normed.data()};
  };
  auto norm_rows = [&](const weights::BaseModel::Norm& norm, std::size_t first, std::size_t rows,
                       float* dst) {
    const float* src = residual + first * hidden;
    if (norm.beta.empty()) {
      kernels::rms_norm(src, rows, hidden, norm.gamma.data(), config.norm_epsilon, dst, nullptr,
                        parallel);
    } else {
      kernels::layer_norm(src, rows, hidden, norm.gamma.data(), norm.beta.data(),
                          config.norm_epsilon, dst, nullptr, parallel);
    }
  };
  // A single linear fuses the norm; several linears share rows that are normed first.
  auto linears_of_norm = [&](const std::vector<std::size_t>& indices,
                             const weights::BaseModel::Norm& norm,
                             std::span<float* const> outputs) {
    kernels::RowInput input = normed_residual(norm);
    if (indices.size() > 1) {
      const Profile::Scope scope(profile, "norm", 2 * row_bytes);
      norm_rows(norm, 0, tokens, workspace.normed.data());
      input = {workspace.normed.data()};
    }
    for (std::size_t i = 0; i < indices.size(); ++i) linear(indices[i], input, outputs[i]);
  };
  auto final_norm = [&](std::size_t first, std::size_t rows, float* dst) {
    const Profile::Scope scope(profile, "final_norm", 2 * rows * hidden * sizeof(float));
    norm_rows(base.final_norm(), first, rows, dst);
  };
  auto add_projected = [&] {
    const Profile::Scope scope(profile, "residual", 3 * row_bytes);
    kernels::add_in_place(workspace.projected.data(), tokens * hidden, residual, parallel);
  };

  if (layers.states != nullptr) {
    std::copy_n(layers.states, tokens * hidden, residual);
  } else {
    const Profile::Scope scope(profile, "embed", 2 * row_bytes);
    const std::span<const std::int32_t> ids(workspace.ids), positions(workspace.positions);
    for (const auto& group : workspace.groups) {
      base.embed(ids.subspan(group.first_row, group.rows),
                 positions.subspan(group.first_row, group.rows), group.execution->embedding_width(),
                 residual + group.first_row * hidden);
    }
  }
  if (config.rotary) {
    grow(workspace.rotary, tokens * config.head_dim());
    kernels::rotary_table(workspace.positions.data(), tokens, base.rotary().data(),
                          base.rotary().size(), workspace.rotary.data());
  }
  const QkvLayout qkv = qkv_layout(config, base.layers().front(), tokens, workspace.qkv.data());
  float* const qkv_outputs[] = {qkv.q, qkv.k, qkv.v};
  float* const inner_outputs[] = {workspace.inner.data(),
                                  workspace.inner.data() + tokens * config.inner};
  for (std::size_t layer = layers.first; layer < layers.end; ++layer) {
    if (workspace.observe_states) workspace.observe_states(layer, residual, tokens);
    const model::LayerSteps& steps = base.layers()[layer];
    linears_of_norm(steps.attention_in, base.attention_norm(layer), qkv_outputs);
    {
      const Profile::Scope scope(
          profile, "attention",
          tokens * (qkv_width + hidden) * sizeof(float) + cached_bytes / config.num_layers);
      if (config.rotary) rotate_qk(base, qkv, workspace, parallel);
      run_attention(sequences, config, layer, qkv, workspace, parallel);
    }
    linear(steps.attention_out, {workspace.attended.data()}, workspace.projected.data());
    add_projected();
    linears_of_norm(steps.mlp_in, base.mlp_norm(layer), inner_outputs);
    kernels::RowInput activated{workspace.inner.data(), row_operation(config.activation)};
    activated.result = workspace.inner.data();
    if (rotation != nullptr) activated.hadamard = &rotation->inner();
    if (config.activation == model::Activation::kSwiGlu) activated.up = inner_outputs[1];
    linear(steps.mlp_out, activated, workspace.projected.data());
    add_projected();
  }
  if (hidden_out == nullptr) return;
  if (rotation != nullptr) rotation->leave_residual(residual, tokens, parallel);
  if (workspace.groups.size() <= 1) {
    final_norm(0, tokens, hidden_out);
  } else {
    for (const auto& at : workspace.placed)
      final_norm(at.row, at.rows, hidden_out + at.out_row * hidden);
  }
  for (const Sequence& sequence : sequences) {
    if (sequence.cache != nullptr) sequence.cache->advance(sequence.ids.size());
  }
}

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
  run_layers(execution, sequences, {0, execution.base().config().num_layers, nullptr}, workspace,
             hidden, parallel, profile);
}

void forward_from(const Execution& execution, std::span<const Sequence> sequences,
                  std::size_t first_layer, const float* states, DecoderWorkspace& workspace,
                  float* hidden, ParallelFor& parallel) {
  const std::size_t end = execution.base().config().num_layers;
  check_layers(execution, sequences, first_layer, end);
  run_layers(execution, sequences, {first_layer, end, states}, workspace, hidden, parallel,
             nullptr);
}

void forward_layers(const Execution& execution, std::span<const Sequence> sequences,
                    std::size_t first_layer, std::size_t end_layer, const float* states,
                    DecoderWorkspace& workspace, ParallelFor& parallel) {
  check_layers(execution, sequences, first_layer, end_layer);
  run_layers(execution, sequences, {first_layer, end_layer, states}, workspace, nullptr, parallel,
             nullptr);
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
