// Changes of a sound file, as fuzzers make them, that are the same every time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "core/random.h"

namespace qalof::testing {

/// A few changes of a seed; number says which. A large seed keeps to its head, where the structure
/// is, three times of four.
inline std::string mutated(const std::string& seed, const RandomStream& stream,
                           std::uint64_t number) {
  std::string input = seed;
  std::uint64_t draw = 0;
  auto below = [&](std::size_t bound) {
    return static_cast<std::size_t>(stream.below(std::max<std::size_t>(bound, 1), number, draw++));
  };
  for (std::size_t changes = 1 + below(4); changes > 0 && !input.empty(); --changes) {
    const std::size_t range =
        below(4) > 0 ? std::min<std::size_t>(input.size(), 4096) : input.size();
    const std::size_t at = below(range);
    switch (below(6)) {
      case 0:
        input[at] = static_cast<char>(input[at] ^ (1 << below(8)));
        break;
      case 1:
        input[at] = static_cast<char>(below(256));
        break;
      case 2: {  // a number of 8 bytes at the ends of its range
        const std::uint64_t values[] = {0, ~std::uint64_t{0}, std::uint64_t{1} << 63, 0x7fffffff};
        const std::uint64_t value = values[below(4)];
        const std::size_t count = std::min<std::size_t>(8, input.size() - at);
        std::copy_n(reinterpret_cast<const char*>(&value), count, input.data() + at);
        break;
      }
      case 3:
        input.erase(at, 1 + below(16));
        break;
      case 4: {
        const std::string copy = input.substr(below(range), 1 + below(32));
        input.insert(at, copy);
        break;
      }
      default:
        input.resize(at);
    }
  }
  return input;
}

}  // namespace qalof::testing
