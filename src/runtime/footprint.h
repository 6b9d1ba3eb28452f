// Bytes that an execution's weights take when stored, and mean bits of weights, activations and KV.
#pragma once

#include <cstdint>

#include "runtime/execution.h"

namespace qalof::runtime {

struct Footprint {
  std::uint64_t linear_bytes = 0;   // codes in their containers and scales, or floats
  std::uint64_t adapter_bytes = 0;  // LoRA pairs and head, f32
  std::uint64_t other_bytes = 0;    // embeddings, norms, biases
  std::uint64_t total_bytes = 0;
  // Nominal bits, scales included. Activations: of the rows that linears read. K and V: of a cache.
  double bits_per_weight = 0;
  double bits_per_activation = 0;
  double bits_per_kv = 0;
};
/// Bytes of a linear's weights at a width in a packed file: codes in their containers and
/// scales, or floats. Without bias.
std::uint64_t stored_bytes(const model::LinearSpec& spec, quant::BitWidth width,
                           const quant::QuantScheme& scheme);
/// Adds up the footprint of an execution from its shapes and precisions; reads no weights.
Footprint measure_footprint(const Execution& execution);

}  // namespace qalof::runtime
