// A head's loss over windows, for estimates that differentiate it without training.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>

#include "train/torch/graph.h"
#include "train/torch/loss.h"

namespace qalof::train {

/// Sum over the windows of a batch of their losses, so that each has the gradient of its own. Task
/// qa or classification. Differentiable. parts as span_loss_of's.
at::Tensor window_loss_sum(Graph& graph, const PackedBatch& batch, const GraphPlan& plan,
                           const NetworkView& view, weights::HeadKind head_kind, LossParts* parts);

/// Windows in their order, run together up to about tokens_per_batch; done counts those so far.
void for_batches(std::span<const Example> examples, std::size_t tokens_per_batch,
                 const std::function<void(const PackedBatch& batch, std::size_t done)>& run);

/// Names the windows of a batch for messages: "windows 5 to 8".
std::string windows_text(const PackedBatch& batch, std::size_t done);

}  // namespace qalof::train
