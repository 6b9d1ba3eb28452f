// AVX2: integer products. Codes of int8 panels are in -127..127, so |w| fits a byte and sign(x, w)
// is exact; a pair of products is at most 2 * 127 * 127 = 32258 and fits 16 bits. Nibbles of int4
// panels are used as bytes 0..15: a pair is at most 3810, and eight pairs fit 16 bits.
#if defined(__x86_64__)
#include "kernels/avx2/avx2_int8_many_rows.h"
#include "kernels/avx2/avx2_math.h"
#include "kernels/kernel_table.h"
#include "kernels/unroll.h"

namespace qalof::kernels {

namespace {

__m256i load(const std::uint8_t* at) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}

// Four codes of one row, in every lane.
__m256i broadcast4(const std::int8_t* x) {
  int bits;
  __builtin_memcpy(&bits, x, 4);
  return _mm256_set1_epi32(bits);
}

// broadcast4 with count codes left, padded with zeros.
__m256i broadcast_rest(const std::int8_t* x, std::size_t count) {
  if (count >= 4) return broadcast4(x);
  std::int8_t bytes[4] = {};
  for (std::size_t i = 0; i < count; ++i) bytes[i] = x[i];
  return broadcast4(bytes);
}

// Stores eight outputs of one row; each operation rounds once, as in the portable kernel.
void store_lanes(const IntGemmBlock& block, std::size_t row, std::size_t first, __m256i acc) {
  const std::size_t at = row * block.y_stride + first;
  const std::size_t count = block.n - first;
  if (block.y == nullptr && count >= kLanes) {  // masked stores are slow
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(block.acc + at), acc);
    return;
  }
  const __m256i mask = lane_mask(count);
  if (block.y == nullptr) {
    _mm256_maskstore_epi32(block.acc + at, mask, acc);
    return;
  }
  __m256 value =
      _mm256_mul_ps(_mm256_cvtepi32_ps(acc), _mm256_maskload_ps(block.w_scales + first, mask));
  value = _mm256_mul_ps(value, _mm256_set1_ps(block.x_scales[row]));
  if (block.bias != nullptr)
    value = _mm256_add_ps(value, _mm256_maskload_ps(block.bias + first, mask));
  if (count >= kLanes) {
    _mm256_storeu_ps(block.y + at, value);
  } else {
    _mm256_maskstore_ps(block.y + at, mask, value);
  }
}

void store_panel(const IntGemmBlock& block, std::size_t row, std::size_t first, __m256i low,
                 __m256i high) {
  store_lanes(block, row, first, low);
  if (block.n - first > 8) store_lanes(block, row, first + 8, high);
}

struct Int8Tile {
  static std::size_t panel_bytes(std::size_t k) { return (k + 3) / 4 * 4 * kPanelRows; }

  template <int kRows>
  static void run(const IntGemmBlock& block, std::size_t row, std::size_t panel) {
    const std::uint8_t* w =
        static_cast<const std::uint8_t*>(block.panels) + panel * panel_bytes(block.k);
    const std::int8_t* x = block.x + row * block.x_stride;
    __m256i acc[kRows][2];
    unrolled<kRows>(QALOF_UNROLLED(r) { acc[r][0] = acc[r][1] = _mm256_setzero_si256(); });
    const std::size_t whole = block.k / 4 * 4;
    std::size_t i = 0;
    for (; i < whole; i += 4, w += 64) {
      const __m256i low = load(w);
      const __m256i high = load(w + 32);
      unrolled<kRows>(QALOF_UNROLLED(r) {
        step(broadcast4(x + static_cast<std::size_t>(r) * block.x_stride + i), low, high, acc[r]);
      });
    }
    if (i < block.k) {
      unrolled<kRows>(QALOF_UNROLLED(r) {
        step(broadcast_rest(x + static_cast<std::size_t>(r) * block.x_stride + i, block.k - i),
             load(w), load(w + 32), acc[r]);
      });
    }
    unrolled<kRows>(QALOF_UNROLLED(r) {
      store_panel(block, row + static_cast<std::size_t>(r), panel * kPanelRows, acc[r][0],
                  acc[r][1]);
    });
  }

 private:
  [[gnu::always_inline]] static void step(__m256i x, __m256i low, __m256i high, __m256i* acc) {
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i a = _mm256_maddubs_epi16(_mm256_abs_epi8(low), _mm256_sign_epi8(x, low));
    const __m256i b = _mm256_maddubs_epi16(_mm256_abs_epi8(high), _mm256_sign_epi8(x, high));
    acc[0] = _mm256_add_epi32(acc[0], _mm256_madd_epi16(a, ones));
    acc[1] = _mm256_add_epi32(acc[1], _mm256_madd_epi16(b, ones));
  }
};

struct Int4Tile {
  static std::size_t panel_bytes(std::size_t k) { return (k + 7) / 8 * 4 * kPanelRows; }

  template <int kRows>
  static void run(const IntGemmBlock& block, std::size_t row, std::size_t panel) {
    const std::uint8_t* w =
        static_cast<const std::uint8_t*>(block.panels) + panel * panel_bytes(block.k);
    const std::int8_t* x = block.x + row * block.x_stride;
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i acc[kRows][2];
    unrolled<kRows>(QALOF_UNROLLED(r) {
      acc[r][0] = acc[r][1] =
          _mm256_set1_epi32(-8 * block.x_sums[row + static_cast<std::size_t>(r)]);
    });
    std::size_t i = 0;
    while (i < block.k) {
      __m256i pairs[kRows][2];
      unrolled<kRows>(QALOF_UNROLLED(r) { pairs[r][0] = pairs[r][1] = _mm256_setzero_si256(); });
      // Four bytes of nibbles hold eight k, two pairs per lane; after four such steps the sums hold
      // the eight pairs that fit.
      const std::size_t end = i + 32 < block.k ? i + 32 : block.k;
      for (; i + 8 <= end; i += 8, w += 64) {
        const Nibbles nibbles(w);
        unrolled<kRows>(QALOF_UNROLLED(r) {
          const std::int8_t* at = x + static_cast<std::size_t>(r) * block.x_stride + i;
          nibbles.step(broadcast4(at), broadcast4(at + 4), pairs[r]);
        });
      }
      if (i < end) {
        const Nibbles nibbles(w);
        const std::size_t rest = end - i;
        unrolled<kRows>(QALOF_UNROLLED(r) {
          const std::int8_t* at = x + static_cast<std::size_t>(r) * block.x_stride + i;
          nibbles.step(broadcast_rest(at, rest),
                       rest > 4 ? broadcast_rest(at + 4, rest - 4) : _mm256_setzero_si256(),
                       pairs[r]);
        });
        i = end;
      }
      unrolled<kRows>(QALOF_UNROLLED(r) {
        acc[r][0] = _mm256_add_epi32(acc[r][0], _mm256_madd_epi16(pairs[r][0], ones));
        acc[r][1] = _mm256_add_epi32(acc[r][1], _mm256_madd_epi16(pairs[r][1], ones));
      });
    }
    unrolled<kRows>(QALOF_UNROLLED(r) {
      store_panel(block, row + static_cast<std::size_t>(r), panel * kPanelRows, acc[r][0],
                  acc[r][1]);
    });
  }

 private:
  struct Nibbles {
    __m256i first[2], second[2];  // k0..k0+3 and k0+4..k0+7, for both halves of the panel
    [[gnu::always_inline]] explicit Nibbles(const std::uint8_t* w) {
      const __m256i mask = _mm256_set1_epi8(15);
      unrolled<2>(QALOF_UNROLLED(half) {
        const __m256i bytes = load(w + 32 * half);
        first[half] = _mm256_and_si256(bytes, mask);
        second[half] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
      });
    }
    [[gnu::always_inline]] void step(__m256i x0, __m256i x1, __m256i* pairs) const {
      unrolled<2>(QALOF_UNROLLED(half) {
        pairs[half] = _mm256_add_epi16(pairs[half], _mm256_maddubs_epi16(first[half], x0));
        pairs[half] = _mm256_add_epi16(pairs[half], _mm256_maddubs_epi16(second[half], x1));
      });
      // Forces row-by-row order, see avx2_int8_many_rows.h.
      asm volatile("" : "+x"(pairs[0]), "+x"(pairs[1]));
    }
  };
};

template <typename Tile>
void multiply(const IntGemmBlock& block) {
  const std::size_t num_panels = (block.n + kPanelRows - 1) / kPanelRows;
  for (std::size_t panel = 0; panel < num_panels; ++panel) {
    std::size_t row = 0;
    for (; row + 4 <= block.rows; row += 4) Tile::template run<4>(block, row, panel);
    switch (block.rows - row) {
      case 3:
        Tile::template run<3>(block, row, panel);
        break;
      case 2:
        Tile::template run<2>(block, row, panel);
        break;
      case 1:
        Tile::template run<1>(block, row, panel);
        break;
      default:
        break;
    }
  }
}

// Below this many rows, widening a panel costs more than it saves.
constexpr std::size_t kMinWideRows = 16;

void multiply_int8(const IntGemmBlock& block) {
  if (block.rows < kMinWideRows) return multiply<Int8Tile>(block);
  const auto* wide_x = static_cast<const std::int16_t*>(block.prepared);
  const std::size_t stride = block.prepared_stride / sizeof(*wide_x);
  for (std::size_t first = 0; first < block.n; first += kPanelRows) {
    const std::int8_t* panel = static_cast<const std::int8_t*>(block.panels) +
                               first / kPanelRows * Int8Tile::panel_bytes(block.k);
    for (std::size_t group = 0; group < block.rows; group += kWideGroupRows) {
      const std::size_t rows =
          block.rows - group < kWideGroupRows ? block.rows - group : kWideGroupRows;
      const std::size_t num_tiles = (rows + kWideTileRows - 1) / kWideTileRows;
      std::int32_t acc[kWideGroupRows * kPanelRows];
      __builtin_memset(acc, 0, rows * kPanelRows * sizeof(std::int32_t));
      for (std::size_t begin = 0; begin < block.k; begin += kWideStretch) {
        const std::size_t count = block.k - begin < kWideStretch ? block.k - begin : kWideStretch;
        std::int16_t w[kWideStretch * kPanelRows];
        widen_panel(panel + begin * kPanelRows, (count + 3) / 4 * 4, w);
        for (std::size_t tile = 0; tile < num_tiles; ++tile) {
          const std::size_t row = rows * tile / num_tiles;
          const std::size_t next = rows * (tile + 1) / num_tiles;
          run_wide_tile(next - row, wide_x + (group + row) * stride + begin, stride, w,
                        (count + 1) / 2, acc + row * kPanelRows);
        }
      }
      for (std::size_t row = 0; row < rows; ++row) {
        const std::uint8_t* at = reinterpret_cast<const std::uint8_t*>(acc + row * kPanelRows);
        store_panel(block, group + row, first, load(at), load(at + 32));
      }
    }
  }
}

}  // namespace

void set_avx2_int_gemm(KernelTable& table) {
  table.gemm_int8 = multiply_int8;
  table.prepare_int8 = {widen_row, sizeof(std::int16_t), true};
  table.gemm_int4 = multiply<Int4Tile>;
}

}  // namespace qalof::kernels
#endif
