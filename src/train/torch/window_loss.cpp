// Runs graph, head and loss over windows, and batches windows by token count.
#include "train/torch/window_loss.h"

#include <fmt/format.h>

namespace qalof::train {

at::Tensor window_loss_sum(Graph& graph, const PackedBatch& batch, const GraphPlan& plan,
                           const NetworkView& view, weights::HeadKind head_kind, LossParts* parts) {
  const at::Tensor embedded = graph.embed(batch, plan);
  // A kernel graph differentiates a linear only if its input requires a gradient.
  const at::Tensor hidden = graph.decode(
      embedded.requires_grad() ? embedded : embedded.requires_grad_(), batch, plan, view);
  const bool is_qa = head_kind == weights::HeadKind::kSpan;
  const at::Tensor logits = graph.head_logits(is_qa ? hidden : last_rows(hidden, batch), view.head);
  return is_qa ? span_loss_of(logits, {}, batch, {}, /*normalizer=*/1, parts)
               : class_loss_of(logits, {}, batch, {}, /*normalizer=*/1, parts);
}

void for_batches(std::span<const Example> examples, std::size_t tokens_per_batch,
                 const std::function<void(const PackedBatch& batch, std::size_t done)>& run) {
  for (std::size_t next = 0; next < examples.size();) {
    PackedBatch batch;
    while (next < examples.size() && batch.tokens() < tokens_per_batch) batch.add(examples[next++]);
    run(batch, next);
  }
}

std::string windows_text(const PackedBatch& batch, std::size_t done) {
  return fmt::format("windows {} to {}", done - batch.windows() + 1, done);
}

}  // namespace qalof::train
