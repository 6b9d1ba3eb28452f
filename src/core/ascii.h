// Lower-casing of ASCII names, independent of the locale.
#pragma once

#include <algorithm>
#include <string>

namespace qalof {

inline std::string lower_ascii(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return text;
}

}  // namespace qalof
