// Quantizer values that were trained with an adapter and belong to it: steps of weights and clip
// factors of activations (docs/numerics.md, "Learned steps", "Learned clips"), and their file
// (docs/file_formats.md, "Learned quantizers").
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/threads.h"
#include "model/config.h"
#include "quant/scheme.h"
#include "weights/weight_packing.h"

namespace qalof::weights {

/// Of one linear [out, in].
struct LearnedLinear {
  std::vector<float> steps;        // [out, groups]; empty: the scheme's own scales
  std::vector<std::int8_t> zeros;  // [out, groups] in asymmetric schemes, else empty
  float clip = 1.0F;               // on the range of activations, in (0, 1]
};

/// Of one width. They serve linears of that weight width in that scheme, clip factors those whose
/// activations have the width, too.
struct LearnedQuantizers {
  int bits = 0;  // 2..8
  quant::QuantScheme scheme;
  std::vector<LearnedLinear> linears;  // [linear]
};

/// Codes of weights [out, in] with given steps. Their shape is that of the scheme.
RowCodes quantize_with_steps(const std::vector<float>& weights, std::size_t out, std::size_t in,
                             int bits, const quant::QuantScheme& scheme,
                             const LearnedLinear& learned, ParallelFor& parallel);

inline constexpr const char* kLearnedFile = "quant.safetensors";
/// The key of its metadata that says what the values are for.
inline constexpr const char* kLearnedMetadataKey = "qalof.quant";

/// Writes the file; steps of all linears or of none.
void write_learned_quantizers(const std::string& path, const LearnedQuantizers& learned,
                              const std::vector<model::LinearSpec>& linears);
/// Strict: Error{kBadInput} names a tensor that is missing, unknown, of another shape or outside
/// its range; {kUnsupported} for an unknown format_version.
LearnedQuantizers read_learned_quantizers(const std::string& path,
                                          const std::vector<model::LinearSpec>& linears);

}  // namespace qalof::weights
