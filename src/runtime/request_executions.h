// Which execution serves a request: one for all, or one drawn from a set by (seed, request), so
// that a request gets the same whatever is served beside, before or after it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quant/random_precision.h"
#include "runtime/decoder.h"

namespace qalof::runtime {

/// Immutable: threads may share it.
class RequestExecutions {
 public:
  /// The same for every request.
  explicit RequestExecutions(std::shared_ptr<const Execution> execution);
  /// Likewise; execution must outlive this.
  RequestExecutions(const Execution& execution);  // NOLINT: an execution serves every request
  /// Random precision inference over at least two executions of one base, drawn by seed. Nothing is
  /// packed or copied per request: one that is drawn as a whole is a pointer, one drawn by layer
  /// points at the linears of the others (Execution::spliced) and has a head of its own draw.
  RequestExecutions(std::vector<std::shared_ptr<const Execution>> set, quant::DrawnWidths drawn,
                    std::uint64_t seed, const std::string& name);

  /// One of the set: its base, and its number of classes, are those of all.
  const Execution& front() const { return *set_.front(); }
  const std::vector<std::shared_ptr<const Execution>>& set() const { return set_; }
  /// Which of the set serves a request as a whole, or with layers drawn has its head.
  std::size_t index_of(std::uint64_t request) const {
    return draws_ ? draws_->of_request(request) : 0;
  }
  /// The execution of a request, counted from 0. Must be kept until the request is served.
  std::shared_ptr<const Execution> of_request(std::uint64_t request) const;
  bool is_random() const { return draws_.has_value(); }
  /// How often each of the set serves one of the first requests, or with layers drawn one of their
  /// layers; [set].
  std::vector<std::uint64_t> draws(std::uint64_t requests) const;
  std::uint64_t seed() const { return seed_; }
  /// In words: the execution's own, or name and seed with what serves each width.
  const std::string& description() const { return description_; }

 private:
  std::vector<std::shared_ptr<const Execution>> set_;
  std::optional<quant::PrecisionDraws> draws_;  // none: the first serves all
  quant::DrawnWidths drawn_ = quant::DrawnWidths::kRequest;
  std::uint64_t seed_ = 0;
  std::string description_;
};

/// Buffers of forward_by_execution, kept between calls.
struct GroupedWorkspace {
  DecoderWorkspace decoder;
  std::vector<Sequence> sequences;
  std::vector<float> rows;
};

/// forward, one execution of the sequences after the other: the memory of a pass is that of the
/// largest group. Bits, order of results and errors are forward's.
void forward_by_execution(const Execution& execution, std::span<const Sequence> sequences,
                          GroupedWorkspace& workspace, float* hidden, ParallelFor& parallel,
                          Profile* profile = nullptr);

}  // namespace qalof::runtime
