// The range check of flags that count something, with one wording for all of them.
#pragma once

#include <concepts>
#include <type_traits>

#include "core/error.h"

namespace qalof {

/// The largest number of passes, samples or windows that a flag accepts: more is a typing error,
/// and sums of them stay far below 2^63.
inline constexpr int kMostCounted = 1'000'000;

/// Error{kUsage} unless low <= found <= high. flag: its name with the leading "--".
template <std::integral Count>
void check_count(const char* flag, Count found, std::type_identity_t<Count> low = 1,
                 std::type_identity_t<Count> high = kMostCounted) {
  QALOF_CHECK(low <= found && found <= high, ErrorKind::kUsage, "{}: found {}, expected {}..{}",
              flag, found, low, high);
}

}  // namespace qalof
