// The forward pass on packed rows: [tokens, hidden] plus sequence boundaries, no padding.
//
// Invariants: a sequence's result depends on that sequence alone: neither on the other sequences,
// nor on how a prompt is cut into chunks, nor on the number of threads. The decoder is const:
// threads may run it at once, each with its own DecoderWorkspace and KvCache.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/threads.h"
#include "kernels/ops.h"
#include "runtime/execution.h"
#include "runtime/kv_cache.h"
#include "runtime/profile.h"

namespace qalof::runtime {

/// New tokens of one sequence; with a cache they follow what it holds and are added to it.
struct Sequence {
  std::span<const std::int32_t> ids;
  KvCache* cache = nullptr;              // made with the execution's kv()
  const Execution* execution = nullptr;  // null: the one passed to the call
};

/// Buffers of a forward pass, reused between calls so that a steady state allocates nothing.
struct DecoderWorkspace {
  // For calibration: called with a linear's index and the rows [m, in] it read; only for linears
  // with float activations.
  std::function<void(std::size_t linear, const float* rows, std::size_t m)> observe_inputs;
  // Called before each layer with the residual states [m, hidden] that it reads.
  std::function<void(std::size_t layer, const float* rows, std::size_t m)> observe_states;
  std::vector<std::int32_t> ids, positions;
  std::vector<float> residual, normed, qkv, k_scales, v_scales, attended, inner, projected;
  std::vector<float> activated;              // where gate and up are one linear
  std::array<std::vector<float>, 2> rotary;  // tables of the main positions and of windows'
  std::vector<std::int8_t> k_codes, v_codes;
  std::vector<kernels::AttentionSequence> sequences;
  std::vector<kernels::StoredKv> new_heads;  // [sequences][k, v][kv_heads], codes of this pass
  // Rows of one execution are contiguous: the group of its sequences and where it begins.
  struct Group {
    const Execution* execution;
    std::size_t first_row, rows;
    bool has_cache;
  };
  struct Placed {
    std::size_t sequence;            // index in the call
    const Execution* execution;      // of its group
    std::size_t row, rows, out_row;  // row: in the workspace, out_row: in the result
    std::size_t past = 0;            // tokens that stay in its cache
    std::size_t again = 0;           // first rows, computed anew, that are not part of the result
  };
  std::vector<Group> groups;
  std::vector<Placed> placed;
  weights::LinearWorkspace linear;
};

/// Where q, k and v of a forward pass are: the columns of one fused linear, or three matrices. Rows
/// are stride floats apart.
struct QkvLayout {
  float *q, *k, *v;
  std::size_t q_stride, kv_stride;
};
/// The layout in a buffer base of tokens * qkv_width floats.
QkvLayout qkv_layout(const model::ModelConfig& config, const model::LayerSteps& steps,
                     std::size_t tokens, float* base);

/// Runs the decoder and writes the hidden states after the final norm, [total tokens, hidden],
/// sequences in order. Each sequence may have its own execution (adapter, precision) on the same
/// base; its result is bitwise what it would get alone. Throws Error{kBadInput} for an id outside
/// the vocabulary, an empty sequence or one longer than the model's positions, and Error{kResource}
/// for a full cache. profile may be null.
void forward(const Execution& execution, std::span<const Sequence> sequences,
             DecoderWorkspace& workspace, float* hidden, ParallelFor& parallel,
             Profile* profile = nullptr);

/// Resumes forward at a layer: states [total tokens, hidden] are those that observe_states received
/// before first_layer, for the same sequences on the same base. Bitwise the result of forward where
/// the executions of both calls agree on everything before first_layer. Sequences must have neither
/// caches nor their own executions.
void forward_from(const Execution& execution, std::span<const Sequence> sequences,
                  std::size_t first_layer, const float* states, DecoderWorkspace& workspace,
                  float* hidden, ParallelFor& parallel);
/// Runs only layers first_layer .. end_layer - 1, for the observers of the workspace; writes no
/// hidden states. Otherwise as forward_from. states null: layer 0 reads the embeddings.
void forward_layers(const Execution& execution, std::span<const Sequence> sequences,
                    std::size_t first_layer, std::size_t end_layer, const float* states,
                    DecoderWorkspace& workspace, ParallelFor& parallel);

/// logits [rows, head.outputs] = hidden W^T + bias in f32.
void apply_head(const weights::Head& head, const float* hidden, std::size_t rows, std::size_t width,
                float* logits, ParallelFor& parallel);

/// Negative log-likelihood (nats) of targets [rows] under the LM head, for hidden [rows, hidden];
/// holds few rows of logits at a time.
std::vector<float> lm_token_losses(const Execution& execution, const float* hidden,
                                   std::span<const std::int32_t> targets, ParallelFor& parallel);
/// LM logits [rows, vocab]. With a workspace, a steady state allocates nothing.
void lm_logits(const Execution& execution, const float* hidden, std::size_t rows, float* logits,
               ParallelFor& parallel, weights::LinearWorkspace* workspace = nullptr);

}  // namespace qalof::runtime
