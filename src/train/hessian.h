// Traces of the Hessian of the loss with respect to each linear's weights (Hutchinson 1990), and
// the cost that HAWQ-V2 derives from them (Dong et al., arXiv:1911.03852, eq. 8;
// docs/sensitivity.md).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/threads.h"
#include "train/options.h"

namespace qalof::train {

struct HessianInputs {
  TeacherModel network;  // with a 32-bit plan
  weights::HeadKind head_kind = weights::HeadKind::kSpan;
  std::size_t num_labels = 0;  // classification
  std::vector<int> low;        // 2..8
  quant::QuantScheme scheme;   // of the low widths
  std::uint64_t seed = 42;     // of the random vectors
  int vectors = 1;             // passes over the windows, each with its own vectors
  int threads = 1;             // of ATen
  bool in_double = false;      // f64 instead of f32: twice the memory
  // Windows are batched up to about this many: few, since each batch has another vector.
  std::size_t tokens_per_batch = 512;
  std::function<void(std::uint64_t windows)> on_batch;  // of all passes; may be empty
  /// Processes that share the batches, started with the same inputs. Null: this one does all.
  ProcessGroup* group = nullptr;
};
struct HessianResult {
  double loss = 0;                          // mean over windows, at 32 bits
  std::vector<double> traces;               // [linear], of the mean over windows
  std::vector<double> trace_errors;         // [linear], standard errors over batches
  std::vector<std::vector<double>> errors;  // [low][linear]: ||Q(W) - W||^2
};

/// Draws one random vector of signs over all linears per batch; its product with the Hessian is a
/// central difference of gradients of the ATen graph. Error{kUnsupported} for language models and
/// for adapters that own weights, {kBadInput} where there is no head.
HessianResult hessian_traces(const HessianInputs& inputs, std::span<const Example> examples,
                             ParallelFor& parallel);

}  // namespace qalof::train
