// An estimate of the memory a training run needs, reported before the first step.
#pragma once

#include <cstddef>
#include <cstdint>

#include "model/config.h"
#include "train/options.h"

namespace qalof::train {

/// Bytes of weights, their packed forms for the forward and the backward pass, optimizer state, and
/// the activations of one forward pass of batch_size windows of tokens_per_window tokens. Excludes
/// the program itself.
std::uint64_t estimate_training_bytes(const model::ModelConfig& config, const TrainOptions& options,
                                      std::size_t tokens_per_window);

/// The options with batch_size limited to the number of windows.
TrainOptions with_batches(std::size_t windows, TrainOptions options);

}  // namespace qalof::train
