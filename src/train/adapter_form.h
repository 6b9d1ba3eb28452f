// The rank and scale of a width's adapter.
//
// Cascaded adapters follow QuEPT (AAAI 2026): one pair (B, A) a linear, of which every width uses
// the first ranks, the more the fewer bits it has; groups of widths 7 and above, 5 and 6, and 4 and
// below. The product is alpha / lora_r times B A whatever the rank, so that widths agree on what
// a rank that they share adds.
#pragma once

#include <cstddef>

#include "train/options.h"

namespace qalof::train {

/// separate, merged: lora_r. cascaded: lora_r, 2/3 and 1/3 of it, rounded up, for at most 4 bits, 5
/// and 6 bits, and more. Does not grow with bits.
std::size_t adapter_rank(const TrainOptions& options, int bits);

/// alpha / r of every adapter of a run.
double lora_scaling(const TrainOptions& options);

/// Whether steps of weights and clip factors of activations are learned at integer widths.
bool learns_steps(const TrainOptions& options);
bool learns_clips(const TrainOptions& options);
/// Whether weights are quantized anew in every step: merged, or with steps that are learned.
bool owns_weights(const TrainOptions& options);

}  // namespace qalof::train
