// How codes of integer widths are made from float weights, apart from their bits. Activations keep
// one scale a token in every scheme, K and V have schemes of their own.
//
//   seed                one scale per output row (docs/numerics.md, "Scheme seed")
//   g32, g64, g128      one scale per that many inputs of a row ("Group schemes")
//   g32-asym, ...       and a zero point
#pragma once

#include <compare>
#include <cstddef>
#include <string>
#include <string_view>

#include "core/error.h"

namespace qalof::quant {

/// Value type; the default is `seed`.
struct QuantScheme {
  std::size_t group = 0;  // inputs that share a scale; 0: all of a row
  bool asymmetric = false;

  constexpr bool is_seed() const { return group == 0; }
  friend constexpr auto operator<=>(const QuantScheme&, const QuantScheme&) = default;
};

/// An error of kind otherwise that lists the names, {kUnsupported} for a known one that is not
/// implemented. where stands at the head of messages, e.g. "--scheme"; what a file says is
/// kBadInput.
QuantScheme parse_scheme(std::string_view text, std::string_view where,
                         ErrorKind otherwise = ErrorKind::kUsage);
/// "seed", "g64", "g64-asym".
std::string to_string(const QuantScheme& scheme);

}  // namespace qalof::quant
