// AVX2 and FMA: float products on f32 and bf16 panels. Every output is one chain of fused
// multiply-adds over ascending k whatever the tile, so tiles may be chosen by speed alone.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/kernel_table.h"

namespace qalof::kernels {

namespace {

constexpr std::size_t kWidth = 16;  // outputs of a panel

__m256i lane_mask(std::size_t count) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lanes);
}

// Eight outputs at y, the first count of which exist.
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

template <int kRows, int kPanels>
void tile_f32(const FloatGemmBlock& block, std::size_t row, std::size_t panel) {
  const std::size_t size = block.k * kWidth;
  const float* w = static_cast<const float*>(block.panels) + panel * size;
  const float* x = block.x + row * block.x_stride;
  __m256 acc[kRows][kPanels][2];
  for (int r = 0; r < kRows; ++r) {
    for (int p = 0; p < kPanels; ++p) acc[r][p][0] = acc[r][p][1] = _mm256_setzero_ps();
  }
  for (std::size_t i = 0; i < block.k; ++i) {
    for (int p = 0; p < kPanels; ++p) {
      const float* at = w + static_cast<std::size_t>(p) * size + i * kWidth;
      const __m256 low = _mm256_loadu_ps(at);
      const __m256 high = _mm256_loadu_ps(at + 8);
      for (int r = 0; r < kRows; ++r) {
        const __m256 value =
            _mm256_broadcast_ss(x + static_cast<std::size_t>(r) * block.x_stride + i);
        acc[r][p][0] = _mm256_fmadd_ps(value, low, acc[r][p][0]);
        acc[r][p][1] = _mm256_fmadd_ps(value, high, acc[r][p][1]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int p = 0; p < kPanels; ++p) {
      store_panel(block, row + static_cast<std::size_t>(r),
                  (panel + static_cast<std::size_t>(p)) * kWidth, acc[r][p][0], acc[r][p][1]);
    }
  }
}

// A pair of k lies in one 32-bit lane: the first in the lower half, the second in the upper.
__m256 widen_first(__m256i pair) { return _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16)); }
__m256 widen_second(__m256i pair) {
  return _mm256_castsi256_ps(
      _mm256_and_si256(pair, _mm256_set1_epi32(static_cast<int>(0xFFFF0000U))));
}

template <int kRows, int kPanels>
void tile_bf16(const FloatGemmBlock& block, std::size_t row, std::size_t panel) {
  const std::size_t size = (block.k + 1) / 2 * 2 * kWidth;
  const std::uint16_t* w = static_cast<const std::uint16_t*>(block.panels) + panel * size;
  const float* x = block.x + row * block.x_stride;
  __m256 acc[kRows][kPanels][2];
  for (int r = 0; r < kRows; ++r) {
    for (int p = 0; p < kPanels; ++p) acc[r][p][0] = acc[r][p][1] = _mm256_setzero_ps();
  }
  for (std::size_t i = 0; i < block.k; i += 2) {
    const bool has_second = i + 1 < block.k;
    for (int p = 0; p < kPanels; ++p) {
      const std::uint16_t* at = w + static_cast<std::size_t>(p) * size + i * kWidth;
      const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
      const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 16));
      for (int half = 0; half < (has_second ? 2 : 1); ++half) {
        const __m256 a = half == 0 ? widen_first(low) : widen_second(low);
        const __m256 b = half == 0 ? widen_first(high) : widen_second(high);
        for (int r = 0; r < kRows; ++r) {
          const __m256 value =
              _mm256_broadcast_ss(x + static_cast<std::size_t>(r) * block.x_stride + i +
                                  static_cast<std::size_t>(half));
          acc[r][p][0] = _mm256_fmadd_ps(value, a, acc[r][p][0]);
          acc[r][p][1] = _mm256_fmadd_ps(value, b, acc[r][p][1]);
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int p = 0; p < kPanels; ++p) {
      store_panel(block, row + static_cast<std::size_t>(r),
                  (panel + static_cast<std::size_t>(p)) * kWidth, acc[r][p][0], acc[r][p][1]);
    }
  }
}

struct F32Tiles {
  template <int kRows, int kPanels>
  static void run(const FloatGemmBlock& block, std::size_t row, std::size_t panel) {
    tile_f32<kRows, kPanels>(block, row, panel);
  }
};
struct Bf16Tiles {
  template <int kRows, int kPanels>
  static void run(const FloatGemmBlock& block, std::size_t row, std::size_t panel) {
    tile_bf16<kRows, kPanels>(block, row, panel);
  }
};

// Few rows need several panels at once to have enough independent sums in flight.
template <typename Tiles, int kRows, int kPanels>
void few_rows(const FloatGemmBlock& block, std::size_t row) {
  const std::size_t num_panels = (block.n + kWidth - 1) / kWidth;
  std::size_t panel = 0;
  for (; panel + kPanels <= num_panels; panel += kPanels)
    Tiles::template run<kRows, kPanels>(block, row, panel);
  for (; panel < num_panels; ++panel) Tiles::template run<kRows, 1>(block, row, panel);
}

template <typename Tiles>
void multiply(const FloatGemmBlock& block) {
  const std::size_t num_panels = (block.n + kWidth - 1) / kWidth;
  std::size_t full = block.rows / 6 * 6;
  std::size_t rest = block.rows - full;
  if (rest == 1 && full > 0) {  // 7 rows are faster as 4 + 3 than as 6 + 1
    full -= 6;
    rest += 6;
  }
  for (std::size_t panel = 0; panel < num_panels && full > 0; ++panel) {
    for (std::size_t row = 0; row < full; row += 6) Tiles::template run<6, 1>(block, row, panel);
  }
  std::size_t row = full;
  if (rest > 6) {
    few_rows<Tiles, 4, 1>(block, row);
    row += 4;
    rest -= 4;
  }
  switch (rest) {
    case 1:
      return few_rows<Tiles, 1, 4>(block, row);
    case 2:
      return few_rows<Tiles, 2, 3>(block, row);
    case 3:
      return few_rows<Tiles, 3, 2>(block, row);
    case 4:
      return few_rows<Tiles, 4, 1>(block, row);
    case 5:
      return few_rows<Tiles, 5, 1>(block, row);
    default:
      return;
  }
}

}  // namespace

void set_avx2_gemm(KernelTable& table) {
  table.gemm_f32 = multiply<F32Tiles>;
  table.gemm_bf16 = multiply<Bf16Tiles>;
}

}  // namespace qalof::kernels
#endif
