// Losses on a graph's outputs (docs/numerics.md, "Losses"). Each returns a scalar to call backward
// on, and its parts as plain numbers.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "train/distillation.h"
#include "train/torch/graph.h"

namespace qalof::train {

struct LossParts {
  double hard = 0;          // cross entropy, summed over windows, or predicted tokens (lm)
  double distillation = 0;  // summed likewise; over teachers as in SpanLoss
  double total = 0;         // the loss: weighted, divided by the normalizer
  std::uint64_t hits = 0;   // labels with the largest logit, of labels_per_window per window
  // feature_loss.h: means over the tokens of the whole optimizer step, summed over teachers
  double hidden = 0;
  double contrastive = 0;
};

/// Span extraction: logits [tokens, 2] of the student and of each teacher, of which there may be
/// none. normalizer: windows of the whole optimizer step.
at::Tensor compute_span_loss(const at::Tensor& logits, const std::vector<at::Tensor>& teachers,
                             const PackedBatch& batch, const Distillation& distillation,
                             double normalizer, LossParts* parts);

/// Classification: logits [windows, classes] of the student and of each teacher, of which there may
/// be none, against the batch's labels. normalizer: windows of the whole optimizer step.
at::Tensor compute_class_loss(const at::Tensor& logits, const std::vector<at::Tensor>& teachers,
                              const PackedBatch& batch, const Distillation& distillation,
                              double normalizer, LossParts* parts);
/// Rows [windows, hidden] of the last token of each window. Differentiable.
at::Tensor last_rows(const at::Tensor& hidden, const PackedBatch& batch);

/// A teacher's final hidden states, with the graph and plan that compute logits from them.
struct LmTeacher {
  at::Tensor hidden;
  Graph* graph = nullptr;
  const GraphPlan* plan = nullptr;
};
/// Inputs of compute_lm_loss: the next-token loss of every scored token but the first of each
/// window. Logits are computed in chunks of rows, never as a whole.
struct LmLossInputs {
  Graph* graph = nullptr;
  const GraphPlan* plan = nullptr;
  const PackedBatch* batch = nullptr;
  std::vector<LmTeacher> teachers;  // none: hard labels alone
  Distillation distillation;
  double normalizer = 1;  // predicted tokens of the whole optimizer step
};
/// The loss of a language model for the student's final states hidden [tokens, hidden].
at::Tensor compute_lm_loss(const at::Tensor& hidden, const LmLossInputs& inputs, LossParts* parts);

/// Labels of a window that LossParts::hits counts; 0 for lm.
inline int labels_per_window(weights::HeadKind head_kind) {
  return head_kind == weights::HeadKind::kSpan ? 2 : head_kind == weights::HeadKind::kClass ? 1 : 0;
}

}  // namespace qalof::train
