// AVX-512 VNNI: integer products with the formats of avx512_int_formats.h, and with prefetching for
// AMX processors.
#if defined(__x86_64__)
#include "kernels/avx512/avx512_int_formats.h"

namespace qalof::kernels {

namespace {

template <template <bool> typename Format>
void multiply_grouped(const IntGemmBlock& block) {
  return block.x_group_scales == nullptr ? multiply<Format<false>>(block)
                                         : multiply<Format<true>>(block);
}

// Prefetches weights for products of few rows: on processors with AMX one thread then reads up to
// twice as fast, while those without AMX that vector_tile.h describes only become slower.
template <typename Base>
struct Ahead : Base {
  static constexpr std::size_t kTallest = kFewRows;
  static constexpr int kWidest = 1;
  static constexpr std::size_t kBytes = 8192, kGroups = 16;
  static void fetch(const void* at, std::size_t bytes) {
    _mm_prefetch(static_cast<const char*>(at) + bytes, _MM_HINT_T1);
  }
  static __m512i weights(const char* at, int step) {
    if (step == 0) fetch(at, kBytes);
    return Base::weights(at, step);
  }
  static __m512 add_group(const IntGemmBlock& block, std::size_t row, std::size_t first,
                          std::size_t group, __m512i sum, __m512 total) {
    fetch(block.w_scales + group_at(block, first, group), kGroups * kVectorBytes);
    return Base::add_group(block, row, first, group, sum, total);
  }
};
template <bool kXScales>
using AheadInt8 = Ahead<GroupedInt8Format<kXScales>>;
template <bool kXScales>
using AheadInt4 = Ahead<GroupedInt4Format<kXScales>>;

// dst = x with the bits of flip inverted in every byte, padded to the end of the cache line with
// flip; the padding meets code 0 in the padding of panels.
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
  if (block.rows <= kFewRows)
    return nibbles ? multiply<Ahead<Int4Format>>(block) : multiply<Ahead<Int8Format>>(block);
  return nibbles ? multiply<Int4Format>(block) : multiply<Int8Format>(block);
}

void avx512vnni_gemm_grouped(const IntGemmBlock& block, bool nibbles) {
  if (block.rows <= kFewRows)
    return nibbles ? multiply_grouped<AheadInt4>(block) : multiply_grouped<AheadInt8>(block);
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
