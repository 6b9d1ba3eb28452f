// Formats of vector_tile.h for integer products with AVX-512 VNNI: how sums begin and end, and four
// k per operation. One operand is unsigned: on int8 panels it is x + 128, which adds 128 times the
// sum of the weights' codes; on panels of fewer bits it is the stored code, code + offset, which
// adds offset times the sum of x. Sums start at minus that amount. Nothing saturates. Internal
// linkage.
#pragma once

#include <cstdint>

#include "kernels/avx512/avx512_vectors.h"

namespace qalof::kernels {
namespace {

struct IntFormat : Avx512Format {
  using Block = IntGemmBlock;
  using Sum = __m512i;
  static constexpr bool kGrouped = false;
  static constexpr std::size_t kStepBytes = 4;
  static RowBytes rows(const Block& block) {
    return {static_cast<const char*>(block.prepared), block.prepared_stride};
  }
  static __m512i broadcast(const char* x) {
    int codes;
    __builtin_memcpy(&codes, x, sizeof(codes));
    return _mm512_set1_epi32(codes);
  }
  static __m512i load(const float* partial) { return _mm512_loadu_si512(partial); }
  static void store(float* partial, __m512i sum) { _mm512_storeu_si512(partial, sum); }
  // Each operation rounds once, as in the portable kernel.
  [[gnu::always_inline]] static void finish(const Block& block, std::size_t row, std::size_t first,
                                            std::size_t left, __m512i sum) {
    const __mmask16 mask = panel_mask(left);
    if (block.y == nullptr) {
      _mm512_mask_storeu_epi32(block.acc + row * block.y_stride + first, mask, sum);
      return;
    }
    _mm512_mask_storeu_ps(block.y + row * block.y_stride + first, mask,
                          result(block, row, first, left, sum));
  }
  static __m512 result(const Block& block, std::size_t row, std::size_t first, std::size_t left,
                       __m512i sum) {
    const __m512 scales = _mm512_maskz_loadu_ps(panel_mask(left), block.w_scales + first);
    return result(block, row, first, left, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scales));
  }
  // finish for a value with the weight scales already applied.
  [[gnu::always_inline]] static void finish(const Block& block, std::size_t row, std::size_t first,
                                            std::size_t left, __m512 value) {
    _mm512_mask_storeu_ps(block.y + row * block.y_stride + first, panel_mask(left),
                          result(block, row, first, left, value));
  }
  [[gnu::always_inline]] static __m512 result(const Block& block, std::size_t row,
                                              std::size_t first, std::size_t left, __m512 value) {
    value = _mm512_mul_ps(value, _mm512_set1_ps(block.x_scales[row]));
    if (block.bias == nullptr) return value;
    return _mm512_add_ps(value, _mm512_maskz_loadu_ps(panel_mask(left), block.bias + first));
  }
};

[[maybe_unused]] inline __m512i minus_128_times(__m512i sums) {
  return _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(sums, 7));
}

struct Int8Format : IntFormat {
  static constexpr int kSteps = 1;
  static std::size_t num_vectors(const Block& block) { return (block.k + 3) / 4; }
  static __m512i start(const Block& block, std::size_t, std::size_t first, std::size_t left) {
    return minus_128_times(_mm512_maskz_loadu_epi32(panel_mask(left), block.code_sums + first));
  }
  static __m512i multiply(__m512i sum, __m512i x, __m512i w) {
    return _mm512_dpbusd_epi32(sum, x, w);
  }
};

// Bits shift.. of each byte, as far as mask goes.
[[gnu::always_inline]] inline __m512i byte_fields(__m512i bytes, int shift, int mask) {
  return _mm512_and_si512(
      shift == 0 ? bytes : _mm512_srli_epi16(bytes, static_cast<unsigned>(shift)),
      _mm512_set1_epi8(static_cast<char>(mask)));
}

// A step of a unit: the stored codes of four k, from k0 + 4 step on, as bytes.
template <WeightFormat kFormat>
[[gnu::always_inline]] inline __m512i stored_codes(const char* at, int step) {
  constexpr int kBits = code_layout(kFormat).bits;
  if constexpr (kFormat != WeightFormat::kInt3)
    return byte_fields(_mm512_loadu_si512(at), kBits * step, (1 << kBits) - 1);
  const int part = step / 3, turn = step % 3;
  const __m512i bytes = _mm512_loadu_si512(at + static_cast<std::size_t>(part) * kVectorBytes);
  if (turn < 2) return byte_fields(bytes, kBits * turn, 7);
  const __m512i last = _mm512_loadu_si512(at + 2 * kVectorBytes);
  return _mm512_or_si512(byte_fields(bytes, 6, 3), byte_fields(last, 4 + part, 4));
}

// Formats with an offset.
template <WeightFormat kFormat>
struct FewBitFormat : IntFormat {
  static constexpr CodeLayout kLayout = code_layout(kFormat);
  static constexpr std::size_t kUnitBytes = kLayout.bytes;
  static constexpr int kSteps = static_cast<int>(kLayout.columns / 4);
  // Tiles of three panels and many steps would take the compiler minutes.
  static constexpr int kWidest = kSteps > 2 ? 1 : 3;
  static std::size_t num_vectors(const Block& block) {
    return (block.k + kLayout.columns - 1) / kLayout.columns;
  }
  static __m512i start(const Block& block, std::size_t row, std::size_t, std::size_t) {
    return _mm512_set1_epi32(-kLayout.offset * block.x_sums[row]);
  }
  static __m512i weights(const char* at, int step) { return stored_codes<kFormat>(at, step); }
  static __m512i multiply(__m512i sum, __m512i x, __m512i w) {
    return _mm512_dpbusd_epi32(sum, w, x);
  }
};

// Index of a panel's values for one group.
[[maybe_unused]] inline std::size_t group_at(const IntGemmBlock& block, std::size_t first,
                                             std::size_t group) {
  return first * block.groups + group * kPanelRows;
}

// A group's zero points times the sum of the row's codes in it.
[[maybe_unused]] inline __m512i zero_part(const IntGemmBlock& block, std::size_t row,
                                          std::size_t first, std::size_t group) {
  const auto* zeros = reinterpret_cast<const __m128i*>(block.zeros + group_at(block, first, group));
  return _mm512_mullo_epi32(_mm512_cvtepi8_epi32(_mm_loadu_si128(zeros)),
                            _mm512_set1_epi32(block.x_sums[row * block.groups + group]));
}

// kXScales: rows of x have a scale per group too.
template <typename Base, bool kXScales>
struct GroupedFormat : Base {
  using Block = IntGemmBlock;
  using Total = __m512;
  static constexpr bool kGrouped = true;
  static __m512 no_total() { return _mm512_setzero_ps(); }
  static __m512 load_total(const float* partial) { return _mm512_loadu_ps(partial); }
  static void store_total(float* partial, __m512 total) { _mm512_storeu_ps(partial, total); }
  static __m512 add_group(const Block& block, std::size_t row, std::size_t first, std::size_t group,
                          __m512i sum, __m512 total) {
    const __m512 scales = _mm512_loadu_ps(block.w_scales + group_at(block, first, group));
    __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scales);
    if constexpr (kXScales) {
      const float scale = block.x_group_scales[row * block.groups + group];
      part = _mm512_mul_ps(part, _mm512_set1_ps(scale));
    }
    return _mm512_add_ps(total, part);
  }
};

template <bool kXScales>
struct GroupedInt8Format : GroupedFormat<Int8Format, kXScales> {
  using Block = IntGemmBlock;
  static std::size_t group_vectors(const Block& block) { return block.group / 4; }
  static __m512i start(const Block& block, std::size_t row, std::size_t first, std::size_t group) {
    const std::int32_t* sums = block.code_sums + group_at(block, first, group);
    const __m512i sum = minus_128_times(_mm512_loadu_si512(sums));
    if (block.zeros == nullptr) return sum;
    return _mm512_sub_epi32(sum, zero_part(block, row, first, group));
  }
};

template <WeightFormat kFormat, bool kXScales>
struct GroupedFewBitFormat : GroupedFormat<FewBitFormat<kFormat>, kXScales> {
  using Block = IntGemmBlock;
  static constexpr CodeLayout kLayout = code_layout(kFormat);
  static std::size_t group_vectors(const Block& block) { return block.group / kLayout.columns; }
  static __m512i start(const Block& block, std::size_t row, std::size_t first, std::size_t group) {
    const __m512i sum =
        _mm512_set1_epi32(-kLayout.offset * block.x_sums[row * block.groups + group]);
    if (block.zeros == nullptr) return sum;
    return _mm512_sub_epi32(sum, zero_part(block, row, first, group));
  }
};

// The formats of a WeightFormat: one scale a row, and groups.
template <WeightFormat kFormat>
struct FormatsOf {
  using Plain = FewBitFormat<kFormat>;
  template <bool kXScales>
  using Grouped = GroupedFewBitFormat<kFormat, kXScales>;
};
template <>
struct FormatsOf<WeightFormat::kInt8> {
  using Plain = Int8Format;
  template <bool kXScales>
  using Grouped = GroupedInt8Format<kXScales>;
};

}  // namespace
}  // namespace qalof::kernels
