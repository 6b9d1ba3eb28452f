// Vector helpers of the AVX-512 files: masks and the vector of ops_row.h. Internal linkage.
#pragma once

#include <immintrin.h>

#include <cstddef>

#include "kernels/ops_row.h"

namespace qalof::kernels {
namespace {

constexpr std::size_t kLanes = 16;

/// Mask of the first count lanes; all lanes for 16 and more.
[[maybe_unused]] inline __mmask16 lane_mask(std::size_t count) {
  return static_cast<__mmask16>(count < kLanes ? (1U << count) - 1U : 0xFFFFU);
}

/// Pack of ops_row.h: sixteen floats.
struct SixteenFloats {
  using Vector = __m512;
  using Mask = __mmask16;
  static constexpr std::size_t kLanes = 16;
  static Mask mask(std::size_t count) { return lane_mask(count); }
  static Vector load(const float* at, AllLanes = {}) { return _mm512_loadu_ps(at); }
  static Vector load(const float* at, Mask mask) { return _mm512_maskz_loadu_ps(mask, at); }
  static void store(float* at, Vector v, AllLanes = {}) { _mm512_storeu_ps(at, v); }
  static void store(float* at, Vector v, Mask mask) { _mm512_mask_storeu_ps(at, mask, v); }
  static Vector all(float value) { return _mm512_set1_ps(value); }
  static Vector keep(Vector v, AllLanes) { return v; }
  static Vector keep(Vector v, Mask mask) { return _mm512_maskz_mov_ps(mask, v); }
  static Vector fmadd(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  static Vector fmsub(Vector a, Vector b, Vector c) { return _mm512_fmsub_ps(a, b, c); }
  static Vector fnmadd(Vector a, Vector b, Vector c) { return _mm512_fnmadd_ps(a, b, c); }
  static Vector min(Vector a, Vector b) { return _mm512_min_ps(a, b); }
  static Vector max(Vector a, Vector b) { return _mm512_max_ps(a, b); }
  static Vector size(Vector v) { return _mm512_abs_ps(v); }
  static Vector where_negative(Vector v, Vector a, Vector b) {
    return _mm512_mask_mov_ps(b, _mm512_movepi32_mask(_mm512_castps_si512(v)), a);
  }
  static Vector nearest(Vector v) {
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Vector times_power(Vector v, Vector n) { return _mm512_scalef_ps(v, n); }
  static float root(float value) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(value))); }
  template <typename Term>
  [[gnu::always_inline]] static float sum(std::size_t count, const Term& term) {
    Vector ab = _mm512_setzero_ps(), cd = ab;
    std::size_t i = 0;
    for (; i + 32 <= count; i += 32) {
      ab = _mm512_add_ps(ab, term(i, AllLanes{}));
      cd = _mm512_add_ps(cd, term(i + 16, AllLanes{}));
    }
    __m256 a = _mm512_castps512_ps256(ab);
    for (; i < count; i += 8) {
      const auto mask = static_cast<__mmask16>(lane_mask(count - i) & 0xFF);
      a = _mm256_add_ps(a, _mm512_castps512_ps256(term(i, mask)));
    }
    const __m256 sums =
        _mm256_add_ps(_mm256_add_ps(a, _mm512_extractf32x8_ps(ab, 1)),
                      _mm256_add_ps(_mm512_castps512_ps256(cd), _mm512_extractf32x8_ps(cd, 1)));
    const __m256 pairs = _mm256_hadd_ps(sums, sums);
    const __m256 fours = _mm256_hadd_ps(pairs, pairs);
    return _mm_cvtss_f32(
        _mm_add_ss(_mm256_castps256_ps128(fours), _mm256_extractf128_ps(fours, 1)));
  }
};

[[maybe_unused]] inline __m512 exp_lanes(__m512 x) { return exp_of<SixteenFloats>(x); }

}  // namespace
}  // namespace qalof::kernels
