// The loss of span extraction and its gradient (docs/numerics.md, "Losses"). Plain C++, because a
// batch has few logits; shared by every graph and device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "train/distillation.h"

namespace qalof::train {

struct SpanLossInputs {
  std::span<const float> logits;                 // [tokens, 2] = start, end
  std::vector<std::span<const float>> teachers;  // [tokens, 2] each; none: hard labels alone
  std::span<const std::size_t> offsets;          // [windows + 1]
  std::span<const std::int32_t> starts, ends;    // [windows], relative to the window
  Distillation distillation;
  double normalizer = 1;  // windows of the whole optimizer step
};

/// Sums over windows; the loss is the weighted sum of the two divided by the normalizer.
struct SpanLoss {
  double hard = 0;
  double distillation = 0;  // kl: with T^2, mean over teachers; mse: sum over teachers
  double total = 0;         // the loss
  std::uint64_t hits = 0;   // labels with the largest logit, of 2 per window
};

/// dlogits [tokens, 2] receives the gradient of total. Softmax runs over all tokens of a window.
SpanLoss span_loss(const SpanLossInputs& inputs, std::span<float> dlogits);

}  // namespace qalof::train
