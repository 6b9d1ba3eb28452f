// Weights of a linear in a codebook scheme: the stored codes and scales, and the float panels that
// products read (docs/numerics.md, "Codebook schemes").
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

/// Codes of [n, k] as one row, and the scales of their blocks: floats, or, with double
/// quantization, codes themselves.
struct CodebookWeights {
  std::size_t n = 0, k = 0;
  kernels::Codebook codebook = kernels::Codebook::kNf4;
  std::vector<std::uint8_t> codes;        // two per byte
  std::vector<float> scales;              // per block; empty with double quantization
  std::vector<std::uint8_t> scale_codes;  // per block, with double quantization
  std::vector<float> block_scales;        // scales of scale_codes
  float scale_mean = 0;

  bool double_quant() const { return !scale_codes.empty(); }
  /// Stored bytes, scales included.
  std::size_t bytes() const;
};

/// The codebook of a scheme that has one.
kernels::Codebook choose_codebook(const quant::QuantScheme& scheme);
/// Nearest codes of weights [out, in]; scheme must be a codebook scheme.
CodebookWeights quantize_with_codebook(const std::vector<float>& weights, std::size_t out,
                                       std::size_t in, const quant::QuantScheme& scheme,
                                       ParallelFor& parallel);
/// Dequantized values [n, k].
std::vector<float> dequantize_codes(const CodebookWeights& weights, ParallelFor& parallel);
/// Dequantized values as panels: rounded to bf16 for activations of 16 bits, else f32. Takes 2 or 4
/// bytes of memory per weight.
std::unique_ptr<OwnedMatrix> pack_codebook(const CodebookWeights& weights,
                                           quant::BitWidth activation, ParallelFor& parallel);

}  // namespace qalof::weights
