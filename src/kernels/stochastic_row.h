// Stochastic rounding of one row, written so that the compiler vectorizes it for the instruction
// set of the including file. Integer and f32 operations in one order, so results are bit-equal on
// all sets.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qalof::kernels {

namespace {

// A 32-bit hash finalizer: each input bit changes about half of the result.
inline std::uint32_t mixed_bits(std::uint32_t x) {
  x ^= x >> 16;
  x *= 0x7FEB352DU;
  x ^= x >> 15;
  x *= 0x846CA68BU;
  x ^= x >> 16;
  return x;
}

inline void round_stochastically(const float* x, std::size_t count, float multiplier,
                                 std::uint32_t key, std::int8_t* codes) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t hash = mixed_bits(static_cast<std::uint32_t>(i) * 0x9E3779B9U + key);
    const float u = static_cast<float>(static_cast<std::int32_t>(hash >> 8)) * 0x1p-24F;
    const float shifted = x[i] * multiplier + u;
    std::int32_t code = static_cast<std::int32_t>(shifted);
    code -= static_cast<float>(code) > shifted ? 1 : 0;
    code = code > 127 ? 127 : code;
    code = code < -127 ? -127 : code;
    codes[i] = static_cast<std::int8_t>(code);
  }
}

}  // namespace

}  // namespace qalof::kernels
