// How integer codes are computed from floats, apart from their width: a text of parts joined by
// '+'. K and V have their own schemes.
//
//   minmax              one scale per output row and per token (docs/numerics.md, "Scheme minmax")
//   g32, g64, g128      weights: one scale per that many inputs of a row ("Group schemes")
//   g32-asym, ...       and a zero point
//   int8                weights: one scale per output row, as in bitsandbytes ("Scheme int8")
//   llm_int8            int8, with large activations multiplied as floats; llm_int8-5: with
//                       another threshold than 6
//   nf4, fp4, -dq       weights: 4-bit codebooks in blocks of 64, for float activations;
//                       -dq: scales in 8 bits ("Codebook schemes")
//   mse                 weights: the range with the least squared error ("Clip search")
//   nested              weights: codes of 8 bits whose upper half are the codes of 4 bits
//                       ("Nested codes"); 8 and 4 bits only
//   aasym               activations: a range that need not be symmetric around 0
//   ag32, ag64, ag128   activations: one range per that many elements, equal to the weights'
//                       group ("Activations")
//   rot                 rotated weights and activations (docs/numerics.md, "Rotation"), or parts
//                       of that: rot-residual, rot-heads, rot-mlp
//   tuned               a name for g64-asym+aasym+ag64+mse+rot, the most accurate at 4 bits
//                       (docs/ablation_smollm2.md)
#pragma once

#include <compare>
#include <cstddef>
#include <string>
#include <string_view>

#include "core/error.h"
#include "quant/precision.h"

namespace qalof::quant {

enum class CodeKind { kUniform, kInt8, kNf4, kFp4 };

/// The parts of a base that are rotated (docs/numerics.md, "Rotation"): the residual stream, the
/// heads of queries, keys and values, the input of the MLP's last linear.
struct Rotations {
  bool residual = false, heads = false, mlp = false;

  constexpr bool any() const { return residual || heads || mlp; }
  friend constexpr auto operator<=>(const Rotations&, const Rotations&) = default;
};
inline constexpr Rotations kAllRotations{true, true, true};

/// Value type; the default is `minmax`.
struct QuantScheme {
  std::size_t group = 0;  // inputs that share a weight scale; 0: all of a row
  bool asymmetric = false;
  bool mse = false;  // weight ranges with the least squared error
  bool activation_asymmetric = false;
  std::size_t activation_group = 0;  // elements that share an activation scale; 0: the row
  Rotations rotations{};             // weights and activations of the base rotated so

  CodeKind kind = CodeKind::kUniform;
  bool double_quant = false;    // a codebook's scales are stored in 8 bits
  float outlier_threshold = 0;  // activations of at least this size stay floats; 0: none do
  bool nested = false;          // 4-bit codes are the upper half of the 8-bit codes

  constexpr bool is_minmax() const { return *this == QuantScheme{}; }
  constexpr bool is_rotated() const { return rotations.any(); }
  constexpr bool is_codebook() const { return kind == CodeKind::kNf4 || kind == CodeKind::kFp4; }
  /// The weights' part of this scheme, with the activations of `minmax`.
  constexpr QuantScheme weights() const {
    QuantScheme result = *this;
    result.activation_asymmetric = false;
    result.activation_group = 0;
    return result;
  }
  friend constexpr auto operator<=>(const QuantScheme&, const QuantScheme&) = default;
};

/// Parses parts in any order, each at most once; "minmax" may be omitted, and may be
/// written "seed", its name in files. On failure throws
/// Error{`otherwise`} with a list of the parts (kBadInput suits files). where begins the message,
/// e.g. "--scheme".
QuantScheme parse_scheme(std::string_view text, std::string_view where,
                         ErrorKind otherwise = ErrorKind::kUsage);
/// "rot", "rot-heads+rot-mlp"; "" without rotations.
std::string to_string(const Rotations& rotations);
/// "seed" (minmax), "g64", "g64-asym+aasym+ag64+mse", "llm_int8-4.5": the text form of files and
/// --json, parts in a fixed order.
std::string to_string(const QuantScheme& scheme);

/// Error{kUsage} where the scheme cannot encode a linear of that precision; where names the
/// scheme's source.
void check_scheme(const QuantScheme& scheme, Precision precision, std::string_view where);

}  // namespace qalof::quant
