// NEON with matrix products (SMMLA): of two rows of x and two outputs, eight k per operation. A
// single row, which would use half of it, is multiplied by SDOT.
#if defined(__aarch64__)
#include "kernels/neon/dotprod_products.h"

namespace qalof::kernels {

namespace {

// Sums of kPairs pairs of rows: register j holds outputs 2 j and 2 j + 1 of the first row, then
// those of the second.
template <int kPairs>
using PairSums = int32x4_t[kPairs][8];

// sum += rows x times k codes of a panel at w.
template <bool kNibbles, int kPairs>
[[gnu::always_inline]] inline void add_products(const std::int8_t* const (&x)[2 * kPairs],
                                                const std::uint8_t* w, std::size_t k,
                                                PairSums<kPairs>& sum) {
  const auto eight = [&](std::size_t at, bool has_second) __attribute__((always_inline)) {
    int8x16_t rows[kPairs];
    unrolled<kPairs>(QALOF_UNROLLED(p) {
      rows[p] = vcombine_s8(vld1_s8(x[2 * p] + at), vld1_s8(x[2 * p + 1] + at));
    });
    unrolled<4>(QALOF_UNROLLED(i) {
      // Four k of outputs 4 i .. 4 i + 3, and the next four.
      uint8x16_t first = vld1q_u8(w + 16 * i), second;
      if constexpr (kNibbles) {
        second = vshrq_n_u8(first, 4);
        first = vandq_u8(first, vdupq_n_u8(15));
      } else {
        second = has_second ? vld1q_u8(w + 64 + 16 * i) : vdupq_n_u8(0);
      }
      const uint32x4_t a = vreinterpretq_u32_u8(first), b = vreinterpretq_u32_u8(second);
      const int8x16_t low = vreinterpretq_s8_u32(vzip1q_u32(a, b));
      const int8x16_t high = vreinterpretq_s8_u32(vzip2q_u32(a, b));
      unrolled<kPairs>(QALOF_UNROLLED(p) {
        sum[p][2 * i] = vmmlaq_s32(sum[p][2 * i], rows[p], low);
        sum[p][2 * i + 1] = vmmlaq_s32(sum[p][2 * i + 1], rows[p], high);
      });
    });
  };
  std::size_t at = 0;
  for (; at + 8 <= k; at += 8, w += kNibbles ? 64 : 128) eight(at, true);
  // Rows are padded to eight, int8 panels to four.
  if (at < k) eight(at, k - at > 4);
}

// The sums of one row of a pair.
[[gnu::always_inline]] inline Ints row_of(const int32x4_t (&sum)[8], int second) {
  return four(QALOF_PART {
    const int64x2_t a = vreinterpretq_s64_s32(sum[2 * i]);
    const int64x2_t b = vreinterpretq_s64_s32(sum[2 * i + 1]);
    return vreinterpretq_s32_s64(second == 0 ? vzip1q_s64(a, b) : vzip2q_s64(a, b));
  });
}
[[gnu::always_inline]] inline Ints plus(const Ints& a, const Ints& b) {
  return four(QALOF_PART { return vaddq_s32(a.part[i], b.part[i]); });
}

template <typename Format, int kPairs>
QALOF_TILE void run_pairs(const IntGemmBlock& block, std::size_t row, std::size_t panel) {
  constexpr bool kNibbles = Format::kSteps == 2;
  constexpr int kRows = 2 * kPairs;
  const std::size_t first = panel * kPanelRows, left = block.n - first;
  const auto* w = static_cast<const std::uint8_t*>(block.panels) +
                  panel * Format::num_vectors(block) * kVectorBytes;
  // The last row stands for one that a pair lacks.
  std::size_t rows[kRows];
  const std::int8_t* x[kRows];
  unrolled<kRows>(QALOF_UNROLLED(r) {
    const std::size_t wanted = row + static_cast<std::size_t>(r);
    rows[r] = wanted < block.rows ? wanted : block.rows - 1;
    x[r] = static_cast<const std::int8_t*>(block.prepared) + rows[r] * block.prepared_stride;
  });
  const auto clear = [](PairSums<kPairs> & sum) __attribute__((always_inline)) {
    unrolled<kPairs>(
        QALOF_UNROLLED(p) { unrolled<8>(QALOF_UNROLLED(j) { sum[p][j] = vdupq_n_s32(0); }); });
  };
  PairSums<kPairs> sum;
  if constexpr (Format::kGrouped) {
    typename Format::Total total[kRows];
    unrolled<kRows>(QALOF_UNROLLED(r) { total[r] = Format::no_total(); });
    const std::size_t group_bytes = Format::group_vectors(block) * kVectorBytes;
    for (std::size_t group = 0, at = 0; at < block.k; ++group, at += block.group) {
      clear(sum);
      const std::size_t count = block.k - at < block.group ? block.k - at : block.group;
      add_products<kNibbles, kPairs>(x, w + group * group_bytes, count, sum);
      unrolled<kRows>(QALOF_UNROLLED(r) {
        x[r] += block.group;
        const Ints ints =
            plus(row_of(sum[r / 2], r % 2), Format::start(block, rows[r], first, group));
        total[r] = Format::add_group(block, rows[r], first, group, ints, total[r]);
      });
    }
    unrolled<kRows>(QALOF_UNROLLED(r) { Format::finish(block, rows[r], first, left, total[r]); });
  } else {
    clear(sum);
    add_products<kNibbles, kPairs>(x, w, block.k, sum);
    unrolled<kRows>(QALOF_UNROLLED(r) {
      const Ints ints = plus(row_of(sum[r / 2], r % 2), Format::start(block, rows[r], first, left));
      Format::finish(block, rows[r], first, left, ints);
    });
  }
}

template <typename Format>
void multiply_rows(const IntGemmBlock& block) {
  if (block.rows == 1) return multiply<Format>(block);
  const std::size_t num_panels = (block.n + kPanelRows - 1) / kPanelRows;
  const std::size_t num_pairs = (block.rows + 1) / 2;
  // Tiles of nearly equal height, of three pairs at most: 24 of 32 registers.
  const std::size_t num_tiles = (num_pairs + 2) / 3;
  for (std::size_t panel = 0; panel < num_panels; ++panel) {
    for (std::size_t tile = 0; tile < num_tiles; ++tile) {
      const std::size_t pair = num_pairs * tile / num_tiles;
      switch (num_pairs * (tile + 1) / num_tiles - pair) {
        case 1:
          run_pairs<Format, 1>(block, 2 * pair, panel);
          break;
        case 2:
          run_pairs<Format, 2>(block, 2 * pair, panel);
          break;
        default:
          run_pairs<Format, 3>(block, 2 * pair, panel);
          break;
      }
    }
  }
}

using Int8 = NeonInt8Format<DotProducts>;
using Int4 = NeonInt4Format<DotProducts>;

template <typename Base>
void multiply_grouped_rows(const IntGemmBlock& block) {
  return block.x_group_scales == nullptr
             ? multiply_rows<NeonGroupedFormat<DotProducts, Base, false>>(block)
             : multiply_rows<NeonGroupedFormat<DotProducts, Base, true>>(block);
}

}  // namespace

void set_i8mm_int_gemm(KernelTable& table) {
  table.int8.gemm = multiply_rows<Int8>;
  table.int4.gemm = multiply_rows<Int4>;
  table.int8.grouped = multiply_grouped_rows<Int8>;
  table.int4.grouped = multiply_grouped_rows<Int4>;
}

}  // namespace qalof::kernels
#endif
