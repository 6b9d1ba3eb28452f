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
  return is_qa ? compute_span_loss(logits, {}, batch, {}, /*normalizer=*/1, parts)
               : compute_class_loss(logits, {}, batch, {}, /*normalizer=*/1, parts);
}

std::vector<std::string> share_batches(
    ProcessGroup* group, const BatchedWindows& windows,
    const std::function<std::string(const PackedBatch& batch, std::size_t done, std::size_t index)>&
        run) {
  const std::span<const Example> examples = windows.examples;
  std::vector<std::size_t> ends;  // of the batches of a pass
  for (std::size_t next = 0, tokens = 0; next < examples.size(); ++next) {
    if (ends.empty() || tokens >= windows.tokens_per_batch) {
      ends.push_back(next);
      tokens = 0;
    }
    tokens += examples[next].ids.size();
    ends.back() = next + 1;
  }
  return share_items(group, ends.size() * static_cast<std::size_t>(windows.passes),
                     [&](std::size_t index) {
                       const std::size_t pass = index / ends.size(), own = index % ends.size();
                       PackedBatch batch;
                       for (std::size_t i = own == 0 ? 0 : ends[own - 1]; i < ends[own]; ++i)
                         batch.add(examples[i]);
                       return run(batch, pass * examples.size() + ends[own], index);
                     });
}

std::string windows_text(const PackedBatch& batch, std::size_t done) {
  return fmt::format("windows {} to {}", done - batch.windows() + 1, done);
}

}  // namespace qalof::train
