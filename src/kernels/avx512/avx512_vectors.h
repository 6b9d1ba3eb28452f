// The base of all AVX-512 formats: a vector of a panel is one register. Internal linkage.
#pragma once

#include <immintrin.h>

#include "kernels/vector_tile.h"

namespace qalof::kernels {
namespace {

/// Mask of the outputs of a panel that exist.
[[maybe_unused]] inline __mmask16 panel_mask(std::size_t left) {
  return static_cast<__mmask16>(left < kPanelRows ? (1U << left) - 1U : 0xFFFFU);
}

struct Avx512Format {
  using Vector = __m512i;
  static constexpr std::size_t kUnitBytes = kVectorBytes;
  static constexpr std::size_t kTallest = 8;
  static constexpr int kWidest = 3;
  static __m512i weights(const char* at, int) { return _mm512_loadu_si512(at); }
  template <typename Sum>
  static void settle([[maybe_unused]] Sum& sum) {
#if defined(__AVX512F__)  // else tests simulate the set
    asm volatile("" : "+v"(sum));
#endif
  }
};

}  // namespace
}  // namespace qalof::kernels
