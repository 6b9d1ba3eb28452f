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
/// own gradient). Task qa or classification. Differentiable. parts as in compute_span_loss.
at::Tensor window_loss_sum(Graph& graph, const PackedBatch& batch, const GraphPlan& plan,
                           const NetworkView& view, weights::HeadKind head_kind, LossParts* parts);

/// Consecutive windows, up to about tokens_per_batch tokens in each batch.
struct BatchedWindows {
  std::span<const Example> examples;
  std::size_t tokens_per_batch = 0;
  int passes = 1;  // over all windows
};
/// What run returns for the batches of all passes, in order, shared by the processes of a group as
/// share_items says. done counts the windows so far, including the batch's; index the batches.
std::vector<std::string> share_batches(
    ProcessGroup* group, const BatchedWindows& windows,
    const std::function<std::string(const PackedBatch& batch, std::size_t done, std::size_t index)>&
        run);

/// Names the windows of a batch for messages: "windows 5 to 8".
std::string windows_text(const PackedBatch& batch, std::size_t done);

}  // namespace qalof::train
