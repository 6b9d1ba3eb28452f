// Learning rate by step, after docs/numerics.md, "Schedules".
#pragma once

#include <cstdint>

#include "train/options.h"

namespace qalof::train {

/// The rate of a step (0-based) of total; rises from 0 over warmup_steps, as Hugging Face's
/// schedules.
double learning_rate_at(const TrainOptions& options, std::int64_t step, std::int64_t total);

/// Optimizer steps of a phase over num_examples windows: max_steps, else whole and part epochs of
/// ceil(num_examples / (batch_size * gradient_accumulation_steps)) steps.
std::int64_t steps_of_phase(const TrainOptions& options, std::size_t num_examples);

}  // namespace qalof::train
