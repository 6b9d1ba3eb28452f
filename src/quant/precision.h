// Bit widths and their text forms (docs/file_formats.md, "Precision").
//
//   N            = wNaNkvN for N in 2..8, 16, 32
//   w4a4kv4, w4a8k8v4, w4a8 (KV 16)
#pragma once

#include <compare>
#include <string>
#include <string_view>

namespace qalof::quant {

/// Bits of a stored number: 2..8 are integers, 16 is bfloat16, 32 is f32.
struct BitWidth {
  int bits = 32;
  constexpr bool is_integer() const { return bits <= 8; }
  friend constexpr auto operator<=>(BitWidth, BitWidth) = default;
};
bool is_legal(BitWidth width);

/// Precision of one linear layer. Legal: w <= 8 with a <= 8 (integers), w <= 8 with a 16 or 32
/// (dequantized), w = a in {16, 32}.
struct Precision {
  BitWidth weight;
  BitWidth activation;
  friend constexpr bool operator==(Precision, Precision) = default;
};
bool is_legal(Precision precision);

/// Precision of a whole model with one width everywhere.
struct UniformPrecision {
  Precision linear;
  BitWidth k, v;
  friend constexpr bool operator==(UniformPrecision, UniformPrecision) = default;
};

/// "8" means w8a8kv8, and so on. Error{kUsage} says what was found and lists the forms.
UniformPrecision parse_uniform_precision(std::string_view text);
/// "w4a8" or "4", without a KV part. where names the place in messages (Error{kBadInput}).
Precision parse_linear_precision(std::string_view text, std::string_view where);
/// Canonical text: "w8a8kv8", "w4a8k8v4", "w32a32kv32".
std::string to_string(const UniformPrecision& precision);
std::string to_string(Precision precision);

}  // namespace qalof::quant
