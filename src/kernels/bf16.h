// bfloat16 in memory: the upper 16 bits of an f32 (docs/numerics.md, "Bfloat16"). For drivers,
// packers and caches; files of one instruction set have their own vector forms.
#pragma once

#include <bit>
#include <cstdint>

namespace qalof::kernels {

/// Nearest, ties to even; a NaN stays a NaN.
inline std::uint16_t bf16_from_float(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

inline float float_from_bf16(std::uint16_t value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16);
}

}  // namespace qalof::kernels
