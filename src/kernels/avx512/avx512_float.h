// The base of AVX-512's float formats: sums start at zero and end in the epilogue of FloatGemmBlock
// (docs/numerics.md, "Linear"). Internal linkage.
#pragma once

#include "kernels/avx512/avx512_vectors.h"

namespace qalof::kernels {
namespace {

struct FloatFormat : Avx512Format {
  using Block = FloatGemmBlock;
  using Sum = __m512;
  static constexpr bool kGrouped = false;
  static __m512 start(const Block&, std::size_t, std::size_t, std::size_t) {
    return _mm512_setzero_ps();
  }
  static __m512 load(const float* partial) { return _mm512_loadu_ps(partial); }
  static void store(float* partial, __m512 sum) { _mm512_storeu_ps(partial, sum); }
  static void finish(const Block& block, std::size_t row, std::size_t first, std::size_t left,
                     __m512 sum) {
    _mm512_mask_storeu_ps(block.y + row * block.y_stride + first, panel_mask(left),
                          result(block, row, first, left, sum));
  }
  static __m512 result(const Block& block, std::size_t row, std::size_t first, std::size_t left,
                       __m512 sum) {
    const __mmask16 mask = panel_mask(left);
    const float* y = block.y + row * block.y_stride + first;
    __m512 value = _mm512_mul_ps(sum, _mm512_set1_ps(block.alpha));
    if (block.scales != nullptr)
      value = _mm512_mul_ps(value, _mm512_maskz_loadu_ps(mask, block.scales + first));
    if (block.bias != nullptr)
      value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, block.bias + first));
    if (block.add) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), value);
    return value;
  }
};

}  // namespace
}  // namespace qalof::kernels
