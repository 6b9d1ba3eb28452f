// Tiles of the matrix products for AVX-512, AVX-VNNI and NEON: rows of x times panels of 16
// outputs, with one sum (a register of 512 bits, two of 256 or four of 128) per row and panel. A
// format defines how a vector of its panels is multiplied (avx512_gemm.cpp,
// avx512vnni_int_gemm.cpp, avx512bf16_gemm.cpp, avxvnni_int_gemm.h, neon_gemm.cpp,
// neon_int_formats.h); blocking is done here. Internal linkage.
//
// A tile covers a stretch of k; its sums are kept in memory between stretches, which changes no
// bit. So every output is one chain over ascending k for every tile size, and sizes are chosen by
// speed alone.
#pragma once

#include "kernels/kernel_table.h"
#include "kernels/unroll.h"

namespace qalof::kernels {
namespace {

constexpr std::size_t kVectorBytes = 64;  // of a panel: one or more k of all its outputs
// The "vectors" below are units of a format: kUnitBytes, a vector or several.

/// The weights that are read after those of a stretch, and how much of them a tile asks for in
/// advance: a line of 64 bytes of each panel for every 2^shift vectors that it multiplies.
struct Next {
  const char* at;  // of the first panel
  int shift;
};

/// The part of k of a tile: vectors begin .. end of each panel.
struct Stretch {
  std::size_t begin, end;
  bool first, last;
  float* partial;  // [rows of the tile][panels of the tile][16]
  Next next;
};

/// Rows of x, addressed in bytes.
struct RowBytes {
  const char* at;
  std::size_t stride;
};

// A format supplies:
//   Block, Sum, Vector                      the block of kernel_table.h; sums; a vector's weights
//   kUnitBytes                              of a vector; more than kVectorBytes where its codes
//                                           are spread over several
//   kTallest, kWidest                       rows and panels (1 or 3) of the largest tile
//   kSteps, kStepBytes                      multiplications per vector, bytes of x that each reads
//   rows(block), num_vectors(block)         x; vectors of one panel
//   weights(at, step), broadcast(x)         operands of a step; x points at kStepBytes bytes
//   multiply(sum, x, weights), settle(sum)  one step; an empty asm that pins the sum to registers
//   load(const float*), store(float*, sum)  partial sums
// without groups
//   start(block, row, first, left)          a sum before the first k; left: outputs from first on
//   finish(block, row, first, left, sum)    stores to y
// with groups (kGrouped)
//   group_vectors(block)                    vectors of a group
//   start(block, row, first, group)         a sum before the first k of a group
//   add_group(block, row, first, group, sum, total)  total with a group's sum added
//   Total, no_total, load_total, store_total  the type of a total, its zero, memory
//   finish(block, row, first, left, total)  stores to y

constexpr std::size_t kFewRows = 4;

// Computes the sums of a tile over count vectors of its panels, the first of which is vector number
// `done` of its stretch.
template <typename Format, int kRows, int kPanels>
[[gnu::always_inline]] inline void accumulate(const char* const (&x)[kRows], const char* w,
                                              std::size_t panel_bytes, std::size_t count,
                                              const Next& next, std::size_t done,
                                              typename Format::Sum (&sum)[kRows][kPanels]) {
  constexpr std::size_t kXBytes = Format::kSteps * Format::kStepBytes;  // of x a vector
  for (std::size_t i = 0; i < count; ++i, w += Format::kUnitBytes) {
    if constexpr (kRows > kFewRows) {
      const char* line = next.at + ((done + i) >> next.shift) * kVectorBytes;
      unrolled<kPanels>(QALOF_UNROLLED(p) {
        __builtin_prefetch(line + static_cast<std::size_t>(p) * panel_bytes, 0, 2);
      });
    }
    unrolled<Format::kSteps>(QALOF_UNROLLED(step) {
      typename Format::Vector vectors[kPanels];
      unrolled<kPanels>(QALOF_UNROLLED(p) {
        const char* at = w + static_cast<std::size_t>(p) * panel_bytes;
        vectors[p] = Format::weights(at, step);
      });
      unrolled<kRows>(QALOF_UNROLLED(r) {
        const auto value = Format::broadcast(x[r] + i * kXBytes +
                                             static_cast<std::size_t>(step) * Format::kStepBytes);
        unrolled<kPanels>(QALOF_UNROLLED(p) {
          sum[r][p] = Format::multiply(sum[r][p], value, vectors[p]);
          // Updated in place; without this the compiler copies sums between registers.
          Format::settle(sum[r][p]);
        });
      });
    });
  }
}

// Points x at the tile's rows, at a given vector.
template <typename Format, int kRows>
[[gnu::always_inline]] inline void point_at(const typename Format::Block& block, std::size_t row,
                                            std::size_t vector, const char* (&x)[kRows]) {
  const RowBytes rows = Format::rows(block);
  unrolled<kRows>(QALOF_UNROLLED(r) {
    x[r] = rows.at + (row + static_cast<std::size_t>(r)) * rows.stride +
           vector * Format::kSteps * Format::kStepBytes;
  });
}

template <typename Format, int kRows, int kPanels>
QALOF_TILE void run_tile(const typename Format::Block& block, std::size_t row, std::size_t panel,
                         const Stretch& stretch) {
  using Sum = typename Format::Sum;
  const std::size_t panel_bytes = Format::num_vectors(block) * Format::kUnitBytes;
  const char* w = static_cast<const char*>(block.panels) + panel * panel_bytes;
  const auto first = [&](int p) { return (panel + static_cast<std::size_t>(p)) * kPanelRows; };
  const char* x[kRows];
  if constexpr (Format::kGrouped) {
    const std::size_t length = Format::group_vectors(block);
    typename Format::Total total[kRows][kPanels];
    unrolled<kRows>(QALOF_UNROLLED(r) {
      unrolled<kPanels>(QALOF_UNROLLED(p) {
        total[r][p] = stretch.first ? Format::no_total()
                                    : Format::load_total(stretch.partial + (r * kPanels + p) * 16);
      });
    });
    std::size_t group = stretch.begin / length;
    for (std::size_t at = stretch.begin; at < stretch.end; at += length, ++group) {
      point_at<Format, kRows>(block, row, at, x);
      Sum sum[kRows][kPanels];
      unrolled<kRows>(QALOF_UNROLLED(r) {
        unrolled<kPanels>(QALOF_UNROLLED(p) {
          sum[r][p] = Format::start(block, row + static_cast<std::size_t>(r), first(p), group);
        });
      });
      const std::size_t count = stretch.end - at < length ? stretch.end - at : length;
      accumulate<Format, kRows, kPanels>(x, w + at * Format::kUnitBytes, panel_bytes, count,
                                         stretch.next, at - stretch.begin, sum);
      unrolled<kRows>(QALOF_UNROLLED(r) {
        unrolled<kPanels>(QALOF_UNROLLED(p) {
          total[r][p] = Format::add_group(block, row + static_cast<std::size_t>(r), first(p), group,
                                          sum[r][p], total[r][p]);
        });
      });
    }
    unrolled<kRows>(QALOF_UNROLLED(r) {
      unrolled<kPanels>(QALOF_UNROLLED(p) {
        if (!stretch.last) {
          Format::store_total(stretch.partial + (r * kPanels + p) * 16, total[r][p]);
          return;
        }
        Format::finish(block, row + static_cast<std::size_t>(r), first(p), block.n - first(p),
                       total[r][p]);
      });
    });
  } else {
    point_at<Format, kRows>(block, row, stretch.begin, x);
    Sum sum[kRows][kPanels];
    unrolled<kRows>(QALOF_UNROLLED(r) {
      unrolled<kPanels>(QALOF_UNROLLED(p) {
        sum[r][p] = stretch.first ? Format::start(block, row + static_cast<std::size_t>(r),
                                                  first(p), block.n - first(p))
                                  : Format::load(stretch.partial + (r * kPanels + p) * 16);
      });
    });
    accumulate<Format, kRows, kPanels>(x, w + stretch.begin * Format::kUnitBytes, panel_bytes,
                                       stretch.end - stretch.begin, stretch.next, 0, sum);
    unrolled<kRows>(QALOF_UNROLLED(r) {
      unrolled<kPanels>(QALOF_UNROLLED(p) {
        if (!stretch.last) {
          Format::store(stretch.partial + (r * kPanels + p) * 16, sum[r][p]);
          return;
        }
        Format::finish(block, row + static_cast<std::size_t>(r), first(p), block.n - first(p),
                       sum[r][p]);
      });
    });
  }
}

template <typename Format, int kPanels>
void run_rows(const typename Format::Block& block, std::size_t row, std::size_t rows,
              std::size_t panel, const Stretch& stretch) {
  switch (rows) {
    case 1:
      return run_tile<Format, 1, kPanels>(block, row, panel, stretch);
    case 2:
      return run_tile<Format, 2, kPanels>(block, row, panel, stretch);
    case 3:
      return run_tile<Format, 3, kPanels>(block, row, panel, stretch);
    case 4:
      return run_tile<Format, 4, kPanels>(block, row, panel, stretch);
    // NOLINTNEXTLINE(bugprone-branch-clone): 5 and 6 are equal where a format lacks both tiles.
    case 5:
      if constexpr (Format::kTallest > 4)
        return run_tile<Format, 5, kPanels>(block, row, panel, stretch);
      break;
    case 6:
      if constexpr (Format::kTallest > 4)
        return run_tile<Format, 6, kPanels>(block, row, panel, stretch);
      break;
    default:
      if constexpr (Format::kTallest > 6) {
        return rows == 7 ? run_tile<Format, 7, kPanels>(block, row, panel, stretch)
                         : run_tile<Format, 8, kPanels>(block, row, panel, stretch);
      }
  }
}

// 160 vectors of three panels (30 KiB) stay in the first-level cache while a group of tiles uses
// them.
constexpr std::size_t kStretchVectors = 160;
constexpr std::size_t kGroupRows = 48;

// Stretches of nearly equal length, so that the last one is not tiny.
template <typename Format>
std::size_t stretch_vectors(const typename Format::Block& block) {
  const std::size_t all = Format::num_vectors(block);
  constexpr std::size_t kMost = kStretchVectors * kVectorBytes / Format::kUnitBytes;
  const std::size_t count = all / kMost + (all % kMost != 0 ? 1 : 0);
  const std::size_t even = count == 0 ? 1 : (all + count - 1) / count;
  if constexpr (Format::kGrouped) {
    const std::size_t length = Format::group_vectors(block);
    return (even + length - 1) / length * length;
  }
  return even;
}

// A power of two of tiles: vectors of each that fetch one line of the next stretch.
constexpr int share_shift(std::size_t tiles) {
  int shift = 0;
  while (std::size_t{2} << shift <= tiles) ++shift;
  return shift;
}

template <typename Format, int kPanels>
void multiply_panels(const typename Format::Block& block, std::size_t panel) {
  const std::size_t num_vectors = Format::num_vectors(block);
  const std::size_t panel_bytes = num_vectors * Format::kUnitBytes;
  const char* panels = static_cast<const char*>(block.panels) + panel * panel_bytes;
  float partial[kGroupRows * kPanels * kPanelRows];
  for (std::size_t group = 0; group < block.rows; group += kGroupRows) {
    const std::size_t rows = block.rows - group < kGroupRows ? block.rows - group : kGroupRows;
    // Tiles of nearly equal height: nine rows are faster as 5 + 4 than as 8 + 1.
    const std::size_t num_tiles = (rows + Format::kTallest - 1) / Format::kTallest;
    // A single tile reads the panel only once anyway.
    const std::size_t length = num_tiles == 1 ? num_vectors : stretch_vectors<Format>(block);
    for (std::size_t begin = 0; begin == 0 || begin < num_vectors; begin += length) {
      const bool last = num_vectors - begin <= length;
      const std::size_t end = last ? num_vectors : begin + length;
      // The tiles of a stretch share the fetching of what is read next: another stretch, the first
      // one again for other rows, or other panels.
      const std::size_t after = group + rows < block.rows ? 0 : kPanels * panel_bytes;
      const char* next = panels + (last ? after : end * Format::kUnitBytes);
      const std::size_t lines = (end - begin) * Format::kUnitBytes / kVectorBytes;
      for (std::size_t tile = 0; tile < num_tiles; ++tile) {
        const std::size_t row = rows * tile / num_tiles;
        const std::size_t row_end = rows * (tile + 1) / num_tiles;
        const char* share = next + lines * tile / num_tiles * kVectorBytes;
        run_rows<Format, kPanels>(block, group + row, row_end - row, panel,
                                  {begin,
                                   end,
                                   begin == 0,
                                   last,
                                   partial + row * kPanels * kPanelRows,
                                   {share, share_shift(num_tiles)}});
      }
      if (last) break;
    }
  }
}

template <typename Format>
void multiply(const typename Format::Block& block) {
  const std::size_t num_panels = (block.n + kPanelRows - 1) / kPanelRows;
  std::size_t panel = 0;
  if constexpr (Format::kWidest == 3) {
    if (block.rows > kFewRows) {
      for (; panel + 3 <= num_panels; panel += 3) multiply_panels<Format, 3>(block, panel);
      if (num_panels - panel == 2) return multiply_panels<Format, 2>(block, panel);
    }
  }
  // Products of few rows are limited by memory, which is fastest where a single panel is read from
  // end to end: several at once, or prefetching, take a quarter to a half longer.
  for (; panel < num_panels; ++panel) multiply_panels<Format, 1>(block, panel);
}

}  // namespace
}  // namespace qalof::kernels
