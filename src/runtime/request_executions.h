// Chooses the execution that serves a request: one for all, or one drawn from a set by (seed,
// request), so that the choice does not depend on other requests.
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
  /// One execution for every request.
  explicit RequestExecutions(std::shared_ptr<const Execution> execution);
  /// One execution for every request; it must outlive this object.
  RequestExecutions(const Execution& execution);  // NOLINT: an execution serves every request
  /// Random precision inference over at least two executions of one base, drawn by seed. Nothing is
  /// packed or copied per request: an execution drawn whole is a pointer into the set, one drawn
  /// by layer points at the linears of several (Execution::spliced), its head drawn separately.
  RequestExecutions(std::vector<std::shared_ptr<const Execution>> set, quant::DrawnWidths drawn,
                    std::uint64_t seed, const std::string& name);

  /// One execution of the set; base and number of classes are the same for all.
  const Execution& front() const { return *set_.front(); }
  const std::vector<std::shared_ptr<const Execution>>& set() const { return set_; }
  /// Index in set() of the execution that serves a request; with layers drawn, of the one whose
  /// head serves it.
  std::size_t find_index(std::uint64_t request) const {
    return draws_ ? draws_->of_request(request) : 0;
  }
  /// The execution of a request, counted from 0. The caller keeps the pointer until the request is
  /// served.
  std::shared_ptr<const Execution> of_request(std::uint64_t request) const;
  bool is_random() const { return draws_.has_value(); }
  /// How many of the first requests each execution of the set serves; with layers drawn, how many
  /// of their layers. [set].
  std::vector<std::uint64_t> draws(std::uint64_t requests) const;
  std::uint64_t seed() const { return seed_; }
  /// The execution's description, or, where drawn, name and seed and what serves each width.
  const std::string& description() const { return description_; }

 private:
  std::vector<std::shared_ptr<const Execution>> set_;
  std::optional<quant::PrecisionDraws> draws_;  // none: the first serves all
  quant::DrawnWidths drawn_ = quant::DrawnWidths::kRequest;
  std::uint64_t seed_ = 0;
  std::string description_;
};

/// Buffers of forward_by_execution, reused between calls.
struct GroupedWorkspace {
  DecoderWorkspace decoder;
  std::vector<Sequence> sequences;
  std::vector<float> rows;
};

/// forward, run separately for each execution among the sequences, so that a pass needs memory for
/// the largest group only. Bits, order of results and errors are those of forward.
void forward_by_execution(const Execution& execution, std::span<const Sequence> sequences,
                          GroupedWorkspace& workspace, float* hidden, ParallelFor& parallel,
                          Profile* profile = nullptr);

}  // namespace qalof::runtime
