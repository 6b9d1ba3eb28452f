// The loss of span extraction with its gradient, after docs/numerics.md, "Losses". Plain C++ on the
// few logits of a batch, shared by every graph and device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace qalof::train {

struct SpanLossInputs {
  std::span<const float> logits;               // [tokens, 2] = start, end
  std::span<const float> teacher_logits;       // the same, or empty: hard labels alone
  std::span<const std::size_t> offsets;        // [windows + 1]
  std::span<const std::int32_t> starts, ends;  // [windows], relative to the window
  double kd_alpha = 0;
  double kd_temperature = 1;
  double normalizer = 1;  // windows of the whole optimizer step
};

/// Sums over windows; the loss is ((1 - alpha) hard + alpha distillation) / normalizer with a
/// teacher, hard / normalizer without.
struct SpanLoss {
  double hard = 0;
  double distillation = 0;  // with T^2
  double total = 0;         // the loss
};

/// dlogits [tokens, 2] receives the gradient of total. Softmax runs over all tokens of a window.
SpanLoss span_loss(const SpanLossInputs& inputs, std::span<float> dlogits);

}  // namespace qalof::train
