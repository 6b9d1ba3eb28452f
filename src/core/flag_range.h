// The one sentence of a flag that counts something and is out of range.
#pragma once

#include <concepts>
#include <type_traits>

#include "core/error.h"

namespace qalof {

/// The most passes, samples or windows that a flag may ask for: more is a slip, and sums of them
/// stay far from what 64 bits hold.
inline constexpr int kMostCounted = 1'000'000;

/// Error{kUsage} unless low <= found <= high. flag: its name with both hyphens.
template <std::integral Count>
void check_count(const char* flag, Count found, std::type_identity_t<Count> low = 1,
                 std::type_identity_t<Count> high = kMostCounted) {
  QALOF_CHECK(low <= found && found <= high, ErrorKind::kUsage, "{}: found {}, expected {}..{}",
              flag, found, low, high);
}

}  // namespace qalof
