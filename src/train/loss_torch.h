// Losses on a graph's outputs, after docs/numerics.md, "Losses". Each returns a scalar to call
// backward on, and its parts as plain numbers.
#pragma once

#include <ATen/ATen.h>

#include "train/graph_torch.h"

namespace qalof::train {

struct LossParts {
  double hard = 0;          // cross entropy, summed over windows (qa) or predicted tokens (lm)
  double distillation = 0;  // with T^2, summed likewise
  double total = 0;         // the loss: weighted, divided by the normalizer
};

struct Distillation {
  double alpha = 0;
  double temperature = 1;
};

/// logits [tokens, 2] of the student; teacher_logits the same or undefined. normalizer: windows of
/// the whole optimizer step.
at::Tensor span_loss_of(const at::Tensor& logits, const at::Tensor& teacher_logits,
                        const PackedBatch& batch, const Distillation& distillation,
                        double normalizer, LossParts* parts);

/// Next-token loss of every token but the first of each window. Logits exist in chunks of rows
/// only.
struct LmLossInputs {
  Graph* graph = nullptr;
  const GraphPlan* plan = nullptr;
  const PackedBatch* batch = nullptr;
  at::Tensor teacher_hidden;  // undefined: hard labels alone
  const GraphPlan* teacher_plan = nullptr;
  Distillation distillation;
  double normalizer = 1;  // predicted tokens of the whole optimizer step
};
at::Tensor lm_loss_of(const at::Tensor& hidden, const LmLossInputs& inputs, LossParts* parts);

/// Tokens that a language model's loss predicts.
inline std::size_t num_predicted(const PackedBatch& batch) {
  return batch.tokens() - batch.windows();
}

}  // namespace qalof::train
