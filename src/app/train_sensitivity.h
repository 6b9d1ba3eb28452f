// qalof sensitivity --by fisher: estimates from gradients instead of measurements.
#pragma once

#include "app/sensitivity.h"

namespace qalof::app {

/// Windows of the first max_eval_samples questions or texts (0: kFisherSamples) at all-high, one
/// backward pass each. Error{kUnsupported} for K and V, and as train::fisher_estimates.
inline constexpr std::uint64_t kFisherSamples = 64;
SensitivityResult estimate_sensitivity(const SensitivityOptions& options, Observer& observer);

}  // namespace qalof::app
