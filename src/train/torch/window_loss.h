// A head's loss over windows, for estimates that differentiate it without training.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>

#include "train/torch/graph.h"
#include "train/torch/loss.h"

namespace qalof::train {

/// The sum of the losses of a batch's windows (not their mean, so that each window contributes its
/// own gradient). Task qa or classification. Differentiable. parts as in span_loss_of.
at::Tensor window_loss_sum(Graph& graph, const PackedBatch& batch, const GraphPlan& plan,
                           const NetworkView& view, weights::HeadKind head_kind, LossParts* parts);

/// Calls run on batches of consecutive windows of up to about tokens_per_batch tokens; done counts
/// the windows so far, including the batch's.
void for_batches(std::span<const Example> examples, std::size_t tokens_per_batch,
                 const std::function<void(const PackedBatch& batch, std::size_t done)>& run);

/// Names the windows of a batch for messages: "windows 5 to 8".
std::string windows_text(const PackedBatch& batch, std::size_t done);

}  // namespace qalof::train
