// Where tokens may merge: a filter of pairs of code points, so that a text without pre-tokens, as
// in Llama 2, falls into short runs.
#pragma once

#include <cstdint>
#include <vector>

namespace qalof::text {

inline constexpr std::uint32_t kBridgeBits = 20;  // 128 KiB

/// The bit of a pair; different pairs may share one.
inline std::uint32_t bridge_bit(std::uint32_t left, std::uint32_t right) {
  return (left * 0x9e3779b1U ^ (right * 0x85ebca6bU + 0x27d4eb2fU)) >> (32 - kBridgeBits);
}
/// False where no merge has a left token that ends in left and a right one that begins with right:
/// no token then reaches across, whatever is merged first.
inline bool may_bridge(const std::vector<std::uint64_t>& bridges, std::uint32_t left,
                       std::uint32_t right) {
  const std::uint32_t bit = bridge_bit(left, right);
  return (bridges[bit / 64] >> (bit % 64) & 1U) != 0;
}

}  // namespace qalof::text
