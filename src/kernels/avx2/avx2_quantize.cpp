// AVX2: rows of the quantizer. Bit-equal to the portable kernels.
#if defined(__x86_64__)
#include "kernels/avx2/avx2_math.h"
#include "kernels/kernel_table.h"
#include "kernels/stochastic_row.h"

namespace qalof::kernels {

namespace {

__m256 absolute(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), x); }

float largest(__m256 a) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  half = _mm_max_ss(half, _mm_shuffle_ps(half, half, 1));
  return _mm_cvtss_f32(half);
}

float max_abs(const float* x, std::size_t count) {
  __m256 a = _mm256_setzero_ps();
  __m256 b = a;
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    a = _mm256_max_ps(a, absolute(_mm256_loadu_ps(x + i)));
    b = _mm256_max_ps(b, absolute(_mm256_loadu_ps(x + i + 8)));
  }
  for (; i < count; i += 8) {
    a = _mm256_max_ps(a, absolute(_mm256_maskload_ps(x + i, lane_mask(count - i))));
  }
  return largest(_mm256_max_ps(a, b));
}

// Lanes beyond the end are 0, which is part of the range by definition.
void min_max(const float* x, std::size_t count, float* low, float* high) {
  const __m256 sign = _mm256_set1_ps(-0.0F);
  __m256 least = sign, most = _mm256_setzero_ps();  // least is negated
  for (std::size_t i = 0; i < count; i += 8) {
    const __m256 value =
        count - i >= 8 ? _mm256_loadu_ps(x + i) : _mm256_maskload_ps(x + i, lane_mask(count - i));
    least = _mm256_max_ps(least, _mm256_xor_ps(value, sign));
    most = _mm256_max_ps(most, value);
  }
  *low = -largest(least);
  *high = largest(most);
}

// cvtps rounds to nearest, ties to even.
__m256i round_codes(__m256 x, __m256 multiplier) {
  return _mm256_cvtps_epi32(_mm256_mul_ps(x, multiplier));
}

// quantize, with a limit applied to the integers between rounding and packing.
template <typename Limit>
[[gnu::always_inline]] inline void quantize_limited(const float* x, std::size_t count,
                                                    float multiplier, std::int8_t* codes,
                                                    const Limit& limit) {
  const __m256 factor = _mm256_set1_ps(multiplier);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // the packs work within halves
  std::size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m256i a = round_codes(_mm256_loadu_ps(x + i), factor);
    const __m256i b = round_codes(_mm256_loadu_ps(x + i + 8), factor);
    const __m256i c = round_codes(_mm256_loadu_ps(x + i + 16), factor);
    const __m256i d = round_codes(_mm256_loadu_ps(x + i + 24), factor);
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(limit(a), limit(b)),
                                             _mm256_packs_epi32(limit(c), limit(d)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i),
                        _mm256_permutevar8x32_epi32(bytes, order));
  }
  for (; i < count; ++i) {
    const __m128i code =
        _mm_cvtsi32_si128(_mm_cvtss_si32(_mm_mul_ss(_mm_load_ss(x + i), _mm_set_ss(multiplier))));
    codes[i] = static_cast<std::int8_t>(_mm256_cvtsi256_si32(limit(_mm256_castsi128_si256(code))));
  }
}

void quantize(const float* x, std::size_t count, float multiplier, std::int8_t* codes) {
  quantize_limited(x, count, multiplier, codes, [](__m256i code) { return code; });
}

void quantize_within(const float* x, std::size_t count, float multiplier, int low, int high,
                     std::int8_t* codes) {
  const __m256i least = _mm256_set1_epi32(low), most = _mm256_set1_epi32(high);
  quantize_limited(x, count, multiplier, codes, [least, most](__m256i code) {
    return _mm256_min_epi32(_mm256_max_epi32(code, least), most);
  });
}

void dequantize(const std::int8_t* codes, std::size_t count, float scale, float* dst) {
  const __m256 factor = _mm256_set1_ps(scale);
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i wide =
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i)));
    _mm256_storeu_ps(dst + i, _mm256_mul_ps(_mm256_cvtepi32_ps(wide), factor));
  }
  for (; i < count; ++i) dst[i] = static_cast<float>(codes[i]) * scale;
}

void fake_quantize(const float* x, std::size_t count, float multiplier, float scale, float* dst) {
  const __m256 factor = _mm256_set1_ps(multiplier);
  const __m256 back = _mm256_set1_ps(scale);
  for (std::size_t i = 0; i < count; i += 8) {
    const __m256i mask = lane_mask(count - i);
    const __m256i code = round_codes(_mm256_maskload_ps(x + i, mask), factor);
    _mm256_maskstore_ps(dst + i, mask, _mm256_mul_ps(_mm256_cvtepi32_ps(code), back));
  }
}

void round_to_bf16(const float* x, std::size_t count, float* dst) {
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xFFFF0000U));
  for (std::size_t i = 0; i < count; i += 8) {
    const __m256i mask = lane_mask(count - i);
    const __m256 value = _mm256_maskload_ps(x + i, mask);
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7FFF)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256 is_nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
    const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(is_nan));
    _mm256_maskstore_ps(dst + i, mask, _mm256_castsi256_ps(_mm256_and_si256(chosen, high)));
  }
}

std::int32_t sum_codes(const std::int8_t* codes, std::size_t count) {
  const __m256i ones8 = _mm256_set1_epi8(1);
  const __m256i ones16 = _mm256_set1_epi16(1);
  __m256i sum = _mm256_setzero_si256();
  std::size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, x), ones16));
  }
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4E));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xB1));
  std::int32_t result = _mm_cvtsi128_si32(half);
  for (; i < count; ++i) result += codes[i];
  return result;
}

}  // namespace

void set_avx2_quantize(KernelTable& table) {
  table.max_abs = max_abs;
  table.min_max = min_max;
  table.quantize = quantize;
  table.quantize_within = quantize_within;
  table.dequantize = dequantize;
  table.fake_quantize = fake_quantize;
  table.round_stochastically = round_stochastically;
  table.round_to_bf16 = round_to_bf16;
  table.sum_codes = sum_codes;
}

}  // namespace qalof::kernels
#endif
