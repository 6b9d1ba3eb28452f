// Weights of a linear in a codebook scheme as they are stored, and as the floats that products read
// (docs/numerics.md, "Codebook schemes").
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/threads.h"
#include "kernels/codebook.h"
#include "quant/precision.h"
#include "quant/scheme.h"
#include "weights/weight_packing.h"

namespace qalof::weights {

/// Codes of [n, k] as one row, and their scales: floats, or with double quantization codes.
struct CodebookWeights {
  std::size_t n = 0, k = 0;
  kernels::Codebook codebook = kernels::Codebook::kNf4;
  std::vector<std::uint8_t> codes;        // two a byte
  std::vector<float> scales;              // of blocks; empty where they are codes
  std::vector<std::uint8_t> scale_codes;  // of blocks
  std::vector<float> block_scales;        // of scale_codes
  float scale_mean = 0;

  bool double_quant() const { return !scale_codes.empty(); }
  /// Stored bytes, scales included.
  std::size_t bytes() const;
};

kernels::Codebook codebook_of(const quant::QuantScheme& scheme);
/// weights [out, in]; scheme is a codebook.
CodebookWeights quantize_with_codebook(const std::vector<float>& weights, std::size_t out,
                                       std::size_t in, const quant::QuantScheme& scheme,
                                       ParallelFor& parallel);
/// The reals [n, k].
std::vector<float> reals_of(const CodebookWeights& weights, ParallelFor& parallel);
/// The reals as panels: bf16, rounded, for activations of 16 bits, else f32. Takes 2 or 4 bytes a
/// weight of memory.
std::unique_ptr<OwnedMatrix> pack_codebook(const CodebookWeights& weights,
                                           quant::BitWidth activation, ParallelFor& parallel);

}  // namespace qalof::weights
