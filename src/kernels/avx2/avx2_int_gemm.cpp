// AVX2: integer products. Codes of int8 panels are in -127..127, so |w| fits a byte and sign(x, w)
// is exact; a pair of products is at most 2 * 127 * 127 = 32258 and fits 16 bits. Fewer bits are
// used as they are stored, as bytes 0..15, 0..7 or 0..3: a pair is at most 3810, 1778 or 762, and
// 8, 18 or 43 pairs fit 16 bits.
#if defined(__x86_64__)
#include "kernels/avx2/avx2_codes.h"
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

// Eight values per output, as far as n goes where the panel is not whole.
[[gnu::always_inline]] inline __m256 load_outputs(const IntGemmBlock& block, const float* values,
                                                  std::size_t first) {
  const std::size_t count = block.n - first;
  return count >= kLanes ? _mm256_loadu_ps(values + first)  // masked loads and stores are slow
                         : _mm256_maskload_ps(values + first, lane_mask(count));
}

// Stores eight outputs of one row, given their sums times the weights' scales.
[[gnu::always_inline]] inline void store_total(const IntGemmBlock& block, std::size_t row,
                                               std::size_t first, __m256 total) {
  float* y = block.y + row * block.y_stride + first;
  const std::size_t count = block.n - first;
  __m256 value = _mm256_mul_ps(total, _mm256_set1_ps(block.x_scales[row]));
  if (block.bias != nullptr) value = _mm256_add_ps(value, load_outputs(block, block.bias, first));
  if (count >= kLanes) {
    _mm256_storeu_ps(y, value);
  } else {
    _mm256_maskstore_ps(y, lane_mask(count), value);
  }
}

// Stores a panel's outputs of kRows rows, as store_total.
template <int kRows>
[[gnu::always_inline]] inline void store_totals(const IntGemmBlock& block, std::size_t row,
                                                std::size_t panel,
                                                const float (&totals)[kRows][kPanelRows]) {
  const std::size_t first = panel * kPanelRows;
  unrolled<kRows>(QALOF_UNROLLED(r) {
    const std::size_t x_row = row + static_cast<std::size_t>(r);
    store_total(block, x_row, first, _mm256_loadu_ps(totals[r]));
    if (block.n - first > kLanes)
      store_total(block, x_row, first + kLanes, _mm256_loadu_ps(totals[r] + kLanes));
  });
}

// Stores eight outputs of one row; each operation rounds once, as in the portable kernel.
[[gnu::always_inline]] inline void store_lanes(const IntGemmBlock& block, std::size_t row,
                                               std::size_t first, __m256i acc) {
  if (block.y != nullptr) {
    return store_total(
        block, row, first,
        _mm256_mul_ps(_mm256_cvtepi32_ps(acc), load_outputs(block, block.w_scales, first)));
  }
  std::int32_t* at = block.acc + row * block.y_stride + first;
  const std::size_t count = block.n - first;
  if (count >= kLanes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), acc);
  } else {
    _mm256_maskstore_epi32(at, lane_mask(count), acc);
  }
}

// Sums of kRows rows and the sixteen outputs of a panel.
template <int kRows>
using Sums = __m256i[kRows][2];

struct Int8Codes {
  static constexpr int kOffset = 0;
  static std::size_t bytes(std::size_t k) { return (k + 3) / 4 * 4 * kPanelRows; }

  // sums += x [kRows, k], rows stride apart, times the codes at w.
  template <int kRows>
  [[gnu::always_inline]] static void add(const std::int8_t* x, std::size_t stride,
                                         const std::uint8_t* w, std::size_t k, Sums<kRows>& sums) {
    std::size_t i = 0;
    for (; i + 8 <= k; i += 8, w += 128) {
      unrolled<2>(QALOF_UNROLLED(u) {
        const Weights weights(w + 64 * u);
        unrolled<kRows>(QALOF_UNROLLED(r) {
          weights.step(broadcast4(x + static_cast<std::size_t>(r) * stride + i + 4 * u), sums[r]);
        });
      });
    }
    for (; i < k; i += 4, w += 64) {
      const Weights weights(w);
      unrolled<kRows>(QALOF_UNROLLED(r) {
        weights.step(broadcast_rest(x + static_cast<std::size_t>(r) * stride + i, k - i), sums[r]);
      });
    }
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

// Formats with an offset.
template <WeightFormat kFormat>
struct FewBitCodes {
  static constexpr CodeLayout kLayout = code_layout(kFormat);
  static constexpr int kOffset = kLayout.offset;
  static constexpr int kSteps = static_cast<int>(kLayout.columns / 4);
  static constexpr int kPairs = 32767 / (2 * 127 * ((1 << kLayout.bits) - 1));  // fit 16 bits
  static constexpr std::size_t kRun = kPairs / kSteps * kLayout.columns;        // k of these
  static std::size_t bytes(std::size_t k) {
    return (k + kLayout.columns - 1) / kLayout.columns * kLayout.bytes;
  }

  template <int kRows>
  [[gnu::always_inline]] static void add(const std::int8_t* x, std::size_t stride,
                                         const std::uint8_t* w, std::size_t k, Sums<kRows>& sums) {
    const __m256i ones = _mm256_set1_epi16(1);
    std::size_t i = 0;
    while (i < k) {
      Sums<kRows> pairs;
      unrolled<kRows>(QALOF_UNROLLED(r) { pairs[r][0] = pairs[r][1] = _mm256_setzero_si256(); });
      const std::size_t end = i + kRun < k ? i + kRun : k;
      for (; i + kLayout.columns <= end; i += kLayout.columns, w += kLayout.bytes) {
        add_unit<kRows>(
            w, pairs, [&](int r, int step) __attribute__((always_inline)) {
              return broadcast4(x + static_cast<std::size_t>(r) * stride + i +
                                4 * static_cast<std::size_t>(step));
            });
      }
      if (i < end) {
        const std::size_t rest = end - i;
        add_unit<kRows>(
            w, pairs, [&](int r, int step) __attribute__((always_inline)) {
              const std::size_t skip = 4 * static_cast<std::size_t>(step);
              const std::int8_t* at = x + static_cast<std::size_t>(r) * stride + i + skip;
              return rest > skip ? broadcast_rest(at, rest - skip) : _mm256_setzero_si256();
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

  // k of a run that needs no care for its end: a part of a group, and so is a multiple of units.
  static constexpr std::size_t kWholeRun = kRun < 64 ? kRun : 64;

  // pairs = x [kRows, kWholeRun] times the codes at w, as pairs of 16 bits.
  template <int kRows>
  [[gnu::always_inline]] static void whole_run(const std::int8_t* x, std::size_t stride,
                                               const std::uint8_t* w, Sums<kRows>& pairs) {
    constexpr int kUnits = static_cast<int>(kWholeRun / kLayout.columns);
    unrolled<kUnits>(QALOF_UNROLLED(unit) {
      const auto first = static_cast<std::size_t>(unit) * kLayout.columns;
      const auto load = [&](int r, int step) __attribute__((always_inline)) {
        return broadcast4(x + static_cast<std::size_t>(r) * stride + first +
                          4 * static_cast<std::size_t>(step));
      };
      const std::uint8_t* at = w + static_cast<std::size_t>(unit) * kLayout.bytes;
      if (unit == 0) {
        add_unit<kRows, true>(at, pairs, load);
      } else {
        add_unit<kRows>(at, pairs, load);
      }
    });
  }

 private:
  // pairs += a unit's codes times the four codes that x(row, step) returns in every lane; kStore:
  // pairs had no value before.
  template <int kRows, bool kStore = false, typename X>
  [[gnu::always_inline]] static void add_unit(const std::uint8_t* w, Sums<kRows>& pairs,
                                              const X& x) {
    unrolled<kSteps>(QALOF_UNROLLED(step) {
      const __m256i codes[2] = {stored_codes<kFormat>(w, step),
                                stored_codes<kFormat>(w + 32, step)};
      unrolled<kRows>(QALOF_UNROLLED(r) {
        const __m256i value = x(r, step);
        unrolled<2>(QALOF_UNROLLED(half) {
          const __m256i product = _mm256_maddubs_epi16(codes[half], value);
          pairs[r][half] =
              kStore && step == 0 ? product : _mm256_add_epi16(pairs[r][half], product);
        });
        asm volatile("" : "+x"(pairs[r][0]), "+x"(pairs[r][1]));  // as in Int8Codes
      });
    });
  }
};

// What a product adds to the sum of stored codes, or zero.
template <typename Codes>
[[gnu::always_inline]] inline __m256i first_sum(const IntGemmBlock& block, std::size_t index) {
  if constexpr (Codes::kOffset != 0)
    return _mm256_set1_epi32(-Codes::kOffset * block.x_sums[index]);
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
    const std::size_t first = panel * kPanelRows;
    unrolled<kRows>(QALOF_UNROLLED(r) {
      store_lanes(block, row + static_cast<std::size_t>(r), first, sums[r][0]);
      if (block.n - first > kLanes)
        store_lanes(block, row + static_cast<std::size_t>(r), first + kLanes, sums[r][1]);
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
    store_totals<kRows>(block, row, panel, totals);
  }

 private:
  // Of a row and group in x_sums and x_group_scales.
  static std::size_t index(const IntGemmBlock& block, std::size_t row, int r, std::size_t group) {
    return (row + static_cast<std::size_t>(r)) * block.groups + group;
  }
};

// GroupedTile where every group is a number of whole runs: the sums of pairs stay in registers.
template <typename Codes>
struct WholeGroupsTile {
  template <int kRows>
  QALOF_TILE static void run(const IntGemmBlock& block, std::size_t row, std::size_t panel) {
    const auto* w = static_cast<const std::uint8_t*>(block.panels) + panel * Codes::bytes(block.k);
    const std::int8_t* x = block.x + row * block.x_stride;
    const __m256i ones = _mm256_set1_epi16(1);
    Sums<kRows> sums, pairs;
    float totals[kRows][kPanelRows] = {};
    const std::size_t runs = block.group / Codes::kWholeRun;
    for (std::size_t group = 0; group < block.groups; ++group) {
      std::size_t i = 0;
      do {
        Codes::template whole_run<kRows>(x, block.x_stride, w, pairs);
        x += Codes::kWholeRun;
        w += Codes::bytes(Codes::kWholeRun);
        unrolled<kRows>(QALOF_UNROLLED(r) {
          unrolled<2>(QALOF_UNROLLED(half) {
            const __m256i sum = _mm256_madd_epi16(pairs[r][half], ones);
            sums[r][half] = i == 0 ? sum : _mm256_add_epi32(sums[r][half], sum);
          });
        });
      } while (++i < runs);
      add_group<kRows>(block, row, panel, group, sums, totals);
    }
    store_totals<kRows>(block, row, panel, totals);
  }

 private:
  // totals += a group's sums, less what their offset and zero points add, times its scales.
  template <int kRows>
  [[gnu::always_inline]] static void add_group(const IntGemmBlock& block, std::size_t row,
                                               std::size_t panel, std::size_t group,
                                               const Sums<kRows>& sums,
                                               float (&totals)[kRows][kPanelRows]) {
    const std::size_t at = (panel * block.groups + group) * kPanelRows;
    const std::size_t x_at = row * block.groups + group;
    const auto add = [&](int r, int half, __m256i excess) __attribute__((always_inline)) {
      const __m256 scales =
          _mm256_loadu_ps(block.w_scales + at + static_cast<std::size_t>(half) * kLanes);
      __m256 part =
          _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(sums[r][half], excess)), scales);
      if (block.x_group_scales != nullptr) {
        const std::size_t x_index = x_at + static_cast<std::size_t>(r) * block.groups;
        part = _mm256_mul_ps(part, _mm256_set1_ps(block.x_group_scales[x_index]));
      }
      float* total = totals[r] + static_cast<std::size_t>(half) * kLanes;
      _mm256_storeu_ps(total, _mm256_add_ps(_mm256_loadu_ps(total), part));
    };
    const auto x_sum = [&](int r) __attribute__((always_inline)) {
      return _mm256_set1_epi32(block.x_sums[x_at + static_cast<std::size_t>(r) * block.groups]);
    };
    if (block.zeros == nullptr) {
      unrolled<kRows>(QALOF_UNROLLED(r) {
        const __m256i excess = _mm256_mullo_epi32(x_sum(r), _mm256_set1_epi32(Codes::kOffset));
        unrolled<2>(QALOF_UNROLLED(half) { add(r, half, excess); });
      });
      return;
    }
    unrolled<2>(QALOF_UNROLLED(half) {
      const auto* zeros = reinterpret_cast<const __m128i*>(block.zeros + at +
                                                           static_cast<std::size_t>(half) * kLanes);
      const __m256i offsets = _mm256_add_epi32(_mm256_set1_epi32(Codes::kOffset),
                                               _mm256_cvtepi8_epi32(_mm_loadl_epi64(zeros)));
      unrolled<kRows>(QALOF_UNROLLED(r) { add(r, half, _mm256_mullo_epi32(offsets, x_sum(r))); });
    });
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

template <typename Codes>
void multiply_grouped(const IntGemmBlock& block) {
  if constexpr (Codes::kOffset != 0) {
    if (block.k % block.group == 0 && block.group % Codes::kWholeRun == 0)
      return multiply<WholeGroupsTile<Codes>>(block);
  }
  multiply<GroupedTile<Codes>>(block);
}

template <typename Codes>
constexpr IntProducts kProducts = {multiply<Tile<Codes>>, multiply_grouped<Codes>};

}  // namespace

void set_avx2_int_gemm(KernelTable& table) {
  table.int8 = kProducts<Int8Codes>;
  table.int4 = kProducts<FewBitCodes<WeightFormat::kInt4>>;
  table.int3 = kProducts<FewBitCodes<WeightFormat::kInt3>>;
  table.int2 = kProducts<FewBitCodes<WeightFormat::kInt2>>;
}

}  // namespace qalof::kernels
#endif
