// Tiles of the matrix products for AMX: 32 rows of x times two panels, in four tiles of sums over
// one stretch of k; the sums are kept in memory between stretches. The lines of panels are used as
// rows of a tile in place (panel.h), except codes of fewer than 8 bits, which are first expanded
// into bytes. Sums begin and end as in the AVX-512 formats. Internal linkage.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512_vectors.h"
#include "kernels/kernel_table.h"

namespace qalof::kernels {
namespace {

constexpr std::size_t kTileRows = 16, kLineBytes = 64;
constexpr std::size_t kChunkRows = 2 * kTileRows, kChunkPanels = 2;
constexpr std::size_t kRowGroup = 12 * kChunkRows;  // rows that share a panel's stretch
constexpr std::size_t kStretchLines = 128;  // of one panel: 8 KiB, half a KiB of each row of x
constexpr std::size_t kXBytesOfLine = 4;    // bytes of a row of x that meet one line

/// Tiles 0..3 are sums (half of the rows x panel), 4 and 5 the halves of x, 6 and 7 panels.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t column_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

/// The tile shapes for a number of rows of x and of lines per step. Each thread sets them when they
/// change and releases them at the end, because other libraries set their own.
class Tiles {
 public:
  ~Tiles() {
    if (rows_ != 0) _tile_release();
  }
  void shape(std::size_t rows, std::size_t lines) {
    if (rows == rows_ && lines == lines_) return;
    rows_ = rows;
    lines_ = lines;
    TileConfig config;
    const std::size_t halves[2] = {rows < kTileRows ? rows : kTileRows,
                                   rows < kTileRows ? 0 : rows - kTileRows};
    for (int half = 0; half < 2; ++half) {
      if (halves[half] == 0) break;
      for (int tile = 2 * half; tile < 2 * half + 2; ++tile) {
        config.rows[tile] = static_cast<std::uint8_t>(halves[half]);
        config.column_bytes[tile] = kLineBytes;
      }
      config.rows[4 + half] = static_cast<std::uint8_t>(halves[half]);
      config.column_bytes[4 + half] = static_cast<std::uint16_t>(lines * kXBytesOfLine);
    }
    for (int tile = 6; tile < 8; ++tile) {
      config.rows[tile] = static_cast<std::uint8_t>(lines);
      config.column_bytes[tile] = kLineBytes;
    }
    // g++ 12 tells the optimizer that the instruction reads eight bytes; it reads the whole struct.
    asm volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }

 private:
  std::size_t rows_ = 0, lines_ = 0;
};

/// Rows of x from some k on, and the lines of panels for the same k.
struct TileInput {
  const char* x;
  std::size_t x_stride;
  const char* panels[kChunkPanels];
  std::size_t steps, lines;  // steps, and lines per step
};

// Sums of a chunk: [row][panel][16].
constexpr std::size_t kSumsStride = kChunkPanels * kPanelRows;

// Dot: multiplyHP() multiplies half H of x by panel P on the tiles above.
template <typename Dot, int kHalves, int kPanels>
void add_products(const TileInput& input, bool first, void* sums) {
  constexpr std::size_t kStride = kSumsStride * 4, kHalf = kTileRows * kStride;
  auto* at = static_cast<char*>(sums);
  if (first) {
    _tile_zero(0);
    if constexpr (kPanels > 1) _tile_zero(1);
    if constexpr (kHalves > 1) _tile_zero(2);
    if constexpr (kHalves > 1 && kPanels > 1) _tile_zero(3);
  } else {
    _tile_loadd(0, at, kStride);
    if constexpr (kPanels > 1) _tile_loadd(1, at + kLineBytes, kStride);
    if constexpr (kHalves > 1) _tile_loadd(2, at + kHalf, kStride);
    if constexpr (kHalves > 1 && kPanels > 1) _tile_loadd(3, at + kHalf + kLineBytes, kStride);
  }
  const std::size_t x_bytes = input.lines * kXBytesOfLine, w_bytes = input.lines * kLineBytes;
  for (std::size_t step = 0; step < input.steps; ++step) {
    const char* x = input.x + step * x_bytes;
    _tile_loadd(6, input.panels[0] + step * w_bytes, kLineBytes);
    _tile_loadd(4, x, input.x_stride);
    Dot::multiply00();
    if constexpr (kPanels > 1) {
      _tile_loadd(7, input.panels[1] + step * w_bytes, kLineBytes);
      Dot::multiply01();
    }
    if constexpr (kHalves > 1) {
      _tile_loadd(5, x + kTileRows * input.x_stride, input.x_stride);
      Dot::multiply10();
      if constexpr (kPanels > 1) Dot::multiply11();
    }
  }
  _tile_stored(0, at, kStride);
  if constexpr (kPanels > 1) _tile_stored(1, at + kLineBytes, kStride);
  if constexpr (kHalves > 1) _tile_stored(2, at + kHalf, kStride);
  if constexpr (kHalves > 1 && kPanels > 1) _tile_stored(3, at + kHalf + kLineBytes, kStride);
}

template <typename Dot>
void add_products(const TileInput& input, std::size_t rows, std::size_t panels, bool first,
                  void* sums) {
  if (rows > kTileRows) {
    return panels > 1 ? add_products<Dot, 2, 2>(input, first, sums)
                      : add_products<Dot, 2, 1>(input, first, sums);
  }
  return panels > 1 ? add_products<Dot, 1, 2>(input, first, sums)
                    : add_products<Dot, 1, 1>(input, first, sums);
}

// Lines begin .. end of a panel with num_lines lines: in place, or copied to buffer with zeros
// after the last one.
[[maybe_unused]] inline const char* lines_in_place(const char* panel, std::size_t begin,
                                                   std::size_t end, std::size_t num_lines,
                                                   char* buffer) {
  if (end <= num_lines) return panel + begin * kLineBytes;
  for (std::size_t line = begin; line < end; ++line) {
    const __m512i value =
        line < num_lines ? _mm512_loadu_si512(panel + line * kLineBytes) : _mm512_setzero_si512();
    _mm512_store_si512(buffer + (line - begin) * kLineBytes, value);
  }
  return buffer;
}

// A format supplies:
//   Base                            the AVX-512 format: Block, Sum, start, finish; with groups also
//                                   add_group, Total and its functions (vector_tile.h)
//   Dot                             the instruction, for add_products
//   kElementBytes                   bytes of an element of x
//   num_lines(block)                lines of a panel
//   panel_bytes(num_lines)          of a panel
//   lines(panel, begin, end, num_lines, buffer)  lines of a panel

// 16 outputs of one row of LowRankBlock, bit-equal to gemm_f32.
[[maybe_unused]] inline __m512 low_rank_value(const LowRankBlock& added, std::size_t row,
                                              std::size_t first) {
  const float* inner = added.inner + row * added.rank;
  const float* panel = added.panels + first * added.rank;
  __m512 sum = _mm512_setzero_ps();
  for (std::size_t i = 0; i < added.rank; ++i)
    sum = _mm512_fmadd_ps(_mm512_set1_ps(inner[i]), _mm512_loadu_ps(panel + i * kPanelRows), sum);
  return _mm512_mul_ps(sum, _mm512_set1_ps(added.scaling));
}

// The steps after the sums of one chunk: scales, bias, low-rank product, stores.
template <typename Format>
struct ChunkEnd {
  using Base = typename Format::Base;
  using Block = typename Base::Block;
  const Block& block;
  std::size_t row, rows, panel, panels;

  // Calls body(row, offset of the row and panel in the sums, first output).
  template <typename Body>
  void for_each(const Body& body) const {
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t p = 0; p < panels; ++p)
        body(row + r, r * kSumsStride + p * kPanelRows, (panel + p) * kPanelRows);
    }
  }
  void finish(const float* sums) const {
    for_each([&](std::size_t at_row, std::size_t place, std::size_t first) {
      const std::size_t left = block.n - first;
      auto sum = Base::load(sums + place);
      if constexpr (Format::kElementBytes == 1) {
        sum = _mm512_add_epi32(sum, Base::start(block, at_row, first, left));
        if (block.y == nullptr) return Base::finish(block, at_row, first, left, sum);
      }
      store(at_row, first, Base::result(block, at_row, first, left, sum));
    });
  }
  void store(std::size_t at_row, std::size_t first, __m512 value) const {
    float* y = block.y + at_row * block.y_stride + first;
    if (block.low_rank != nullptr)
      value = _mm512_add_ps(value, low_rank_value(*block.low_rank, at_row, first));
    if (block.streams) return _mm512_stream_ps(y, value);
    _mm512_mask_storeu_ps(y, panel_mask(block.n - first), value);
  }
  void add_group(const float* sums, std::size_t group, float* totals) const {
    for_each([&](std::size_t at_row, std::size_t place, std::size_t first) {
      const __m512i sum =
          _mm512_add_epi32(Base::load(sums + place), Base::start(block, at_row, first, group));
      const auto total = group == 0 ? Base::no_total() : Base::load_total(totals + place);
      Base::store_total(totals + place, Base::add_group(block, at_row, first, group, sum, total));
    });
  }
  void finish_groups(const float* totals) const {
    for_each([&](std::size_t at_row, std::size_t place, std::size_t first) {
      const std::size_t left = block.n - first;
      store(at_row, first,
            Base::result(block, at_row, first, left, Base::load_total(totals + place)));
    });
  }
};

// Multiplies rows of x from row on by panels from panel on; at most kRowGroup and kChunkPanels.
template <typename Format>
void multiply_panels_amx(const typename Format::Base::Block& block, Tiles& tiles, std::size_t row,
                         std::size_t rows, std::size_t panel, std::size_t panels) {
  constexpr bool kGrouped = Format::Base::kGrouped;
  // Lines of a group; a group shorter than a tile takes one step.
  std::size_t group_lines = 0;
  if constexpr (kGrouped) group_lines = block.group / kXBytesOfLine;
  const std::size_t lines = kGrouped && group_lines < kTileRows ? group_lines : kTileRows;
  const std::size_t num_lines = Format::num_lines(block);
  const std::size_t padded = (num_lines + lines - 1) / lines * lines;
  const std::size_t panel_bytes = Format::panel_bytes(num_lines);
  alignas(64) char buffers[kChunkPanels][kStretchLines * kLineBytes];
  alignas(64) float sums[kRowGroup * kSumsStride];
  const char* base = static_cast<const char*>(block.panels) + panel * panel_bytes;
  for (std::size_t begin = 0; begin < padded; begin += kStretchLines) {
    const std::size_t end = padded - begin < kStretchLines ? padded : begin + kStretchLines;
    TileInput input;
    input.x_stride = block.prepared_stride;
    input.lines = lines;
    const char* stretch[kChunkPanels] = {};
    for (std::size_t p = 0; p < panels; ++p) {
      stretch[p] = Format::lines(base + p * panel_bytes, begin, end, num_lines, buffers[p]);
    }
    for (std::size_t at = 0; at < rows; at += kChunkRows) {
      const std::size_t height = rows - at < kChunkRows ? rows - at : kChunkRows;
      const ChunkEnd<Format> chunk = {block, row + at, height, panel, panels};
      const char* x = static_cast<const char*>(block.prepared) +
                      (row + at) * block.prepared_stride + begin * kXBytesOfLine;
      float* chunk_sums = sums + at * kSumsStride;
      tiles.shape(height, lines);
      if constexpr (kGrouped) {
        alignas(64) float group_sums[kChunkRows * kSumsStride];
        for (std::size_t from = begin; from < end; from += group_lines) {
          const std::size_t count = end - from < group_lines ? end - from : group_lines;
          input.steps = count / lines;
          input.x = x + (from - begin) * kXBytesOfLine;
          for (std::size_t p = 0; p < panels; ++p)
            input.panels[p] = stretch[p] + (from - begin) * kLineBytes;
          add_products<typename Format::Dot>(input, height, panels, true, group_sums);
          chunk.add_group(group_sums, from / group_lines, chunk_sums);
        }
        if (end == padded) chunk.finish_groups(chunk_sums);
      } else {
        input.steps = (end - begin) / lines;
        input.x = x;
        for (std::size_t p = 0; p < panels; ++p) input.panels[p] = stretch[p];
        add_products<typename Format::Dot>(input, height, panels, begin == 0, chunk_sums);
        if (end == padded) chunk.finish(chunk_sums);
      }
    }
  }
}

template <typename Format>
void multiply_amx(const typename Format::Base::Block& block) {
  const std::size_t num_panels = (block.n + kPanelRows - 1) / kPanelRows;
  Tiles tiles;
  for (std::size_t row = 0; row < block.rows; row += kRowGroup) {
    const std::size_t rows = block.rows - row < kRowGroup ? block.rows - row : kRowGroup;
    for (std::size_t panel = 0; panel < num_panels; panel += kChunkPanels) {
      const std::size_t panels =
          num_panels - panel < kChunkPanels ? num_panels - panel : kChunkPanels;
      multiply_panels_amx<Format>(block, tiles, row, rows, panel, panels);
    }
  }
  // Makes streaming stores visible to other threads.
  if (block.streams) _mm_sfence();
}

}  // namespace
}  // namespace qalof::kernels
