// Checks for NaN and infinity: in numbers read from a file, which a quantizer would turn into
// ordinary codes, and in numbers computed by a model, before they become a score, loss or token.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace qalof {

/// Index of the first value that is NaN or infinite, or values.size().
std::size_t first_not_finite(std::span<const float> values);
/// Error{kBadInput} naming file, tensor, index and value where one is not finite. first: index of
/// values[0] in the tensor.
void check_finite_tensor(std::span<const float> values, const std::string& path,
                         const std::string& tensor, std::size_t first = 0);

/// Error{kDiverged}: "WHERE: WHAT is VALUE, expected ..." and the likely cause.
[[noreturn]] void fail_not_finite(double value, std::string_view what, const std::string& where);

/// Error{kDiverged} unless value is finite. what is "the loss" or the like; where() returns its
/// place, e.g. "text.txt: token 7", and is called on failure only.
template <typename Where>
void check_finite(double value, std::string_view what, const Where& where) {
  if (!std::isfinite(value)) fail_not_finite(value, what, where());
}
/// check_finite for each of values.
template <typename Where>
void check_finite(std::span<const float> values, std::string_view what, const Where& where) {
  for (const float value : values) {
    if (!std::isfinite(value)) fail_not_finite(static_cast<double>(value), what, where());
  }
}

}  // namespace qalof
