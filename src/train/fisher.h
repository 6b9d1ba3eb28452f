// Estimates from one backward pass how much the loss grows when linears get fewer bits
// (docs/sensitivity.md; diagonal Fisher information after Theis et al., arXiv:1801.05787).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/threads.h"
#include "train/options.h"

namespace qalof::train {

/// The estimate for one linear at one width. d is the change of weights or activations caused by
/// the width, g the gradient of a window's loss with respect to them.
struct FisherEstimate {
  double first = 0;   // mean over windows of sum g d; signed
  double second = 0;  // half the mean over windows of sum g^2 d^2
};

struct FisherInputs {
  TeacherModel network;  // with the plan in which every linear has the high width
  weights::HeadKind head_kind = weights::HeadKind::kSpan;
  std::size_t num_labels = 0;                           // classification
  std::vector<int> low;                                 // 2..8
  std::size_t tokens_per_batch = 2048;                  // windows are batched up to about this many
  std::function<void(std::uint64_t windows)> on_batch;  // may be empty
  /// Processes that share the batches, started with the same inputs. Null: this one does all.
  ProcessGroup* group = nullptr;
};
struct FisherResult {
  double loss = 0;  // of the high plan, mean over windows
  // [low][linear]
  std::vector<std::vector<FisherEstimate>> weights, activations;
};

/// Each window contributes its own gradient. The change of a weight includes the change of its
/// width's adapter, whose product counts as part of the weight. The same inputs give the same bytes
/// for any number of threads. Error{kUnsupported} for language models and for adapters that own
/// weights, {kBadInput} where there is no head.
FisherResult fisher_estimates(const FisherInputs& inputs, std::span<const Example> examples,
                              ParallelFor& parallel);

}  // namespace qalof::train
