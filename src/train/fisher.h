// What the loss gains when linears go to fewer bits, estimated from one backward pass
// (docs/sensitivity.md; the diagonal Fisher information as of Theis et al., arXiv:1801.05787).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/threads.h"
#include "train/options.h"

namespace qalof::train {

/// Of one linear at one width: g is the gradient of a window's loss, d the change of what it is
/// taken by.
struct FisherEstimate {
  double first = 0;   // mean over windows of sum g d; signed
  double second = 0;  // half the mean over windows of sum g^2 d^2
};

struct FisherInputs {
  TeacherModel network;  // its plan is all-high
  weights::HeadKind head_kind = weights::HeadKind::kSpan;
  std::size_t num_labels = 0;           // classification
  std::vector<int> low;                 // 2..8
  std::size_t tokens_per_batch = 2048;  // windows run together up to about this many
  std::function<void(std::uint64_t windows)> on_batch;  // may be empty
};
struct FisherResult {
  double loss = 0;  // all-high, mean over windows
  // [low][linear]
  std::vector<std::vector<FisherEstimate>> weights, activations;
};

/// Each window counts by its own gradient. Weights change with their width's adapter, whose product
/// counts as a part of them. The same inputs give the same bytes for any number of threads.
/// Error{kUnsupported} for language models and for adapters that own weights, {kBadInput} where
/// there is no head.
FisherResult fisher_estimates(const FisherInputs& inputs, std::span<const Example> examples,
                              ParallelFor& parallel);

}  // namespace qalof::train
