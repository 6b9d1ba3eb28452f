// Vector helpers of the AVX2 files: masks, sums in a fixed tree, exp. Internal linkage.
#pragma once

#include <immintrin.h>

#include <cstddef>

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

/// exp(x) within 1 ulp (2 where the result is subnormal); 0 and infinity beyond the range, NaN for
/// NaN.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r = 1 + r + r^2 P(r), where P of degree 4 interpolates at
/// Chebyshev points with a relative error of 1e-8. The power of two is applied in two halves, so
/// that results near both ends are correct.
[[maybe_unused]] inline __m256 exp_lanes(__m256 x) {
  // max and min return their second operand for NaN.
  x = _mm256_min_ps(_mm256_set1_ps(89.0F), _mm256_max_ps(_mm256_set1_ps(-104.0F), x));
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269502F)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  // ln 2 in two parts; the first has few enough bits for an exact product.
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693115234375F), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(3.194618329871446e-05F), r);
  __m256 p = _mm256_set1_ps(0.0013926326064392924F);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.008363292552530766F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.04166655242443085F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.16666576266288757F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5F));
  const __m256 power =
      _mm256_add_ps(_mm256_fmadd_ps(_mm256_mul_ps(r, r), p, r), _mm256_set1_ps(1.0F));
  const __m256i exponent = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(exponent, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i second =
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(exponent, half), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(power, _mm256_castsi256_ps(first)),
                       _mm256_castsi256_ps(second));
}

}  // namespace
}  // namespace qalof::kernels
