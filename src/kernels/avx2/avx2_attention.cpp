// AVX2 and FMA: products and exponentials of attention (attention_row.h).
#if defined(__x86_64__)
#include "kernels/attention_row.h"
#include "kernels/avx2/avx2_math.h"

namespace qalof::kernels {

namespace {

struct AttentionFloats : EightFloats {
  static Vector load_bf16(const std::uint8_t* at) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  static Vector load_int8(const std::uint8_t* at) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
  }
  static Vector load_int4(const std::uint8_t* at) {
    const __m256i word =
        _mm256_castps_si256(_mm256_broadcast_ss(reinterpret_cast<const float*>(at)));
    const __m256i nibbles =
        _mm256_and_si256(_mm256_srlv_epi32(word, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28)),
                         _mm256_set1_epi32(15));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(nibbles, _mm256_set1_epi32(8)));
  }
  static Vector where(Mask mask, Vector v, Vector other) {
    return _mm256_blendv_ps(other, v, _mm256_castsi256_ps(mask));
  }
  static float sum_lanes(Vector v) { return kernels::sum_lanes(v); }
  static void store_sums(float* at, const Vector (&v)[4], float scale) {
    _mm_storeu_ps(at, _mm_mul_ps(kernels::sum_lanes(v[0], v[1], v[2], v[3]), _mm_set1_ps(scale)));
  }
  static float max_lanes(Vector v) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    half = _mm_max_ss(half, _mm_shuffle_ps(half, half, 1));
    return _mm_cvtss_f32(half);
  }
};

}  // namespace

void set_avx2_attention(KernelTable& table) { AttentionOps<AttentionFloats>::set(table); }

}  // namespace qalof::kernels
#endif
