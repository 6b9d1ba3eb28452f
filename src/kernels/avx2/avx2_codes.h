// Expands codes of fewer than eight bits in registers of 256 bits (layouts: panel.h). Internal
// linkage.
#pragma once

#include <immintrin.h>

#include "kernels/panel.h"

namespace qalof::kernels {
namespace {

// Bits shift.. of each byte, as far as mask goes.
[[gnu::always_inline]] inline __m256i byte_fields(__m256i bytes, int shift, int mask) {
  return _mm256_and_si256(shift == 0 ? bytes : _mm256_srli_epi16(bytes, shift),
                          _mm256_set1_epi8(static_cast<char>(mask)));
}

/// A step of a unit: the stored codes of four k, from k0 + 4 step on, of eight rows as bytes. at
/// points at the unit, 32 bytes further for rows 8..15.
template <WeightFormat kFormat>
[[gnu::always_inline]] inline __m256i stored_codes(const void* at, int step) {
  constexpr int kBits = code_layout(kFormat).bits;
  const auto* parts = static_cast<const __m256i*>(at);  // of 64 bytes each
  if constexpr (kFormat != WeightFormat::kInt3)
    return byte_fields(_mm256_loadu_si256(parts), kBits * step, (1 << kBits) - 1);
  const int part = step / 3, turn = step % 3;
  const __m256i bytes = _mm256_loadu_si256(parts + 2 * part);
  if (turn < 2) return byte_fields(bytes, kBits * turn, 7);
  const __m256i last = _mm256_loadu_si256(parts + 4);
  return _mm256_or_si256(byte_fields(bytes, 6, 3), byte_fields(last, 4 + part, 4));
}

}  // namespace
}  // namespace qalof::kernels
