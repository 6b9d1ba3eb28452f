// AVX2: integer products. Codes of int8 panels are in -127..127, so |w| fits a byte and sign(x, w)
// is exact; a pair of products is at most 2 * 127 * 127 = 32258 and fits 16 bits. Nibbles of int4
// panels are used as bytes 0..15: a pair is at most 3810, and eight pairs fit 16 bits.
#if defined(__x86_64__)
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

// Stores eight outputs of one row, given their sums times the weights' scales.
void store_total(const IntGemmBlock& block, std::size_t row, std::size_t first, __m256 total) {
  const std::size_t at = row * block.y_stride + first;
  const std::size_t count = block.n - first;
  const __m256i mask = lane_mask(count);
  __m256 value = _mm256_mul_ps(total, _mm256_set1_ps(block.x_scales[row]));
  if (block.bias != nullptr)
    value = _mm256_add_ps(value, _mm256_maskload_ps(block.bias + first, mask));
  if (count >= kLanes) {
    _mm256_storeu_ps(block.y + at, value);
  } else {
    _mm256_maskstore_ps(block.y + at, mask, value);
  }
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
  store_total(
      block, row, first,
      _mm256_mul_ps(_mm256_cvtepi32_ps(acc), _mm256_maskload_ps(block.w_scales + first, mask)));
}

void store_panel(const IntGemmBlock& block, std::size_t row, std::size_t first, __m256i low,
                 __m256i high) {
  store_lanes(block, row, first, low);
  if (block.n - first > 8) store_lanes(block, row, first + 8, high);
}

// Sums of kRows rows and the sixteen outputs of a panel.
template <int kRows>
using Sums = __m256i[kRows][2];

struct Int8Codes {
  static constexpr bool kNibbles = false;
  static std::size_t bytes(std::size_t k) { return (k + 3) / 4 * 4 * kPanelRows; }

  // sums += x [kRows, k], rows stride apart, times the codes at w.
  template <int kRows>
  [[gnu::always_inline]] static void add(const std::int8_t* x, std::size_t stride,
                                         const std::uint8_t* w, std::size_t k, Sums<kRows>& sums) {
    const std::size_t whole = k / 4 * 4;
    std::size_t i = 0;
    for (; i < whole; i += 4, w += 64) {
      const Weights weights(w);
      unrolled<kRows>(QALOF_UNROLLED(r) {
        weights.step(broadcast4(x + static_cast<std::size_t>(r) * stride + i), sums[r]);
      });
    }
    if (i == k) return;
    const Weights weights(w);
    unrolled<kRows>(QALOF_UNROLLED(r) {
      weights.step(broadcast_rest(x + static_cast<std::size_t>(r) * stride + i, k - i), sums[r]);
    });
  }

 private:
  struct Weights {
    __m256i codes[2], absolute[2];
    [[gnu::always_inline]] explicit Weights(const std::uint8_t* w) {
      unrolled<2>(QALOF_UNROLLED(half) {
        codes[half] = load(w + 32 * half);
        absolute[half] = _mm256_abs_epi8(codes[half]);
      });
    }
    [[gnu::always_inline]] void step(__m256i x, __m256i* sums) const {
      const __m256i ones = _mm256_set1_epi16(1);
      unrolled<2>(QALOF_UNROLLED(half) {
        const __m256i pairs =
            _mm256_maddubs_epi16(absolute[half], _mm256_sign_epi8(x, codes[half]));
        sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(pairs, ones));
      });
      // Forces row-by-row order: otherwise the compiler loads all rows first and spills the sums.
      asm volatile("" : "+x"(sums[0]), "+x"(sums[1]));
    }
  };
};

struct Int4Codes {
  static constexpr bool kNibbles = true;
  static std::size_t bytes(std::size_t k) { return (k + 7) / 8 * 4 * kPanelRows; }

  template <int kRows>
  [[gnu::always_inline]] static void add(const std::int8_t* x, std::size_t stride,
                                         const std::uint8_t* w, std::size_t k, Sums<kRows>& sums) {
    const __m256i ones = _mm256_set1_epi16(1);
    std::size_t i = 0;
    while (i < k) {
      Sums<kRows> pairs;
      unrolled<kRows>(QALOF_UNROLLED(r) { pairs[r][0] = pairs[r][1] = _mm256_setzero_si256(); });
      // Four bytes of nibbles hold eight k, two pairs per lane; after four such steps the sums hold
      // the eight pairs that fit.
      const std::size_t end = i + 32 < k ? i + 32 : k;
      for (; i + 8 <= end; i += 8, w += 64) {
        const Nibbles nibbles(w);
        unrolled<kRows>(QALOF_UNROLLED(r) {
          const std::int8_t* at = x + static_cast<std::size_t>(r) * stride + i;
          nibbles.step(broadcast4(at), broadcast4(at + 4), pairs[r]);
        });
      }
      if (i < end) {
        const Nibbles nibbles(w);
        const std::size_t rest = end - i;
        unrolled<kRows>(QALOF_UNROLLED(r) {
          const std::int8_t* at = x + static_cast<std::size_t>(r) * stride + i;
          nibbles.step(broadcast_rest(at, rest),
                       rest > 4 ? broadcast_rest(at + 4, rest - 4) : _mm256_setzero_si256(),
                       pairs[r]);
        });
        i = end;
      }
      unrolled<kRows>(QALOF_UNROLLED(r) {
        unrolled<2>(QALOF_UNROLLED(half) {
          sums[r][half] = _mm256_add_epi32(sums[r][half], _mm256_madd_epi16(pairs[r][half], ones));
        });
      });
    }
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
      asm volatile("" : "+x"(pairs[0]), "+x"(pairs[1]));  // as in Int8Codes
    }
  };
};

// What a product adds to the sum of nibbles (code + 8), or zero.
template <typename Codes>
[[gnu::always_inline]] inline __m256i first_sum(const IntGemmBlock& block, std::size_t index) {
  if constexpr (Codes::kNibbles) return _mm256_set1_epi32(-8 * block.x_sums[index]);
  return _mm256_setzero_si256();
}

template <typename Codes>
struct Tile {
  template <int kRows>
  QALOF_TILE static void run(const IntGemmBlock& block, std::size_t row, std::size_t panel) {
    const auto* w = static_cast<const std::uint8_t*>(block.panels) + panel * Codes::bytes(block.k);
    Sums<kRows> sums;
    unrolled<kRows>(QALOF_UNROLLED(r) {
      sums[r][0] = sums[r][1] = first_sum<Codes>(block, row + static_cast<std::size_t>(r));
    });
    Codes::template add<kRows>(block.x + row * block.x_stride, block.x_stride, w, block.k, sums);
    unrolled<kRows>(QALOF_UNROLLED(r) {
      store_panel(block, row + static_cast<std::size_t>(r), panel * kPanelRows, sums[r][0],
                  sums[r][1]);
    });
  }
};

// Of weights with groups: the float sums of groups wait in the first cache.
template <typename Codes>
struct GroupedTile {
  template <int kRows>
  QALOF_TILE static void run(const IntGemmBlock& block, std::size_t row, std::size_t panel) {
    const auto* w = static_cast<const std::uint8_t*>(block.panels) + panel * Codes::bytes(block.k);
    const std::size_t group_bytes = Codes::bytes(block.group);
    float totals[kRows][kPanelRows] = {};
    for (std::size_t group = 0, i = 0; i < block.k; ++group, i += block.group, w += group_bytes) {
      Sums<kRows> sums;
      unrolled<kRows>(QALOF_UNROLLED(r) {
        sums[r][0] = sums[r][1] = first_sum<Codes>(block, index(block, row, r, group));
      });
      const std::size_t left = block.k - i;
      Codes::template add<kRows>(block.x + row * block.x_stride + i, block.x_stride, w,
                                 left < block.group ? left : block.group, sums);
      unrolled<2>(QALOF_UNROLLED(half) {
        const std::size_t at =
            (panel * block.groups + group) * kPanelRows + static_cast<std::size_t>(half) * kLanes;
        const __m256 scales = _mm256_loadu_ps(block.w_scales + at);
        __m256i zeros = _mm256_setzero_si256();
        if (block.zeros != nullptr) {
          const auto* bytes = reinterpret_cast<const __m128i*>(block.zeros + at);
          zeros = _mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes));
        }
        unrolled<kRows>(QALOF_UNROLLED(r) {
          __m256i sum = sums[r][half];
          if (block.zeros != nullptr) {
            const __m256i x = _mm256_set1_epi32(block.x_sums[index(block, row, r, group)]);
            sum = _mm256_sub_epi32(sum, _mm256_mullo_epi32(zeros, x));
          }
          __m256 part = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scales);
          if (block.x_group_scales != nullptr) {
            part = _mm256_mul_ps(part,
                                 _mm256_set1_ps(block.x_group_scales[index(block, row, r, group)]));
          }
          float* total = totals[r] + static_cast<std::size_t>(half) * kLanes;
          _mm256_storeu_ps(total, _mm256_add_ps(_mm256_loadu_ps(total), part));
        });
      });
    }
    const std::size_t first = panel * kPanelRows;
    unrolled<kRows>(QALOF_UNROLLED(r) {
      const std::size_t x_row = row + static_cast<std::size_t>(r);
      store_total(block, x_row, first, _mm256_loadu_ps(totals[r]));
      if (block.n - first > kLanes)
        store_total(block, x_row, first + kLanes, _mm256_loadu_ps(totals[r] + kLanes));
    });
  }

 private:
  // Of a row and group in x_sums and x_group_scales.
  static std::size_t index(const IntGemmBlock& block, std::size_t row, int r, std::size_t group) {
    return (row + static_cast<std::size_t>(r)) * block.groups + group;
  }
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

}  // namespace

void set_avx2_int_gemm(KernelTable& table) {
  table.gemm_int8 = multiply<Tile<Int8Codes>>;
  table.gemm_int4 = multiply<Tile<Int4Codes>>;
  table.gemm_int8_grouped = multiply<GroupedTile<Int8Codes>>;
  table.gemm_int4_grouped = multiply<GroupedTile<Int4Codes>>;
}

}  // namespace qalof::kernels
#endif
