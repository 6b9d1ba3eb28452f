// The rank and scale of a width's adapter.
//
// Cascaded adapters follow QuEPT (AAAI 2026): one pair (B, A) per linear, of which every width uses
// the first ranks, and more of them the fewer bits it has; widths form three groups: 7 and above, 5
// and 6, and 4 and below. The product is alpha / lora_r times B A for every rank, so that a shared
// rank adds the same at all widths.
#pragma once

#include <cstddef>

#include "train/options.h"

namespace qalof::train {

/// The rank of a width. separate, merged: lora_r. cascaded: lora_r for at most 4 bits, 2/3 of it
/// for 5 and 6 bits, 1/3 for more, rounded up. Never grows with bits.
std::size_t adapter_rank(const TrainOptions& options, int bits);

/// alpha / r of every adapter of a run.
double lora_scaling(const TrainOptions& options);

/// Whether a run learns steps of weights, and clip factors of activations, at integer widths.
bool learns_steps(const TrainOptions& options);
bool learns_clips(const TrainOptions& options);
/// Whether weights are quantized anew in every step: the form is merged, or steps are learned.
bool owns_weights(const TrainOptions& options);

}  // namespace qalof::train
