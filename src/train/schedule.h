// Learning rate by step, and the number of steps of a phase (docs/numerics.md, "Schedules").
#pragma once

#include <cstdint>

#include <span>

#include "train/options.h"
#include "train/phases.h"

namespace qalof::train {

/// The rate of a step (0-based) of total; rises from 0 over warmup_steps, as in Hugging Face's
/// schedules.
double learning_rate_at(const TrainOptions& options, std::int64_t step, std::int64_t total);

/// Optimizer steps of a phase over these windows, at least one: max_steps where given; with
/// max_tokens, the number whose student tokens come nearest to it, where a window counts once for
/// every network that a step runs; else num_train_epochs, possibly fractional, of
/// ceil(windows / (batch_size * gradient_accumulation_steps)) steps. Error{kUsage} for more than
/// kMostSteps.
std::int64_t steps_of_phase(const TrainOptions& options, const Phase& phase,
                            const Windows& examples);

}  // namespace qalof::train
