// AVX-512: rows of the quantizer. Bit-equal to the portable kernels.
#if defined(__x86_64__)
#include "kernels/avx512/avx512_math.h"
#include "kernels/kernel_table.h"
#include "kernels/stochastic_row.h"

namespace qalof::kernels {

namespace {

float max_abs(const float* x, std::size_t count) {
  __m512 a = _mm512_setzero_ps();
  __m512 b = a;
  std::size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    a = _mm512_max_ps(a, _mm512_abs_ps(_mm512_loadu_ps(x + i)));
    b = _mm512_max_ps(b, _mm512_abs_ps(_mm512_loadu_ps(x + i + 16)));
  }
  for (; i < count; i += 16)
    a = _mm512_max_ps(a, _mm512_abs_ps(_mm512_maskz_loadu_ps(lane_mask(count - i), x + i)));
  return _mm512_reduce_max_ps(_mm512_max_ps(a, b));
}

// Lanes beyond the end are 0, which is part of the range by definition.
void min_max(const float* x, std::size_t count, float* low, float* high) {
  __m512 least = _mm512_setzero_ps(), most = least;
  for (std::size_t i = 0; i < count; i += 16) {
    const __m512 value = count - i >= 16 ? _mm512_loadu_ps(x + i)
                                         : _mm512_maskz_loadu_ps(lane_mask(count - i), x + i);
    least = _mm512_min_ps(least, value);
    most = _mm512_max_ps(most, value);
  }
  *low = _mm512_reduce_min_ps(least);
  *high = _mm512_reduce_max_ps(most);
}

// Rounds to nearest, ties to even; codes fit a byte.
__m512i round_codes(__m512 x, __m512 multiplier) {
  return _mm512_cvtps_epi32(_mm512_mul_ps(x, multiplier));
}

void quantize(const float* x, std::size_t count, float multiplier, std::int8_t* codes) {
  const __m512 factor = _mm512_set1_ps(multiplier);
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m512i code = round_codes(_mm512_loadu_ps(x + i), factor);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_cvtsepi32_epi8(code));
  }
  if (i < count) {
    const __mmask16 mask = lane_mask(count - i);
    const __m512i code = round_codes(_mm512_maskz_loadu_ps(mask, x + i), factor);
    _mm_mask_storeu_epi8(codes + i, mask, _mm512_cvtsepi32_epi8(code));
  }
}

void quantize_within(const float* x, std::size_t count, float multiplier, int low, int high,
                     std::int8_t* codes) {
  const __m512 factor = _mm512_set1_ps(multiplier);
  const __m512i least = _mm512_set1_epi32(low), most = _mm512_set1_epi32(high);
  for (std::size_t i = 0; i < count; i += 16) {
    const __mmask16 mask = lane_mask(count - i);
    const __m512i code = round_codes(_mm512_maskz_loadu_ps(mask, x + i), factor);
    const __m512i within = _mm512_min_epi32(_mm512_max_epi32(code, least), most);
    _mm_mask_storeu_epi8(codes + i, mask, _mm512_cvtepi32_epi8(within));
  }
}

void dequantize(const std::int8_t* codes, std::size_t count, float scale, float* dst) {
  const __m512 factor = _mm512_set1_ps(scale);
  for (std::size_t i = 0; i < count; i += 16) {
    const __mmask16 mask = lane_mask(count - i);
    const __m512i wide = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, codes + i));
    _mm512_mask_storeu_ps(dst + i, mask, _mm512_mul_ps(_mm512_cvtepi32_ps(wide), factor));
  }
}

void fake_quantize(const float* x, std::size_t count, float multiplier, float scale, float* dst) {
  const __m512 factor = _mm512_set1_ps(multiplier);
  const __m512 back = _mm512_set1_ps(scale);
  for (std::size_t i = 0; i < count; i += 16) {
    const __mmask16 mask = lane_mask(count - i);
    const __m512i code = round_codes(_mm512_maskz_loadu_ps(mask, x + i), factor);
    _mm512_mask_storeu_ps(dst + i, mask, _mm512_mul_ps(_mm512_cvtepi32_ps(code), back));
  }
}

// With integer operations, because vcvtneps2bf16 flushes subnormal numbers to zero.
void round_to_bf16(const float* x, std::size_t count, float* dst) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xFFFF0000U));
  for (std::size_t i = 0; i < count; i += 16) {
    const __mmask16 mask = lane_mask(count - i);
    const __m512 value = _mm512_maskz_loadu_ps(mask, x + i);
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7FFF)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m512i chosen = _mm512_mask_blend_epi32(is_nan, rounded, quiet);
    _mm512_mask_storeu_ps(dst + i, mask, _mm512_castsi512_ps(_mm512_and_si512(chosen, high)));
  }
}

}  // namespace

void set_avx512_quantize(KernelTable& table) {
  table.max_abs = max_abs;
  table.min_max = min_max;
  table.quantize = quantize;
  table.quantize_within = quantize_within;
  table.dequantize = dequantize;
  table.fake_quantize = fake_quantize;
  table.round_stochastically = round_stochastically;
  table.round_to_bf16 = round_to_bf16;
}

}  // namespace qalof::kernels
#endif
