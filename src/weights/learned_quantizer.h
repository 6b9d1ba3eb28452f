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

/// Learned values of one linear [out, in].
struct LearnedLinear {
  std::vector<float> steps;        // [out, groups]; empty: the scheme's own scales
  std::vector<std::int8_t> zeros;  // [out, groups] in asymmetric schemes, else empty
  float clip = 1.0F;               // factor on the range of activations, in (0, 1]
};

/// Learned values of one width. Steps serve linears whose weights have this width and scheme; clip
/// factors serve those of them whose activations have this width, too.
struct LearnedQuantizers {
  int bits = 0;  // 2..8
  quant::QuantScheme scheme;
  std::vector<LearnedLinear> linears;  // [linear]
};

/// Codes of weights [out, in] with given steps, whose shape is that of the scheme's scales.
RowCodes quantize_with_steps(const std::vector<float>& weights, std::size_t out, std::size_t in,
                             int bits, const quant::QuantScheme& scheme,
                             const LearnedLinear& learned, ParallelFor& parallel);

inline constexpr const char* kLearnedFile = "quant.safetensors";
/// Metadata key of kLearnedFile under which width and scheme are stored.
inline constexpr const char* kLearnedMetadataKey = "qalof.quant";

/// Writes the file. Either all linears have steps or none has.
void write_learned_quantizers(const std::string& path, const LearnedQuantizers& learned,
                              const std::vector<model::LinearSpec>& linears);
/// Strict: Error{kBadInput} names a tensor that is missing, unknown, of another shape or outside
/// its range; {kUnsupported} for an unknown format_version.
LearnedQuantizers read_learned_quantizers(const std::string& path,
                                          const std::vector<model::LinearSpec>& linears);

}  // namespace qalof::weights
