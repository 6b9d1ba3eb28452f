// The tile machinery of every AVX-512 product: rows of x times panels of 16 outputs, one register a
// row and panel. A format says how a vector of its panels is multiplied (avx512_gemm.cpp and the
// VNNI and BF16 files); blocking, prefetching and stores are here. Internal linkage.
//
// A tile takes a stretch of k; its sums wait in memory between stretches, which changes no bit. So
// every output is one chain over ascending k whatever the tile, and tiles are chosen by speed
// alone.
#pragma once

#include <immintrin.h>

#include "kernels/kernel_table.h"
#include "kernels/unroll.h"

namespace qalof::kernels {
namespace {

constexpr std::size_t kWidth = 16;        // outputs of a panel
constexpr std::size_t kVectorBytes = 64;  // of a panel: one or more k of all its outputs

/// The outputs that exist of a panel that starts at first.
[[gnu::always_inline]] inline __mmask16 panel_mask(std::size_t n, std::size_t first) {
  const std::size_t count = n - first;
  return static_cast<__mmask16>(count < kWidth ? (1U << count) - 1U : 0xFFFFU);
}

/// Where a tile works: vectors begin .. end of each panel.
struct Stretch {
  std::size_t begin, end;
  bool first, last;
  float* partial;  // [rows of the tile][panels of the tile][16]
};

/// Rows of x as bytes.
struct RowBytes {
  const char* at;
  std::size_t stride;
};

// Format supplies:
//   Block, Sum                              the block of kernel_table.h; the type of a register
//   kSteps, kStepBytes                      multiplications a vector, bytes of x each reads
//   rows(block), num_vectors(block)         x; vectors of one panel
//   start(block, row, first, mask)          a sum before the first k
//   weights(vector, step)                   operand of a step
//   multiply(sum, x, weights)               one step; x points at kStepBytes bytes
//   load(const float*), store(float*, sum)  partial sums
//   finish(block, row, first, mask, sum)    to y
template <typename Format, int kRows, int kPanels, bool kPrefetch>
void run_tile(const typename Format::Block& block, std::size_t row, std::size_t panel,
              const Stretch& stretch) {
  using Sum = typename Format::Sum;
  constexpr std::size_t kXBytes = Format::kSteps * Format::kStepBytes;  // of x a vector
  const std::size_t panel_bytes = Format::num_vectors(block) * kVectorBytes;
  const char* w =
      static_cast<const char*>(block.panels) + panel * panel_bytes + stretch.begin * kVectorBytes;
  const RowBytes rows = Format::rows(block);
  const char* x[kRows];
  Sum sum[kRows][kPanels];
  unrolled<kRows>(QALOF_UNROLLED(r) {
    const auto ur = static_cast<std::size_t>(r);
    x[r] = rows.at + (row + ur) * rows.stride + stretch.begin * kXBytes;
    unrolled<kPanels>(QALOF_UNROLLED(p) {
      const std::size_t first = (panel + static_cast<std::size_t>(p)) * kWidth;
      sum[r][p] = stretch.first ? Format::start(block, row + ur, first, panel_mask(block.n, first))
                                : Format::load(stretch.partial + (r * kPanels + p) * 16);
    });
  });
  const std::size_t count = stretch.end - stretch.begin;
  for (std::size_t i = 0; i < count; ++i, w += kVectorBytes) {
    unrolled<Format::kSteps>(QALOF_UNROLLED(step) {
      __m512i vectors[kPanels];
      unrolled<kPanels>(QALOF_UNROLLED(p) {
        const char* at = w + static_cast<std::size_t>(p) * panel_bytes;
        if (kPrefetch && step == 0) _mm_prefetch(at + 1024, _MM_HINT_T0);
        vectors[p] = Format::weights(_mm512_loadu_si512(at), step);
      });
      unrolled<kRows>(QALOF_UNROLLED(r) {
        const char* at = x[r] + i * kXBytes + static_cast<std::size_t>(step) * Format::kStepBytes;
        const auto value = Format::broadcast(at);
        unrolled<kPanels>(
            QALOF_UNROLLED(p) { sum[r][p] = Format::multiply(sum[r][p], value, vectors[p]); });
      });
    });
  }
  unrolled<kRows>(QALOF_UNROLLED(r) {
    unrolled<kPanels>(QALOF_UNROLLED(p) {
      if (!stretch.last) {
        Format::store(stretch.partial + (r * kPanels + p) * 16, sum[r][p]);
        return;
      }
      const std::size_t first = (panel + static_cast<std::size_t>(p)) * kWidth;
      Format::finish(block, row + static_cast<std::size_t>(r), first, panel_mask(block.n, first),
                     sum[r][p]);
    });
  });
}

constexpr std::size_t kTallest = 8;
constexpr std::size_t kWidest = 3;

template <typename Format, int kPanels>
void run_rows(const typename Format::Block& block, std::size_t row, std::size_t rows,
              std::size_t panel, const Stretch& stretch) {
  switch (rows) {
    case 1:
      return run_tile<Format, 1, kPanels, false>(block, row, panel, stretch);
    case 2:
      return run_tile<Format, 2, kPanels, false>(block, row, panel, stretch);
    case 3:
      return run_tile<Format, 3, kPanels, false>(block, row, panel, stretch);
    case 4:
      return run_tile<Format, 4, kPanels, false>(block, row, panel, stretch);
    case 5:
      return run_tile<Format, 5, kPanels, false>(block, row, panel, stretch);
    case 6:
      return run_tile<Format, 6, kPanels, false>(block, row, panel, stretch);
    case 7:
      return run_tile<Format, 7, kPanels, false>(block, row, panel, stretch);
    default:
      return run_tile<Format, 8, kPanels, false>(block, row, panel, stretch);
  }
}

// 128 vectors of three panels (24 KiB) stay in the first-level cache while a group of tiles passes.
constexpr std::size_t kStretchVectors = 128;
constexpr std::size_t kGroupRows = 48;

template <typename Format, int kPanels>
void multiply_panels(const typename Format::Block& block, std::size_t panel) {
  const std::size_t num_vectors = Format::num_vectors(block);
  float partial[kGroupRows * kPanels * kWidth];
  for (std::size_t group = 0; group < block.rows; group += kGroupRows) {
    const std::size_t rows = block.rows - group < kGroupRows ? block.rows - group : kGroupRows;
    // Tiles of equal height: nine rows are faster as 5 + 4 than as 8 + 1.
    const std::size_t num_tiles = (rows + kTallest - 1) / kTallest;
    // One tile reads the panel once anyhow.
    const std::size_t length = num_tiles == 1 ? num_vectors : kStretchVectors;
    for (std::size_t begin = 0; begin == 0 || begin < num_vectors; begin += length) {
      const bool last = num_vectors - begin <= length;
      const std::size_t end = last ? num_vectors : begin + length;
      for (std::size_t tile = 0; tile < num_tiles; ++tile) {
        const std::size_t row = rows * tile / num_tiles;
        const std::size_t next = rows * (tile + 1) / num_tiles;
        run_rows<Format, kPanels>(block, group + row, next - row, panel,
                                  {begin, end, begin == 0, last, partial + row * kPanels * kWidth});
      }
      if (last) break;
    }
  }
}

// Few rows wait for memory: more panels at once, fetched ahead.
template <typename Format, int kRows, int kPanels>
std::size_t multiply_few(const typename Format::Block& block, std::size_t num_panels) {
  const Stretch all = {0, Format::num_vectors(block), true, true, nullptr};
  std::size_t panel = 0;
  for (; panel + kPanels <= num_panels; panel += kPanels)
    run_tile<Format, kRows, kPanels, true>(block, 0, panel, all);
  return panel;
}

template <typename Format>
void multiply(const typename Format::Block& block) {
  const std::size_t num_panels = (block.n + kWidth - 1) / kWidth;
  std::size_t panel = 0;
  switch (block.rows) {
    case 0:
      return;
    case 1:
      panel = multiply_few<Format, 1, 6>(block, num_panels);
      break;
    case 2:
      panel = multiply_few<Format, 2, 4>(block, num_panels);
      break;
    case 3:
      panel = multiply_few<Format, 3, 4>(block, num_panels);
      break;
    case 4:
      panel = multiply_few<Format, 4, 4>(block, num_panels);
      break;
    default:
      break;
  }
  for (; panel + 3 <= num_panels; panel += 3) multiply_panels<Format, 3>(block, panel);
  if (num_panels - panel == 2) multiply_panels<Format, 2>(block, panel);
  if (num_panels - panel == 1) multiply_panels<Format, 1>(block, panel);
}

}  // namespace
}  // namespace qalof::kernels
