// qalof sensitivity --by fisher and --by hessian: estimates from gradients instead of measurements.
#pragma once

#include <cstdint>

#include "app/sensitivity/sensitivity.h"

namespace qalof::app {

/// Questions or texts that estimates use by default.
inline constexpr std::uint64_t kEstimateSamples = 32;
/// Estimates by options.by from windows of the first max_eval_samples questions or texts (0:
/// kEstimateSamples): "fisher" at all-high with one backward pass per window, "hessian" at 32 bits
/// with two. Error{kUnsupported} for K and V, for separate activations with hessian, and as
/// train::fisher_estimates and train::hessian_traces.
SensitivityResult estimate_sensitivity(const SensitivityOptions& options, Observer& observer);

}  // namespace qalof::app
