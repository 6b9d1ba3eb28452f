// NaN and infinity in numbers that came from a file: found where they are read, because a quantizer
// makes plain codes of them.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace qalof {

/// Index of the first value that is NaN or infinite, or values.size().
std::size_t first_not_finite(std::span<const float> values);
/// Error{kBadInput} that names file, tensor, place and value where one is not finite. first: place
/// of values[0] in the tensor.
void check_finite(std::span<const float> values, const std::string& path, const std::string& tensor,
                  std::size_t first = 0);

}  // namespace qalof
