// NaN and infinity: in numbers that came from a file, which a quantizer would make plain codes of,
// and in numbers that a model has computed, of which no score, loss or token is made.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace qalof {

/// Index of the first value that is NaN or infinite, or values.size().
std::size_t first_not_finite(std::span<const float> values);
/// Error{kBadInput} that names file, tensor, place and value where one is not finite. first: place
/// of values[0] in the tensor.
void check_finite_tensor(std::span<const float> values, const std::string& path,
                         const std::string& tensor, std::size_t first = 0);

/// Error{kDiverged}: "WHERE: WHAT is VALUE, expected ..." and what may be the cause.
[[noreturn]] void fail_not_finite(double value, std::string_view what, const std::string& where);

/// Error{kDiverged} unless value is finite. what is "the loss" or the like; where() says whose it
/// is, e.g. "text.txt: token 7", and is asked on failure alone.
template <typename Where>
void check_finite(double value, std::string_view what, const Where& where) {
  if (!std::isfinite(value)) fail_not_finite(value, what, where());
}
/// The same for each of values.
template <typename Where>
void check_finite(std::span<const float> values, std::string_view what, const Where& where) {
  for (const float value : values) {
    if (!std::isfinite(value)) fail_not_finite(static_cast<double>(value), what, where());
  }
}

}  // namespace qalof
