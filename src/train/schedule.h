// Learning rate by step, after docs/numerics.md, "Schedules".
#pragma once

#include <cstdint>

#include <span>

#include "train/options.h"
#include "train/phases.h"

namespace qalof::train {

/// The rate of a step (0-based) of total; rises from 0 over warmup_steps, as Hugging Face's
/// schedules.
double learning_rate_at(const TrainOptions& options, std::int64_t step, std::int64_t total);

/// Optimizer steps of a phase over these windows, at least one: max_steps; with max_tokens those
/// whose student tokens come nearest, a window counting once for every network that a step runs;
/// else whole and part epochs of ceil(windows / (batch_size * gradient_accumulation_steps)) steps.
/// Error{kUsage} where those are more than kMostSteps.
std::int64_t steps_of_phase(const TrainOptions& options, const Phase& phase,
                            std::span<const Example> examples);

}  // namespace qalof::train
