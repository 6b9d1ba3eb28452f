// AVX-512: float products on f32 panels, and on bf16 panels widened to f32. Every output is one
// chain of fused multiply-adds over ascending k.
#if defined(__x86_64__)
#include "kernels/avx512/avx512_float.h"

namespace qalof::kernels {

namespace {

struct F32Format : FloatFormat {
  static constexpr int kSteps = 1;
  static constexpr std::size_t kStepBytes = 4;
  static RowBytes rows(const Block& block) {
    return {reinterpret_cast<const char*>(block.x), block.x_stride * sizeof(float)};
  }
  static std::size_t num_vectors(const Block& block) { return block.k; }
  static __m512 broadcast(const char* x) {
    float value;
    __builtin_memcpy(&value, x, sizeof(value));
    return _mm512_set1_ps(value);
  }
  static __m512 multiply(__m512 sum, __m512 x, __m512i w) {
    return _mm512_fmadd_ps(x, _mm512_castsi512_ps(w), sum);
  }
};

// One vector holds both floats of a pair of k; x is padded to whole pairs.
struct WideBf16Format : F32Format {
  static constexpr int kSteps = 2;
  static RowBytes rows(const Block& block) {
    return {static_cast<const char*>(block.prepared), block.prepared_stride};
  }
  static std::size_t num_vectors(const Block& block) { return (block.k + 1) / 2; }
  static __m512i weights(const char* at, int step) {
    const __m512i vector = _mm512_loadu_si512(at);
    return step == 0 ? _mm512_slli_epi32(vector, 16)
                     : _mm512_and_si512(vector, _mm512_set1_epi32(static_cast<int>(0xFFFF0000U)));
  }
};

void pad_row(const float* x, std::size_t k, void* dst) {
  __builtin_memcpy(dst, x, k * sizeof(float));
  if (k % 2 != 0) static_cast<float*>(dst)[k] = 0.0F;
}

}  // namespace

void set_avx512_gemm(KernelTable& table) {
  table.gemm_f32 = multiply<F32Format>;
  table.gemm_bf16 = multiply<WideBf16Format>;
  table.prepare_bf16 = {pad_row, sizeof(float)};
}

}  // namespace qalof::kernels
#endif
