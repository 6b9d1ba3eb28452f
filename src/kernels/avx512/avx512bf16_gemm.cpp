// AVX-512 BF16: products on bf16 panels, two k per step, each its own fused multiply-add that
// treats subnormal numbers as zeros (docs/numerics.md, "Bfloat16").
#if defined(__x86_64__)
#include "kernels/avx512/avx512_float.h"

namespace qalof::kernels {

namespace {

struct Bf16Format : FloatFormat {
  static constexpr int kSteps = 1;
  static constexpr std::size_t kStepBytes = 4;
  static RowBytes rows(const Block& block) {
    return {static_cast<const char*>(block.prepared), block.prepared_stride};
  }
  static std::size_t num_vectors(const Block& block) { return (block.k + 1) / 2; }
  static __m512i broadcast(const char* x) {
    int pair;
    __builtin_memcpy(&pair, x, sizeof(pair));
    return _mm512_set1_epi32(pair);
  }
  static __m512 multiply(__m512 sum, __m512i x, __m512i w) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(w));
  }
};

// Rounds a row and pads it with zeros to the end of the cache line, which AMX tiles read too
// (amx_tile.h).
void narrow_row(const float* x, std::size_t k, void* prepared) {
  auto* dst = static_cast<std::uint16_t*>(prepared);
  for (std::size_t i = 0; i < (k + 31) / 32 * 32; i += 16) {
    const std::size_t count = k > i ? k - i : 0;
    const auto mask = static_cast<__mmask16>(count < 16 ? (1U << count) - 1U : 0xFFFFU);
    const __m512 value = _mm512_maskz_loadu_ps(mask, x + i);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + i),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
  }
}

}  // namespace

void set_avx512bf16_gemm(KernelTable& table) {
  table.gemm_bf16 = multiply<Bf16Format>;
  table.prepare_bf16 = {narrow_row, sizeof(std::uint16_t), /*rounds=*/true};
}

}  // namespace qalof::kernels
#endif
