// Vector helpers of the AVX2 files: masks, sums in a fixed tree, the vector of ops_row.h. Internal
// linkage.
#pragma once

#include <immintrin.h>

#include <cstddef>

#include "kernels/ops_row.h"

namespace qalof::kernels {
namespace {

constexpr std::size_t kLanes = 8;

/// Mask of the first count lanes; all lanes for 8 and more.
[[maybe_unused]] inline __m256i lane_mask(std::size_t count) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count < kLanes ? count : kLanes)),
                            lanes);
}

/// ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)) of each of four vectors.
[[maybe_unused]] inline __m128 sum_lanes(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

[[maybe_unused]] inline float sum_lanes(__m256 a) { return _mm_cvtss_f32(sum_lanes(a, a, a, a)); }

/// Pack of ops_row.h: eight floats.
struct EightFloats {
  using Vector = __m256;
  using Mask = __m256i;
  static constexpr std::size_t kLanes = 8;
  static Mask mask(std::size_t count) { return lane_mask(count); }
  static Vector load(const float* at, AllLanes = {}) { return _mm256_loadu_ps(at); }
  static Vector load(const float* at, Mask mask) { return _mm256_maskload_ps(at, mask); }
  static void store(float* at, Vector v, AllLanes = {}) { _mm256_storeu_ps(at, v); }
  static void store(float* at, Vector v, Mask mask) { _mm256_maskstore_ps(at, mask, v); }
  static Vector all(float value) { return _mm256_set1_ps(value); }
  static Vector keep(Vector v, AllLanes) { return v; }
  static Vector keep(Vector v, Mask mask) { return _mm256_and_ps(v, _mm256_castsi256_ps(mask)); }
  static Vector fmadd(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  static Vector fmsub(Vector a, Vector b, Vector c) { return _mm256_fmsub_ps(a, b, c); }
  static Vector fnmadd(Vector a, Vector b, Vector c) { return _mm256_fnmadd_ps(a, b, c); }
  static Vector min(Vector a, Vector b) { return _mm256_min_ps(a, b); }
  static Vector max(Vector a, Vector b) { return _mm256_max_ps(a, b); }
  static Vector size(Vector v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), v); }
  static Vector where_negative(Vector v, Vector a, Vector b) { return _mm256_blendv_ps(b, a, v); }
  static Vector nearest(Vector v) {
    return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // In two halves, so that results near both ends of the range are right.
  static Vector times_power(Vector v, Vector n) {
    const __m256i exponent = _mm256_cvtps_epi32(n);
    const __m256i half = _mm256_srai_epi32(exponent, 1);
    const __m256i bias = _mm256_set1_epi32(127);
    const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i second =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(exponent, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(v, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
  }
  static float root(float value) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(value))); }
  template <typename Term>
  [[gnu::always_inline]] static float sum(std::size_t count, const Term& term) {
    Vector a = _mm256_setzero_ps(), b = a, c = a, d = a;
    std::size_t i = 0;
    for (; i + 32 <= count; i += 32) {
      a = _mm256_add_ps(a, term(i, AllLanes{}));
      b = _mm256_add_ps(b, term(i + 8, AllLanes{}));
      c = _mm256_add_ps(c, term(i + 16, AllLanes{}));
      d = _mm256_add_ps(d, term(i + 24, AllLanes{}));
    }
    for (; i < count; i += 8) a = _mm256_add_ps(a, term(i, lane_mask(count - i)));
    return sum_lanes(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)));
  }
};

[[maybe_unused]] inline __m256 exp_lanes(__m256 x) { return exp_of<EightFloats>(x); }

}  // namespace
}  // namespace qalof::kernels
