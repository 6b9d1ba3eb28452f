// AVX-512 VNNI: integer products (avx512_int_formats.h).
#if defined(__x86_64__)
#include "kernels/avx512_int_formats.h"

namespace qalof::kernels {

namespace {

template <template <bool> typename Format>
void multiply_grouped(const IntGemmBlock& block) {
  return block.x_group_scales == nullptr ? multiply<Format<false>>(block)
                                         : multiply<Format<true>>(block);
}

// dst = x with the bytes of flip inverted, then zeros to the end of the cache line, which the
// padding of panels multiplies by code 0.
void copy_row(const std::int8_t* x, std::size_t k, __m512i flip, void* dst) {
  auto* out = static_cast<char*>(dst);
  std::size_t i = 0;
  for (; i + 64 <= k; i += 64)
    _mm512_storeu_si512(out + i, _mm512_xor_si512(_mm512_loadu_si512(x + i), flip));
  if (i < k) {
    const __mmask64 mask = (std::uint64_t{1} << (k - i)) - 1U;
    _mm512_storeu_si512(out + i, _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, x + i), flip));
  }
}

void offset_row(const std::int8_t* x, std::size_t k, void* dst) {
  copy_row(x, k, _mm512_set1_epi8(-128), dst);
}
void pad_row(const std::int8_t* x, std::size_t k, void* dst) {
  copy_row(x, k, _mm512_setzero_si512(), dst);
}

}  // namespace

void avx512vnni_gemm(const IntGemmBlock& block, bool nibbles) {
  return nibbles ? multiply<Int4Format>(block) : multiply<Int8Format>(block);
}

void avx512vnni_gemm_grouped(const IntGemmBlock& block, bool nibbles) {
  return nibbles ? multiply_grouped<GroupedInt4Format>(block)
                 : multiply_grouped<GroupedInt8Format>(block);
}

void set_avx512vnni_int_gemm(KernelTable& table) {
  table.gemm_int8 = multiply<Int8Format>;
  table.gemm_int4 = multiply<Int4Format>;
  table.gemm_int8_grouped = multiply_grouped<GroupedInt8Format>;
  table.gemm_int4_grouped = multiply_grouped<GroupedInt4Format>;
  table.prepare_int8 = {offset_row, 1};
  table.prepare_int4 = {pad_row, 1};
}

}  // namespace qalof::kernels
#endif
