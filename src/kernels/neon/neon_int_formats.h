// Formats of vector_tile.h for integer products on NEON: codes are multiplied as signed bytes, of
// int4 panels as nibbles (code + 8), whose sums start at minus 8 times the sum of x. Products says
// by which instructions four k are added to the sums of a panel. Internal linkage.
#pragma once

#include <cstdint>

#include "kernels/neon/neon_vectors.h"

namespace qalof::kernels {
namespace {

using Ints = Four<int32x4_t>;
using Bytes = Four<int8x16_t>;

// Products supplies
//   Sum, kTallest          the registers of a panel's sums; rows of the largest tile
//   add(sum, x, w)         one step: four k of a row in every lane, and of the sixteen outputs
//   from(ints), total(sum) between sums and one integer per output
//   settle(sum)            as in vector_tile.h

template <typename Products>
struct NeonIntFormat : NeonFormat {
  using Block = IntGemmBlock;
  using Sum = typename Products::Sum;
  using Vector = Bytes;
  static constexpr bool kGrouped = false;
  static constexpr std::size_t kTallest = Products::kTallest;
  static constexpr std::size_t kStepBytes = 4;

  static RowBytes rows(const Block& block) {
    return {static_cast<const char*>(block.prepared), block.prepared_stride};
  }
  static int8x16_t broadcast(const char* x) {
    return vreinterpretq_s8_s32(vld1q_dup_s32(reinterpret_cast<const std::int32_t*>(x)));
  }
  static Sum multiply(const Sum& sum, int8x16_t x, const Bytes& w) {
    return Products::add(sum, x, w);
  }
  static void settle(Sum& sum) { Products::settle(sum); }
  static Sum load(const float* partial) {
    return Products::from(
        four(QALOF_PART { return vreinterpretq_s32_f32(vld1q_f32(partial + 4 * i)); }));
  }
  static void store(float* partial, const Sum& sum) {
    const Ints total = Products::total(sum);
    store_outputs(partial, four(QALOF_PART { return vreinterpretq_f32_s32(total.part[i]); }),
                  kPanelRows);
  }

  // Each operation rounds once, as in the portable kernel.
  static void finish(const Block& block, std::size_t row, std::size_t first, std::size_t left,
                     const Sum& sum) {
    finish_integers(block, row, first, left, Products::total(sum));
  }
  static void finish_integers(const Block& block, std::size_t row, std::size_t first,
                              std::size_t left, const Ints& total) {
    if (block.y == nullptr) {
      std::int32_t lanes[kPanelRows];
      unrolled<4>(QALOF_UNROLLED(i) { vst1q_s32(lanes + 4 * i, total.part[i]); });
      __builtin_memcpy(block.acc + row * block.y_stride + first, lanes,
                       (left < kPanelRows ? left : kPanelRows) * sizeof(std::int32_t));
      return;
    }
    const Four<float32x4_t> scales = load_outputs(block.w_scales + first, left);
    finish(block, row, first, left,
           four(QALOF_PART { return vmulq_f32(vcvtq_f32_s32(total.part[i]), scales.part[i]); }));
  }
  // For a value with the weight scales already applied.
  static void finish(const Block& block, std::size_t row, std::size_t first, std::size_t left,
                     Four<float32x4_t> value) {
    value = four(QALOF_PART { return vmulq_n_f32(value.part[i], block.x_scales[row]); });
    if (block.bias != nullptr) {
      const Four<float32x4_t> bias = load_outputs(block.bias + first, left);
      value = four(QALOF_PART { return vaddq_f32(value.part[i], bias.part[i]); });
    }
    store_outputs(block.y + row * block.y_stride + first, value, left);
  }
};

// How a sum starts: index is that of the row and group in x_sums.
template <bool kNibbles>
[[gnu::always_inline]] inline Ints first_sum(const IntGemmBlock& block, std::size_t index) {
  const int32x4_t sum = vdupq_n_s32(kNibbles ? -8 * block.x_sums[index] : 0);
  return {{sum, sum, sum, sum}};
}

template <typename Products>
struct NeonInt8Format : NeonIntFormat<Products> {
  using Block = IntGemmBlock;
  static constexpr int kSteps = 1;
  static std::size_t num_vectors(const Block& block) { return (block.k + 3) / 4; }
  static Bytes weights(const char* at, int) {
    const auto* codes = reinterpret_cast<const std::int8_t*>(at);
    return four(QALOF_PART { return vld1q_s8(codes + 16 * i); });
  }
  static auto start(const Block& block, std::size_t row, std::size_t, std::size_t) {
    return Products::from(first_sum<false>(block, row));
  }
};

template <typename Products>
struct NeonInt4Format : NeonIntFormat<Products> {
  using Block = IntGemmBlock;
  static constexpr int kSteps = 2;  // the low nibbles, the high nibbles
  static std::size_t num_vectors(const Block& block) { return (block.k + 7) / 8; }
  static Bytes weights(const char* at, int step) {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(at);
    return four(QALOF_PART {
      const uint8x16_t pairs = vld1q_u8(bytes + 16 * i);
      return vreinterpretq_s8_u8(step == 0 ? vandq_u8(pairs, vdupq_n_u8(15))
                                           : vshrq_n_u8(pairs, 4));
    });
  }
  static auto start(const Block& block, std::size_t row, std::size_t, std::size_t) {
    return Products::from(first_sum<true>(block, row));
  }
};

// kXScales: rows of x have a scale per group too.
template <typename Products, typename Base, bool kXScales>
struct NeonGroupedFormat : Base {
  using Block = IntGemmBlock;
  using Sum = typename Products::Sum;
  using Total = Four<float32x4_t>;
  static constexpr bool kGrouped = true;
  static Total no_total() {
    const float32x4_t zero = vdupq_n_f32(0.0F);
    return {{zero, zero, zero, zero}};
  }
  static Total load_total(const float* partial) { return load_outputs(partial, kPanelRows); }
  static void store_total(float* partial, const Total& total) {
    store_outputs(partial, total, kPanelRows);
  }
  static std::size_t group_vectors(const Block& block) {
    return block.group / (Base::kSteps * Base::kStepBytes);
  }
  static Sum start(const Block& block, std::size_t row, std::size_t first, std::size_t group) {
    const std::size_t index = row * block.groups + group;
    const Ints sum = first_sum<Base::kSteps == 2>(block, index);
    if (block.zeros == nullptr) return Products::from(sum);
    const int8x16_t zeros = vld1q_s8(block.zeros + at(block, first, group));
    const int16x8_t low = vmovl_s8(vget_low_s8(zeros)), high = vmovl_high_s8(zeros);
    const Ints wide = {{vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low),
                        vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)}};
    const int x_sum = block.x_sums[index];
    return Products::from(
        four(QALOF_PART { return vmlsq_n_s32(sum.part[i], wide.part[i], x_sum); }));
  }
  static Total add_group(const Block& block, std::size_t row, std::size_t first, std::size_t group,
                         const Sum& sum, const Total& total) {
    const Ints ints = Products::total(sum);
    const float* scales = block.w_scales + at(block, first, group);
    const float x_scale = kXScales ? block.x_group_scales[row * block.groups + group] : 1.0F;
    return four(QALOF_PART {
      float32x4_t part = vmulq_f32(vcvtq_f32_s32(ints.part[i]), vld1q_f32(scales + 4 * i));
      if constexpr (kXScales) part = vmulq_n_f32(part, x_scale);
      return vaddq_f32(total.part[i], part);
    });
  }

 private:
  // Index of a panel's values for one group.
  static std::size_t at(const Block& block, std::size_t first, std::size_t group) {
    return first * block.groups + group * kPanelRows;
  }
};

template <typename Products, typename Base>
void multiply_neon_groups(const IntGemmBlock& block) {
  return block.x_group_scales == nullptr ? multiply<NeonGroupedFormat<Products, Base, false>>(block)
                                         : multiply<NeonGroupedFormat<Products, Base, true>>(block);
}

// A copy of x, padded with zeros to a multiple of 8.
[[maybe_unused]] void pad_codes(const std::int8_t* x, std::size_t k, void* dst) {
  auto* out = static_cast<std::int8_t*>(dst);
  __builtin_memcpy(out, x, k);
  for (std::size_t i = k; i % 8 != 0; ++i) out[i] = 0;
}

template <typename Products>
void set_neon_int_formats(KernelTable& table) {
  table.int8 = {multiply<NeonInt8Format<Products>>,
                multiply_neon_groups<Products, NeonInt8Format<Products>>,
                {pad_codes, 1}};
  table.int4 = {multiply<NeonInt4Format<Products>>,
                multiply_neon_groups<Products, NeonInt4Format<Products>>,
                {pad_codes, 1}};
}

}  // namespace
}  // namespace qalof::kernels
