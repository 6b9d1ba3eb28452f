// AVX-512 VNNI: integer products with the formats of avx512_int_formats.h, and with prefetching for
// AMX processors.
#if defined(__x86_64__)
#include "kernels/avx512/avx512_int_formats.h"

namespace qalof::kernels {

namespace {

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
template <WeightFormat kFormat>
void multiply_plain(const IntGemmBlock& block) {
  multiply<typename FormatsOf<kFormat>::Plain>(block);
}
template <WeightFormat kFormat>
void multiply_ahead(const IntGemmBlock& block) {
  multiply<Ahead<typename FormatsOf<kFormat>::Plain>>(block);
}
template <WeightFormat kFormat>
void multiply_grouped(const IntGemmBlock& block) {
  using Formats = FormatsOf<kFormat>;
  return block.x_group_scales == nullptr
             ? multiply<typename Formats::template Grouped<false>>(block)
             : multiply<typename Formats::template Grouped<true>>(block);
}
template <WeightFormat kFormat>
void multiply_grouped_ahead(const IntGemmBlock& block) {
  using Formats = FormatsOf<kFormat>;
  return block.x_group_scales == nullptr
             ? multiply<Ahead<typename Formats::template Grouped<false>>>(block)
             : multiply<Ahead<typename Formats::template Grouped<true>>>(block);
}

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

// A format's products of any number of rows, and of few.
struct Products {
  IntProducts any, ahead;
};
template <WeightFormat kFormat>
constexpr IntProducts kAny = {multiply_plain<kFormat>,
                              multiply_grouped<kFormat>,
                              {kFormat == WeightFormat::kInt8 ? offset_row : pad_row, 1}};
template <WeightFormat kFormat>
constexpr Products kProducts = {kAny<kFormat>,
                                {multiply_ahead<kFormat>, multiply_grouped_ahead<kFormat>, {}}};
// Few bits take more arithmetic than memory: nothing is fetched ahead.
template <>
constexpr Products kProducts<WeightFormat::kInt3> = {kAny<WeightFormat::kInt3>,
                                                     kAny<WeightFormat::kInt3>};
template <>
constexpr Products kProducts<WeightFormat::kInt2> = {kAny<WeightFormat::kInt2>,
                                                     kAny<WeightFormat::kInt2>};

const Products& products(WeightFormat format) {
  switch (format) {
    case WeightFormat::kInt2:
      return kProducts<WeightFormat::kInt2>;
    case WeightFormat::kInt3:
      return kProducts<WeightFormat::kInt3>;
    case WeightFormat::kInt4:
      return kProducts<WeightFormat::kInt4>;
    default:
      return kProducts<WeightFormat::kInt8>;
  }
}

}  // namespace

void avx512vnni_gemm(const IntGemmBlock& block, WeightFormat format) {
  const Products& of_format = products(format);
  (block.rows <= kFewRows ? of_format.ahead : of_format.any).gemm(block);
}

void avx512vnni_gemm_grouped(const IntGemmBlock& block, WeightFormat format) {
  const Products& of_format = products(format);
  (block.rows <= kFewRows ? of_format.ahead : of_format.any).grouped(block);
}

void set_avx512vnni_int_gemm(KernelTable& table) {
  table.int8 = products(WeightFormat::kInt8).any;
  table.int4 = products(WeightFormat::kInt4).any;
  table.int3 = products(WeightFormat::kInt3).any;
  table.int2 = products(WeightFormat::kInt2).any;
}

}  // namespace qalof::kernels
#endif
