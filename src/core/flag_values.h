// Texts of a command line as values of flags. A text is taken as it is: numbers are decimal, whole
// and without anything around them, and what a type cannot hold is refused, never rounded.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace qalof {

/// Reads a whole number of min..max, or says why not: "" or e.g. "found 5abc, expected a whole
/// number". value is set only where it is read.
std::string read_integer(const std::string& text, std::int64_t min, std::int64_t max,
                         std::int64_t& value);
/// Reads a finite number (NaN and infinity are refused), or says why not, as read_integer does.
std::string read_number(const std::string& text, double& value);
std::string read_number(const std::string& text, float& value);
/// true, false, 1, 0, yes, no, on or off, in any case.
std::string read_value(const std::string& text, bool& value);
inline std::string read_value(const std::string& text, std::string& value) {
  value = text;
  return "";
}
template <std::floating_point T>
std::string read_value(const std::string& text, T& value) {
  return read_number(text, value);
}
/// At most what 64 signed bits hold, as in JSON.
template <std::integral T>
std::string read_value(const std::string& text, T& value) {
  constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();
  constexpr auto kMax = static_cast<std::int64_t>(
      std::min<std::uint64_t>(std::uint64_t{kLargest}, std::numeric_limits<T>::max()));
  std::int64_t number = 0;
  std::string reason =
      read_integer(text, static_cast<std::int64_t>(std::numeric_limits<T>::min()), kMax, number);
  if (reason.empty()) value = static_cast<T>(number);
  return reason;
}

/// One value: the last that was given wins.
template <typename T>
std::string read_values(const std::vector<std::string>& texts, T& value) {
  return read_value(texts.back(), value);
}
/// All of them.
template <typename T>
std::string read_values(const std::vector<std::string>& texts, std::vector<T>& values) {
  std::vector<T> read(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (std::string reason = read_value(texts[i], read[i]); !reason.empty()) return reason;
  }
  values = std::move(read);
  return "";
}

}  // namespace qalof
