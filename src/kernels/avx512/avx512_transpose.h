// Turns keys of attention into columns. Internal linkage.
#pragma once

#include <immintrin.h>

#include <cstddef>

#include "kernels/unroll.h"

namespace qalof::kernels {
namespace {

/// Transposes sixteen rows: dst[i] holds lane i of every row.
[[maybe_unused]] inline void transpose(const __m512 (&rows)[16], float* dst) {
  __m512 a[16], b[16];
  unrolled<8>(QALOF_UNROLLED(i) {
    a[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
  });
  // b[4 i + c]: column c of each quarter, of rows 4 i .. 4 i + 3.
  unrolled<4>(QALOF_UNROLLED(i) {
    unrolled<2>(QALOF_UNROLLED(h) {
      const __m512 low = a[4 * i + h], high = a[4 * i + 2 + h];
      b[4 * i + 2 * h] = _mm512_shuffle_ps(low, high, 0x44);
      b[4 * i + 2 * h + 1] = _mm512_shuffle_ps(low, high, 0xEE);
    });
  });
  unrolled<4>(QALOF_UNROLLED(c) {
    const __m512 even01 = _mm512_shuffle_f32x4(b[c], b[4 + c], 0x88);
    const __m512 odd01 = _mm512_shuffle_f32x4(b[c], b[4 + c], 0xDD);
    const __m512 even23 = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0x88);
    const __m512 odd23 = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0xDD);
    float* at = dst + static_cast<std::size_t>(c) * 16;
    _mm512_storeu_ps(at, _mm512_shuffle_f32x4(even01, even23, 0x88));
    _mm512_storeu_ps(at + 4 * 16, _mm512_shuffle_f32x4(odd01, odd23, 0x88));
    _mm512_storeu_ps(at + 8 * 16, _mm512_shuffle_f32x4(even01, even23, 0xDD));
    _mm512_storeu_ps(at + 12 * 16, _mm512_shuffle_f32x4(odd01, odd23, 0xDD));
  });
}

}  // namespace
}  // namespace qalof::kernels
