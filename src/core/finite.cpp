// Searches arrays for NaN and infinity without branches, and words the errors about them.
#include "core/finite.h"

#include <algorithm>
#include <bit>
#include <cstdint>

#include "core/error.h"

namespace qalof {

namespace {

constexpr std::uint32_t kExponent = 0x7f800000, kExponentOne = 0x00800000;

// Without branches, so that the compiler vectorizes it: adding one to an exponent of all ones
// carries into the sign.
bool all_finite(std::span<const float> values) {
  std::uint32_t carried = 0;
  for (const float value : values)
    carried |= (std::bit_cast<std::uint32_t>(value) & kExponent) + kExponentOne;
  return carried >> 31 == 0;
}

}  // namespace

std::size_t first_not_finite(std::span<const float> values) {
  constexpr std::size_t kPart = 4096;  // fits the first-level cache
  for (std::size_t first = 0; first < values.size(); first += kPart) {
    const auto part = values.subspan(first, std::min(kPart, values.size() - first));
    if (all_finite(part)) continue;
    for (std::size_t i = 0;; ++i) {
      if ((std::bit_cast<std::uint32_t>(part[i]) & kExponent) == kExponent) return first + i;
    }
  }
  return values.size();
}

void check_finite_tensor(std::span<const float> values, const std::string& path,
                         const std::string& tensor, std::size_t first) {
  const std::size_t at = first_not_finite(values);
  if (at == values.size()) return;
  fail(ErrorKind::kBadInput, "{}: tensor {} holds {} at value {}, expected finite numbers", path,
       tensor, values[at], first + at);
}

void fail_not_finite(double value, std::string_view what, const std::string& where) {
  fail(ErrorKind::kDiverged,
       "{}: {} is {}, expected a finite number; a weight, an adapter or a head holds a number that "
       "is not finite or so large that the network overflows",
       where, what, value);
}

}  // namespace qalof
