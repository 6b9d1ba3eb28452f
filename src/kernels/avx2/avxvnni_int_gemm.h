// Formats of vector_tile.h for integer products with 256-bit byte products: those of
// avx512_int_formats.h, with two registers per sum. Part of avxvnni_int_gemm.cpp; internal linkage.
// The test compiles it for AVX-512 VL with VNNI, which has an equivalent instruction.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/avx2_codes.h"
#include "kernels/avx2/avx2_math.h"
#include "kernels/vector_tile.h"

namespace qalof::kernels {
namespace {

/// Outputs 0..7 and 8..15 of a panel.
struct IntPair {
  __m256i low, high;
};
struct FloatPair {
  __m256 low, high;
};

inline __m256i dot(__m256i sum, __m256i unsigned_bytes, __m256i signed_bytes) {
#if defined(__AVXVNNI__)
  return _mm256_dpbusd_avx_epi32(sum, unsigned_bytes, signed_bytes);
#else
  return _mm256_dpbusd_epi32(sum, unsigned_bytes, signed_bytes);
#endif
}

template <typename T>
__m256i load_integers(const T* at) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}

struct PairFormat {
  using Block = IntGemmBlock;
  static constexpr std::size_t kUnitBytes = kVectorBytes;
  using Sum = IntPair;
  using Vector = IntPair;
  static constexpr bool kGrouped = false;
  static constexpr std::size_t kStepBytes = 4;
  static constexpr std::size_t kTallest = 6;  // twelve of sixteen registers
  static constexpr int kWidest = 1;

  static RowBytes rows(const Block& block) {
    return {static_cast<const char*>(block.prepared), block.prepared_stride};
  }
  static IntPair weights(const char* at, int) { return load(reinterpret_cast<const float*>(at)); }
  static __m256i broadcast(const char* x) {
    int codes;
    __builtin_memcpy(&codes, x, sizeof(codes));
    return _mm256_set1_epi32(codes);
  }
  static void settle(IntPair& sum) { asm volatile("" : "+x"(sum.low), "+x"(sum.high)); }
  static IntPair load(const float* partial) {
    return {load_integers(partial), load_integers(partial + 8)};
  }
  static void store(float* partial, IntPair sum) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(partial), sum.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(partial + 8), sum.high);
  }

  // Each operation rounds once, as in the portable kernel.
  static void finish(const Block& block, std::size_t row, std::size_t first, std::size_t left,
                     IntPair sum) {
    finish_half(block, row, first, left, sum.low);
    if (left > kLanes) finish_half(block, row, first + kLanes, left - kLanes, sum.high);
  }
  static void finish(const Block& block, std::size_t row, std::size_t first, std::size_t left,
                     FloatPair value) {
    finish_half(block, row, first, left, value.low);
    if (left > kLanes) finish_half(block, row, first + kLanes, left - kLanes, value.high);
  }

 private:
  static void finish_half(const Block& block, std::size_t row, std::size_t first, std::size_t left,
                          __m256i sum) {
    const __m256i mask = lane_mask(left);
    if (block.y == nullptr) {
      _mm256_maskstore_epi32(block.acc + row * block.y_stride + first, mask, sum);
      return;
    }
    finish_half(
        block, row, first, left,
        _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_maskload_ps(block.w_scales + first, mask)));
  }
  static void finish_half(const Block& block, std::size_t row, std::size_t first, std::size_t left,
                          __m256 value) {
    const __m256i mask = lane_mask(left);
    value = _mm256_mul_ps(value, _mm256_set1_ps(block.x_scales[row]));
    if (block.bias != nullptr)
      value = _mm256_add_ps(value, _mm256_maskload_ps(block.bias + first, mask));
    _mm256_maskstore_ps(block.y + row * block.y_stride + first, mask, value);
  }
};

inline __m256i minus_128_times(__m256i sums) {
  return _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(sums, 7));
}

struct PairInt8Format : PairFormat {
  static constexpr int kSteps = 1;
  static std::size_t num_vectors(const Block& block) { return (block.k + 3) / 4; }
  static IntPair start(const Block& block, std::size_t, std::size_t first, std::size_t left) {
    const std::int32_t* sums = block.code_sums + first;
    const std::size_t rest = left > kLanes ? left - kLanes : 0;
    return {minus_128_times(_mm256_maskload_epi32(sums, lane_mask(left))),
            minus_128_times(_mm256_maskload_epi32(sums + kLanes, lane_mask(rest)))};
  }
  static IntPair multiply(IntPair sum, __m256i x, IntPair w) {
    return {dot(sum.low, x, w.low), dot(sum.high, x, w.high)};
  }
};

template <WeightFormat kFormat>
struct PairFewBitFormat : PairFormat {
  static constexpr CodeLayout kLayout = code_layout(kFormat);
  static constexpr std::size_t kUnitBytes = kLayout.bytes;
  static constexpr int kSteps = static_cast<int>(kLayout.columns / 4);
  static std::size_t num_vectors(const Block& block) {
    return (block.k + kLayout.columns - 1) / kLayout.columns;
  }
  static IntPair start(const Block& block, std::size_t row, std::size_t, std::size_t) {
    const __m256i sum = _mm256_set1_epi32(-kLayout.offset * block.x_sums[row]);
    return {sum, sum};
  }
  static IntPair weights(const char* at, int step) {
    return {stored_codes<kFormat>(at, step), stored_codes<kFormat>(at + 32, step)};
  }
  static IntPair multiply(IntPair sum, __m256i x, IntPair w) {
    return {dot(sum.low, w.low, x), dot(sum.high, w.high, x)};
  }
};

// kXScales: rows of x have a scale per group too.
template <typename Base, bool kXScales>
struct PairGroupedFormat : Base {
  using Block = IntGemmBlock;
  using Total = FloatPair;
  static constexpr bool kGrouped = true;
  static FloatPair no_total() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static FloatPair load_total(const float* partial) {
    return {_mm256_loadu_ps(partial), _mm256_loadu_ps(partial + kLanes)};
  }
  static void store_total(float* partial, FloatPair total) {
    _mm256_storeu_ps(partial, total.low);
    _mm256_storeu_ps(partial + kLanes, total.high);
  }
  static std::size_t group_vectors(const Block& block) { return block.group / (4 * Base::kSteps); }
  static IntPair start(const Block& block, std::size_t row, std::size_t first, std::size_t group) {
    const std::size_t at = first * block.groups + group * kPanelRows;
    return {start_half(block, row, at, group), start_half(block, row, at + kLanes, group)};
  }
  static FloatPair add_group(const Block& block, std::size_t row, std::size_t first,
                             std::size_t group, IntPair sum, FloatPair total) {
    const float* scales = block.w_scales + first * block.groups + group * kPanelRows;
    const float x_scale = kXScales ? block.x_group_scales[row * block.groups + group] : 1.0F;
    return {add_half(scales, x_scale, sum.low, total.low),
            add_half(scales + kLanes, x_scale, sum.high, total.high)};
  }

 private:
  static __m256i start_half(const Block& block, std::size_t row, std::size_t at,
                            std::size_t group) {
    __m256i sum;
    if constexpr (Base::kSteps == 1) {
      sum = minus_128_times(load_integers(block.code_sums + at));
    } else {
      sum = _mm256_set1_epi32(-Base::kLayout.offset * block.x_sums[row * block.groups + group]);
    }
    if (block.zeros == nullptr) return sum;
    const auto* zeros = reinterpret_cast<const __m128i*>(block.zeros + at);
    const __m256i part =
        _mm256_mullo_epi32(_mm256_cvtepi8_epi32(_mm_loadl_epi64(zeros)),
                           _mm256_set1_epi32(block.x_sums[row * block.groups + group]));
    return _mm256_sub_epi32(sum, part);
  }
  static __m256 add_half(const float* scales, float x_scale, __m256i sum, __m256 total) {
    __m256 part = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(scales));
    if constexpr (kXScales) part = _mm256_mul_ps(part, _mm256_set1_ps(x_scale));
    return _mm256_add_ps(total, part);
  }
};

template <typename Base>
void multiply_pair_groups(const IntGemmBlock& block) {
  return block.x_group_scales == nullptr ? multiply<PairGroupedFormat<Base, false>>(block)
                                         : multiply<PairGroupedFormat<Base, true>>(block);
}

// dst = x with the bits of flip inverted in every byte, then zeros to the end of the longest unit;
// these meet the padding of panels, which has code 0.
void copy_row(const std::int8_t* x, std::size_t k, char flip, void* dst) {
  auto* out = static_cast<char*>(dst);
  const __m256i flips = _mm256_set1_epi8(flip);
  std::size_t i = 0;
  for (; i + 32 <= k; i += 32) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        _mm256_xor_si256(load_integers(x + i), flips));
  }
  for (; i < k; ++i) out[i] = static_cast<char>(x[i] ^ flip);
  constexpr std::size_t kLongest = code_layout(WeightFormat::kInt3).columns;
  for (; i % kLongest != 0; ++i) out[i] = 0;
}
void offset_row(const std::int8_t* x, std::size_t k, void* dst) { copy_row(x, k, -128, dst); }
void pad_row(const std::int8_t* x, std::size_t k, void* dst) { copy_row(x, k, 0, dst); }

template <typename Format>
IntProducts pair_products(void (*prepare)(const std::int8_t*, std::size_t, void*)) {
  return {multiply<Format>, multiply_pair_groups<Format>, {prepare, 1}};
}

inline void set_pair_formats(KernelTable& table) {
  table.int8 = pair_products<PairInt8Format>(offset_row);
  table.int4 = pair_products<PairFewBitFormat<WeightFormat::kInt4>>(pad_row);
  table.int3 = pair_products<PairFewBitFormat<WeightFormat::kInt3>>(pad_row);
  table.int2 = pair_products<PairFewBitFormat<WeightFormat::kInt2>>(pad_row);
}

}  // namespace
}  // namespace qalof::kernels
