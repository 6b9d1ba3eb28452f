// Conversion between f32 and IEEE half precision, for file formats that hold it.
#pragma once

#include <bit>
#include <cstdint>

namespace qalof::io {

/// Exact; NaN keeps its payload.
inline float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fU, mantissa = half & 0x3ffU;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;  // zero and subnormals, exact
    return sign != 0 ? -magnitude : magnitude;
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000U | mantissa << 13);
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

/// Nearest, ties to even; infinity from 65520 on. NaN becomes a quiet NaN.
inline std::uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000U;
  std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U);
  constexpr std::uint32_t kSmallestNormal = 0x38800000U;  // 2^-14
  if (magnitude < kSmallestNormal) {
    // Adding 0.5 leaves a unit of 2^-24 in the last place of the sum: the addition rounds.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) & 0x7fffU));
  }
  // Half of the last kept bit, or a little less where that bit is even.
  magnitude += 0xfffU + (magnitude >> 13 & 1U);
  constexpr std::uint32_t kRebias = (127U - 15U) << 10;
  const std::uint32_t half = (magnitude >> 13) - kRebias;
  return static_cast<std::uint16_t>(sign | (half < 0x7c00U ? half : 0x7c00U));
}

}  // namespace qalof::io
