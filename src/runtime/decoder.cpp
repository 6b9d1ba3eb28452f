#include "runtime/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "kernels/ops.h"
#include "kernels/quantize.h"

namespace qalof::runtime {

namespace {

// Rows of logits held at a time by lm_token_losses: 64 x 50,257 floats are 13 MB.
constexpr std::size_t kLogitRows = 64;
constexpr std::size_t kRowsPerTask = 32;

void grow(std::vector<float>& buffer, std::size_t count) {
  if (buffer.size() < count) buffer.resize(count);
}

// Token ids and positions of all sequences, checked.
void gather_inputs(const model::ModelConfig& config, std::span<const Sequence> sequences,
                   DecoderWorkspace& workspace) {
  workspace.ids.clear();
  workspace.positions.clear();
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const Sequence& sequence = sequences[s];
    const std::size_t past = sequence.cache != nullptr ? sequence.cache->length() : 0;
    QALOF_CHECK(!sequence.ids.empty(), ErrorKind::kBadInput, "sequence {} is empty", s);
    QALOF_CHECK(past + sequence.ids.size() <= config.max_positions, ErrorKind::kBadInput,
                "sequence {} has {} tokens, the model has {} positions", s,
                past + sequence.ids.size(), config.max_positions);
    QALOF_CHECK(
        sequence.cache == nullptr || past + sequence.ids.size() <= sequence.cache->capacity(),
        ErrorKind::kResource,
        "sequence {}: the KV cache holds {} of {} positions, {} more do not fit", s, past,
        sequence.cache->capacity(), sequence.ids.size());
    for (std::size_t i = 0; i < sequence.ids.size(); ++i) {
      const std::int32_t id = sequence.ids[i];
      QALOF_CHECK(id >= 0 && static_cast<std::size_t>(id) < config.vocab_size, ErrorKind::kBadInput,
                  "sequence {}: token id {} at {}, expected 0..{}", s, id, i,
                  config.vocab_size - 1);
      workspace.ids.push_back(id);
      workspace.positions.push_back(static_cast<std::int32_t>(past + i));
    }
  }
}

std::uint64_t linear_bytes(const LinearCall& call, std::size_t rows) {
  return kernels::packed_matrix_bytes(call.weight.format, call.weight.n, call.weight.k) +
         rows * (call.weight.n + call.weight.k) * sizeof(float);
}

}  // namespace

KvCache::KvCache(const model::ModelConfig& config, std::size_t capacity)
    : width_(config.num_kv_heads * config.head_dim()),
      capacity_(capacity),
      data_(2 * config.num_layers * capacity * width_) {}

void split_and_quantize_kv(const float* qkv, std::size_t tokens, const model::ModelConfig& config,
                           const std::vector<int>& k_bits, const std::vector<int>& v_bits, float* k,
                           float* v, ParallelFor& parallel) {
  const std::size_t width = config.num_kv_heads * config.head_dim();
  const std::size_t row = config.hidden + 2 * width;
  for (std::size_t t = 0; t < tokens; ++t) {
    std::memcpy(k + t * width, qkv + t * row + config.hidden, width * sizeof(float));
    std::memcpy(v + t * width, qkv + t * row + config.hidden + width, width * sizeof(float));
  }
  kernels::fake_quantize_kv(k, tokens, config.num_kv_heads, config.head_dim(), k_bits.data(), k,
                            nullptr, nullptr, parallel);
  kernels::fake_quantize_kv(v, tokens, config.num_kv_heads, config.head_dim(), v_bits.data(), v,
                            nullptr, nullptr, parallel);
}

void forward(const Execution& execution, std::span<const Sequence> sequences,
             DecoderWorkspace& workspace, float* hidden_out, ParallelFor& parallel,
             Profile* profile) {
  const BaseModel& base = execution.base();
  const model::ModelConfig& config = base.config();
  const std::size_t hidden = config.hidden;
  const std::size_t kv_width = config.num_kv_heads * config.head_dim();
  const std::size_t qkv_width = hidden + 2 * kv_width;
  gather_inputs(config, sequences, workspace);
  const std::size_t tokens = workspace.ids.size();
  const std::uint64_t row_bytes = tokens * hidden * sizeof(float);
  grow(workspace.residual, tokens * hidden);
  grow(workspace.normed, tokens * hidden);
  grow(workspace.qkv, tokens * qkv_width);
  grow(workspace.k, tokens * kv_width);
  grow(workspace.v, tokens * kv_width);
  grow(workspace.attended, tokens * hidden);
  grow(workspace.inner, tokens * config.inner);
  grow(workspace.projected, tokens * hidden);
  workspace.sequences.resize(sequences.size());
  float* residual = workspace.residual.data();
  float* normed = workspace.normed.data();

  auto linear = [&](std::size_t index, const char* name, const float* x, float* y) {
    const LinearCall& call = execution.linear(index);
    const Profile::Scope scope(profile, name, linear_bytes(call, tokens));
    run_linear(call, x, tokens, y, workspace.linear, parallel);
  };
  auto norm = [&](const BaseModel::Norm& weights, float* dst) {
    const Profile::Scope scope(profile, "layer_norm", 2 * row_bytes);
    kernels::layer_norm(residual, tokens, hidden, weights.gamma.data(), weights.beta.data(),
                        config.norm_epsilon, dst, nullptr, parallel);
  };
  auto add_projected = [&] {
    const Profile::Scope scope(profile, "residual", 3 * row_bytes);
    kernels::add_in_place(workspace.projected.data(), tokens * hidden, residual, parallel);
  };

  {
    const Profile::Scope scope(profile, "embed", 2 * row_bytes);
    base.embed(workspace.ids, workspace.positions, execution.embedding_width(), residual);
  }
  kernels::AttentionShape shape{};
  shape.heads = config.num_heads;
  shape.kv_heads = config.num_kv_heads;
  shape.head_dim = config.head_dim();
  shape.q_stride = qkv_width;
  shape.k_stride = kv_width;
  shape.v_stride = kv_width;
  shape.out_stride = hidden;
  shape.scale = 1.0F / std::sqrt(static_cast<float>(config.head_dim()));
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    const std::size_t first = 4 * layer;  // c_attn, attn.c_proj, c_fc, mlp.c_proj
    norm(base.attention_norm(layer), normed);
    linear(first, "attn.c_attn", normed, workspace.qkv.data());
    {
      const Profile::Scope scope(profile, "attention",
                                 tokens * (qkv_width + hidden) * sizeof(float));
      split_and_quantize_kv(workspace.qkv.data(), tokens, config, execution.k_bits(layer),
                            execution.v_bits(layer), workspace.k.data(), workspace.v.data(),
                            parallel);
      std::size_t row = 0;
      for (std::size_t s = 0; s < sequences.size(); ++s) {
        const std::size_t length = sequences[s].ids.size();
        const float* k = workspace.k.data() + row * kv_width;
        const float* v = workspace.v.data() + row * kv_width;
        std::size_t past = 0;
        if (KvCache* cache = sequences[s].cache; cache != nullptr) {
          past = cache->length();
          std::memcpy(cache->k(layer) + past * kv_width, k, length * kv_width * sizeof(float));
          std::memcpy(cache->v(layer) + past * kv_width, v, length * kv_width * sizeof(float));
          k = cache->k(layer);
          v = cache->v(layer);
        }
        workspace.sequences[s] = {workspace.qkv.data() + row * qkv_width,
                                  k,
                                  v,
                                  workspace.attended.data() + row * hidden,
                                  /*log_sum_exp=*/nullptr,
                                  length,
                                  past};
        row += length;
      }
      kernels::attention(shape, workspace.sequences.data(), sequences.size(), parallel);
    }
    linear(first + 1, "attn.c_proj", workspace.attended.data(), workspace.projected.data());
    add_projected();
    norm(base.mlp_norm(layer), normed);
    linear(first + 2, "mlp.c_fc", normed, workspace.inner.data());
    {
      const Profile::Scope scope(profile, "gelu", 2 * tokens * config.inner * sizeof(float));
      kernels::gelu_new(workspace.inner.data(), tokens * config.inner, workspace.inner.data(),
                        parallel);
    }
    linear(first + 3, "mlp.c_proj", workspace.inner.data(), workspace.projected.data());
    add_projected();
  }
  norm(base.final_norm(), hidden_out);
  for (const Sequence& sequence : sequences) {
    if (sequence.cache != nullptr) sequence.cache->advance(sequence.ids.size());
  }
}

void apply_head(const Head& head, const float* hidden, std::size_t rows, std::size_t width,
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
               ParallelFor& parallel) {
  const quant::BitWidth width = execution.embedding_width();
  LinearWorkspace workspace;
  LinearCall call;
  call.precision = {width, width};
  call.weight = execution.base().lm_head(width, parallel);
  run_linear(call, hidden, rows, logits, workspace, parallel);
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
