// AVX2 and FMA: float products on f32 and bf16 panels. Every output is one chain of fused
// multiply-adds over ascending k for every tile size, so sizes are chosen by speed alone.
#if defined(__x86_64__)
#include "kernels/avx2/avx2_math.h"
#include "kernels/kernel_table.h"
#include "kernels/unroll.h"

namespace qalof::kernels {

namespace {

// Stores eight outputs at y, of which the first count exist.
void store_lanes(const FloatGemmBlock& block, __m256 value, std::size_t first, std::size_t count,
                 float* y) {
  value = _mm256_mul_ps(value, _mm256_set1_ps(block.alpha));
  if (count >= 8) {
    if (block.scales != nullptr)
      value = _mm256_mul_ps(value, _mm256_loadu_ps(block.scales + first));
    if (block.bias != nullptr) value = _mm256_add_ps(value, _mm256_loadu_ps(block.bias + first));
    if (block.add) value = _mm256_add_ps(_mm256_loadu_ps(y), value);
    _mm256_storeu_ps(y, value);
    return;
  }
  const __m256i mask = lane_mask(count);
  if (block.scales != nullptr)
    value = _mm256_mul_ps(value, _mm256_maskload_ps(block.scales + first, mask));
  if (block.bias != nullptr)
    value = _mm256_add_ps(value, _mm256_maskload_ps(block.bias + first, mask));
  if (block.add) value = _mm256_add_ps(_mm256_maskload_ps(y, mask), value);
  _mm256_maskstore_ps(y, mask, value);
}

void store_panel(const FloatGemmBlock& block, std::size_t row, std::size_t first, __m256 low,
                 __m256 high) {
  const std::size_t count = block.n - first;
  float* y = block.y + row * block.y_stride + first;
  store_lanes(block, low, first, count, y);
  if (count > 8) store_lanes(block, high, first + 8, count - 8, y + 8);
}

// The part of k of one tile. The sums of an unfinished tile are kept in partial, which changes no
// bit.
struct Stretch {
  std::size_t begin, end;
  float* partial;  // [rows of the tile][16]; only for tiles of one panel
};

template <int kRows, int kPanels>
class Accumulators {
 public:
  Accumulators(const FloatGemmBlock& block, std::size_t row, const Stretch& stretch) {
    unrolled<kRows>(QALOF_UNROLLED(r) {
      // Local pointers; through block the compiler would recompute each address.
      x_[r] = block.x + (row + static_cast<std::size_t>(r)) * block.x_stride;
      unrolled<kPanels>(QALOF_UNROLLED(p) { sum_[r][p][0] = sum_[r][p][1] = _mm256_setzero_ps(); });
      if (stretch.begin > 0) {
        sum_[r][0][0] = _mm256_loadu_ps(stretch.partial + r * 16);
        sum_[r][0][1] = _mm256_loadu_ps(stretch.partial + r * 16 + 8);
      }
    });
  }

  // Adds step i of k for panel p.
  [[gnu::always_inline]] void step(std::size_t i, int p, __m256 low, __m256 high) {
    unrolled<kRows>(QALOF_UNROLLED(r) {
      const __m256 value = _mm256_broadcast_ss(x_[r] + i);
      sum_[r][p][0] = _mm256_fmadd_ps(value, low, sum_[r][p][0]);
      sum_[r][p][1] = _mm256_fmadd_ps(value, high, sum_[r][p][1]);
    });
  }

  [[gnu::always_inline]] void finish(const FloatGemmBlock& block, std::size_t row,
                                     std::size_t panel, const Stretch& stretch) const {
    if (stretch.end < block.k) {
      unrolled<kRows>(QALOF_UNROLLED(r) {
        _mm256_storeu_ps(stretch.partial + r * 16, sum_[r][0][0]);
        _mm256_storeu_ps(stretch.partial + r * 16 + 8, sum_[r][0][1]);
      });
      return;
    }
    unrolled<kRows>(QALOF_UNROLLED(r) {
      unrolled<kPanels>(QALOF_UNROLLED(p) {
        store_panel(block, row + static_cast<std::size_t>(r),
                    (panel + static_cast<std::size_t>(p)) * kPanelRows, sum_[r][p][0],
                    sum_[r][p][1]);
      });
    });
  }

 private:
  const float* x_[kRows];
  __m256 sum_[kRows][kPanels][2];
};

struct F32Tiles {
  static constexpr std::size_t kTallest = 6;

  template <int kRows, int kPanels>
  static void run(const FloatGemmBlock& block, std::size_t row, std::size_t panel,
                  const Stretch& stretch) {
    const std::size_t size = block.k * kPanelRows;
    const float* w =
        static_cast<const float*>(block.panels) + panel * size + stretch.begin * kPanelRows;
    Accumulators<kRows, kPanels> acc(block, row, stretch);
    for (std::size_t i = stretch.begin; i < stretch.end; ++i, w += kPanelRows) {
      unrolled<kPanels>(QALOF_UNROLLED(p) {
        const float* at = w + static_cast<std::size_t>(p) * size;
        acc.step(i, p, _mm256_loadu_ps(at), _mm256_loadu_ps(at + 8));
      });
    }
    acc.finish(block, row, panel, stretch);
  }
};

__m256i load(const std::uint16_t* at) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}

// A pair of k shares a 32-bit lane: the first in the lower half, the second in the upper.
__m256 widen_first(__m256i pair) { return _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16)); }
__m256 widen_second(__m256i pair) {
  return _mm256_castsi256_ps(
      _mm256_and_si256(pair, _mm256_set1_epi32(static_cast<int>(0xFFFF0000U))));
}

struct Bf16Tiles {
  static constexpr std::size_t kTallest = 5;  // both halves of a pair stay in registers

  template <int kRows, int kPanels>
  static void run(const FloatGemmBlock& block, std::size_t row, std::size_t panel,
                  const Stretch& stretch) {
    const std::size_t size = (block.k + 1) / 2 * 2 * kPanelRows;
    const std::uint16_t* w =
        static_cast<const std::uint16_t*>(block.panels) + panel * size + stretch.begin * kPanelRows;
    Accumulators<kRows, kPanels> acc(block, row, stretch);
    std::size_t i = stretch.begin;
    for (; i + 2 <= stretch.end; i += 2, w += 2 * kPanelRows) {
      unrolled<kPanels>(QALOF_UNROLLED(p) {
        const __m256i low = load(w + static_cast<std::size_t>(p) * size);
        const __m256i high = load(w + static_cast<std::size_t>(p) * size + 16);
        acc.step(i, p, widen_first(low), widen_first(high));
        acc.step(i + 1, p, widen_second(low), widen_second(high));
      });
    }
    if (i < stretch.end) {
      unrolled<kPanels>(QALOF_UNROLLED(p) {
        const std::uint16_t* at = w + static_cast<std::size_t>(p) * size;
        acc.step(i, p, widen_first(load(at)), widen_first(load(at + 16)));
      });
    }
    acc.finish(block, row, panel, stretch);
  }
};

template <typename Tiles>
void run_tile(const FloatGemmBlock& block, std::size_t row, std::size_t rows, std::size_t panel,
              const Stretch& stretch) {
  switch (rows) {
    case 1:
      return Tiles::template run<1, 1>(block, row, panel, stretch);
    case 2:
      return Tiles::template run<2, 1>(block, row, panel, stretch);
    case 3:
      return Tiles::template run<3, 1>(block, row, panel, stretch);
    case 4:
      return Tiles::template run<4, 1>(block, row, panel, stretch);
    case 5:
      return Tiles::template run<5, 1>(block, row, panel, stretch);
    default:
      return Tiles::template run<6, 1>(block, row, panel, stretch);
  }
}

// Few rows need several panels at once for enough independent sums.
template <typename Tiles, int kRows, int kPanels>
void few_rows(const FloatGemmBlock& block) {
  const Stretch all = {0, block.k, nullptr};
  const std::size_t num_panels = (block.n + kPanelRows - 1) / kPanelRows;
  std::size_t panel = 0;
  for (; panel + kPanels <= num_panels; panel += kPanels)
    Tiles::template run<kRows, kPanels>(block, 0, panel, all);
  for (; panel < num_panels; ++panel) run_tile<Tiles>(block, 0, kRows, panel, all);
}

// A stretch of a panel (24 KiB in f32) stays in the first-level cache while a group of tiles uses
// it.
constexpr std::size_t kStretch = 384;
constexpr std::size_t kGroupRows = 48;

template <typename Tiles>
void multiply_group(const FloatGemmBlock& block, std::size_t first_row, std::size_t rows,
                    std::size_t panel) {
  float partial[kGroupRows * kPanelRows];
  // Tiles of nearly equal height: seven rows are faster as 4 + 3 than as 6 + 1.
  const std::size_t num_tiles = (rows + Tiles::kTallest - 1) / Tiles::kTallest;
  for (std::size_t begin = 0; begin == 0 || begin < block.k; begin += kStretch) {
    const std::size_t end = block.k - begin < kStretch ? block.k : begin + kStretch;
    for (std::size_t tile = 0; tile < num_tiles; ++tile) {
      const std::size_t row = rows * tile / num_tiles;
      const std::size_t next = rows * (tile + 1) / num_tiles;
      run_tile<Tiles>(block, first_row + row, next - row, panel,
                      {begin, end, partial + row * kPanelRows});
    }
  }
}

template <typename Tiles>
void multiply(const FloatGemmBlock& block) {
  switch (block.rows) {
    case 0:
      return;
    case 1:
      return few_rows<Tiles, 1, 4>(block);
    case 2:
      return few_rows<Tiles, 2, 3>(block);
    case 3:
      return few_rows<Tiles, 3, 2>(block);
    default:
      break;
  }
  const std::size_t num_panels = (block.n + kPanelRows - 1) / kPanelRows;
  for (std::size_t panel = 0; panel < num_panels; ++panel) {
    for (std::size_t row = 0; row < block.rows; row += kGroupRows) {
      const std::size_t rows = block.rows - row < kGroupRows ? block.rows - row : kGroupRows;
      multiply_group<Tiles>(block, row, rows, panel);
    }
  }
}

// A tile on kNarrowF32 panels of eight outputs, with one sum per row.
template <int kRows>
void narrow_tile(const FloatGemmBlock& block, std::size_t row) {
  const auto* w = static_cast<const float*>(block.panels);
  const float* x = block.x + row * block.x_stride;
  __m256 sum[kRows];
  unrolled<kRows>(QALOF_UNROLLED(r) { sum[r] = _mm256_setzero_ps(); });
  for (std::size_t i = 0; i < block.k; ++i, w += kLanes) {
    const __m256 weights = _mm256_loadu_ps(w);
    unrolled<kRows>(QALOF_UNROLLED(r) {
      const float* at = x + static_cast<std::size_t>(r) * block.x_stride + i;
      sum[r] = _mm256_fmadd_ps(_mm256_broadcast_ss(at), weights, sum[r]);
    });
  }
  unrolled<kRows>(QALOF_UNROLLED(r) {
    store_lanes(block, sum[r], 0, block.n,
                block.y + (row + static_cast<std::size_t>(r)) * block.y_stride);
  });
}

void multiply_narrow(const FloatGemmBlock& block) {
  std::size_t row = 0;
  for (; row + 8 <= block.rows; row += 8) narrow_tile<8>(block, row);
  for (; row + 4 <= block.rows; row += 4) narrow_tile<4>(block, row);
  for (; row < block.rows; ++row) narrow_tile<1>(block, row);
}

}  // namespace

void set_avx2_gemm(KernelTable& table) {
  table.gemm_f32 = multiply<F32Tiles>;
  table.gemm_narrow_f32 = multiply_narrow;
  table.gemm_bf16 = multiply<Bf16Tiles>;
}

}  // namespace qalof::kernels
#endif
