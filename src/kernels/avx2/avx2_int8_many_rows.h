// Integer products of many rows on int8 panels for AVX2: codes are widened to 16 bits and
// multiplied in pairs. This takes two thirds of the operations of the byte form
// (avx2_int_gemm.cpp); the widening is shared by all rows. Part of avx2_int_gemm.cpp; internal
// linkage.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/kernel_table.h"
#include "kernels/unroll.h"

namespace qalof::kernels {
namespace {

// 256 columns of a panel take 8 KiB as words, those of 48 rows of x take 24 KiB.
constexpr std::size_t kWideStretch = 256;
constexpr std::size_t kWideGroupRows = 48;
constexpr std::size_t kWideTileRows = 6;

void widen_row(const std::int8_t* x, std::size_t k, void* prepared) {
  auto* dst = static_cast<std::int16_t*>(prepared);
  std::size_t i = 0;
  for (; i + 16 <= k; i += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + i), _mm256_cvtepi8_epi16(bytes));
  }
  for (; i < k; ++i) dst[i] = x[i];
  if (k % 2 != 0) dst[k] = 0;
}

// Widens [count/4][16][4] bytes to [count/2][16][2] words; count is a multiple of 4.
void widen_panel(const std::int8_t* src, std::size_t count, std::int16_t* dst) {
  for (std::size_t i = 0; i < count; i += 4, src += 64, dst += 64) {
    unrolled<2>(QALOF_UNROLLED(half) {
      const auto* at = reinterpret_cast<const __m128i*>(src + half * 32);
      const __m256 a = _mm256_castsi256_ps(_mm256_cvtepi8_epi16(_mm_loadu_si128(at)));
      const __m256 b = _mm256_castsi256_ps(_mm256_cvtepi8_epi16(_mm_loadu_si128(at + 1)));
      // Even 32-bit lanes hold the first pair of each output, odd lanes the second; the shuffle
      // works within 128-bit halves.
      const __m256d first = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
      const __m256d second = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xDD));
      _mm256_storeu_pd(reinterpret_cast<double*>(dst + half * 16),
                       _mm256_permute4x64_pd(first, 0xD8));
      _mm256_storeu_pd(reinterpret_cast<double*>(dst + 32 + half * 16),
                       _mm256_permute4x64_pd(second, 0xD8));
    });
  }
}

// acc[row][16] += x (rows of `pairs` word pairs, stride apart) times the widened panel.
template <int kRows>
void wide_tile(const std::int16_t* x, std::size_t stride, const std::int16_t* w, std::size_t pairs,
               std::int32_t* acc) {
  const std::int16_t* rows[kRows];
  __m256i sum[kRows][2];
  auto* out = reinterpret_cast<__m256i*>(acc);
  unrolled<kRows>(QALOF_UNROLLED(r) {
    rows[r] = x + static_cast<std::size_t>(r) * stride;
    sum[r][0] = _mm256_loadu_si256(out + r * 2);
    sum[r][1] = _mm256_loadu_si256(out + r * 2 + 1);
  });
  for (std::size_t i = 0; i < pairs; ++i, w += 32) {
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 16));
    unrolled<kRows>(QALOF_UNROLLED(r) {
      int bits;
      __builtin_memcpy(&bits, rows[r] + i * 2, 4);
      const __m256i pair = _mm256_set1_epi32(bits);
      sum[r][0] = _mm256_add_epi32(sum[r][0], _mm256_madd_epi16(pair, low));
      sum[r][1] = _mm256_add_epi32(sum[r][1], _mm256_madd_epi16(pair, high));
      // Forces row-by-row order: otherwise the compiler loads all rows first and spills the sums.
      asm volatile("" : "+x"(sum[r][0]), "+x"(sum[r][1]));
    });
  }
  unrolled<kRows>(QALOF_UNROLLED(r) {
    _mm256_storeu_si256(out + r * 2, sum[r][0]);
    _mm256_storeu_si256(out + r * 2 + 1, sum[r][1]);
  });
}

void run_wide_tile(std::size_t rows, const std::int16_t* x, std::size_t stride,
                   const std::int16_t* w, std::size_t pairs, std::int32_t* acc) {
  switch (rows) {
    case 1:
      return wide_tile<1>(x, stride, w, pairs, acc);
    case 2:
      return wide_tile<2>(x, stride, w, pairs, acc);
    case 3:
      return wide_tile<3>(x, stride, w, pairs, acc);
    case 4:
      return wide_tile<4>(x, stride, w, pairs, acc);
    case 5:
      return wide_tile<5>(x, stride, w, pairs, acc);
    default:
      return wide_tile<6>(x, stride, w, pairs, acc);
  }
}

}  // namespace
}  // namespace qalof::kernels
