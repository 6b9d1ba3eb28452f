// Vector helpers of the AVX-512 files: masks and exp. Internal linkage.
#pragma once

#include <immintrin.h>

#include <cstddef>

namespace qalof::kernels {
namespace {

constexpr std::size_t kLanes = 16;

/// Mask of the first count lanes; all lanes for 16 and more.
[[maybe_unused]] inline __mmask16 lane_mask(std::size_t count) {
  return static_cast<__mmask16>(count < kLanes ? (1U << count) - 1U : 0xFFFFU);
}

/// exp_lanes of avx2_math.h, bit-equal: same steps, with the power of two applied in one rounding.
[[maybe_unused]] inline __m512 exp_lanes(__m512 x) {
  // max and min return their second operand for NaN.
  x = _mm512_min_ps(_mm512_set1_ps(89.0F), _mm512_max_ps(_mm512_set1_ps(-104.0F), x));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269502F)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693115234375F), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(3.194618329871446e-05F), r);
  __m512 p = _mm512_set1_ps(0.0013926326064392924F);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.008363292552530766F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.04166655242443085F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.16666576266288757F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5F));
  const __m512 power =
      _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r), _mm512_set1_ps(1.0F));
  return _mm512_scalef_ps(power, n);
}

}  // namespace
}  // namespace qalof::kernels
