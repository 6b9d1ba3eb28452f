// Packs weights into panels of 16 output rows (layouts: gemm.h), and unpacks codes.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/bf16.h"
#include "kernels/gemm.h"
#include "kernels/parallel.h"

namespace qalof::kernels {

namespace {

std::size_t round_up(std::size_t value, std::size_t step) { return ceil_div(value, step) * step; }

std::size_t panel_bytes(WeightFormat format, std::size_t k) {
  switch (format) {
    case WeightFormat::kF32:
      return k * kPanelRows * sizeof(float);
    case WeightFormat::kNarrowF32:
      return k * kNarrowRows * sizeof(float);
    case WeightFormat::kBf16:
      return round_up(k, 2) * kPanelRows * sizeof(std::uint16_t);
    default:
      break;
  }
  const CodeLayout layout = code_layout(format);
  return ceil_div(k, layout.columns) * layout.bytes;
}

// Stores a code where the panel holds zero bits.
void put_code(std::uint8_t* panel, const CodePlace& place, std::size_t row, int stored) {
  const std::size_t at = row * 4;
  panel[place.at + at] |= static_cast<std::uint8_t>((stored & place.mask) << place.shift);
  if (place.high_mask == 0) return;
  panel[place.high_at + at] |= static_cast<std::uint8_t>((stored >> 2) << place.high_shift);
}

// Calls body(panel, first row, number of rows) for every panel.
template <typename Body>
void for_panels(std::size_t n, std::size_t k, ParallelFor& parallel, Body&& body) {
  for_ranges(parallel, ceil_div(n, kPanelRows), rows_per_piece(k * kPanelRows),
             [&](std::size_t begin, std::size_t end) {
               for (std::size_t panel = begin; panel < end; ++panel) {
                 const std::size_t first = panel * kPanelRows;
                 body(panel, first, std::min(kPanelRows, n - first));
               }
             });
}

// Packs a full panel of 16 rows, in squares that fit the first-level cache.
void pack_rows(const float* src, std::size_t k, std::size_t stride, float* dst) {
  for (std::size_t begin = 0; begin < k; begin += kPanelRows) {
    const std::size_t end = std::min(k, begin + kPanelRows);
    for (std::size_t row = 0; row < kPanelRows; ++row) {
      for (std::size_t col = begin; col < end; ++col)
        dst[col * kPanelRows + row] = src[row * stride + col];
    }
  }
}

// Packs full panels begin .. end of a source [k, n]: 16 neighbours of a source row become a row of
// a panel. Several panels per pass, so that long stretches of a source row are read.
void pack_columns(const float* src, std::size_t begin, std::size_t end, std::size_t k,
                  std::size_t stride, float* dst) {
  constexpr std::size_t kPass = 8;
  for (std::size_t panel = begin; panel < end; panel += kPass) {
    const std::size_t count = std::min(kPass, end - panel);
    for (std::size_t col = 0; col < k; ++col) {
      const float* from = src + col * stride + panel * kPanelRows;
      float* to = dst + (panel * k + col) * kPanelRows;
      for (std::size_t i = 0; i < count; ++i)
        std::memcpy(to + i * k * kPanelRows, from + i * kPanelRows, kPanelRows * sizeof(float));
    }
  }
}

void pack_panels(const std::int8_t* codes, std::size_t n, std::size_t k, WeightFormat format,
                 void* dst, ParallelFor& parallel) {
  const std::size_t size = panel_bytes(format, k);
  for_panels(n, k, parallel, [&](std::size_t panel, std::size_t first, std::size_t rows) {
    auto* out = static_cast<std::uint8_t*>(dst) + panel * size;
    std::memset(out, 0, size);
    const CodeLayout layout = code_layout(format);
    for (std::size_t col = 0; col < round_up(k, layout.columns); ++col) {
      const CodePlace place = code_place(format, col);
      for (std::size_t row = 0; row < kPanelRows; ++row) {
        const int code = row < rows && col < k ? codes[(first + row) * k + col] : 0;
        put_code(out, place, row, code + layout.offset);
      }
    }
  });
}

template <typename T>
void pack_group_values(const T* src, std::size_t n, std::size_t groups, T* dst) {
  std::fill_n(dst, grouped_count(n, groups), T{0});
  for (std::size_t row = 0; row < n; ++row) {
    T* panel = dst + row / kPanelRows * groups * kPanelRows + row % kPanelRows;
    for (std::size_t group = 0; group < groups; ++group)
      panel[group * kPanelRows] = src[row * groups + group];
  }
}

}  // namespace

std::size_t packed_matrix_bytes(WeightFormat format, std::size_t n, std::size_t k) {
  return ceil_div(n, kPanelRows) * panel_bytes(format, k);
}

void pack_f32(const float* src, std::size_t n, std::size_t k, std::size_t stride, bool transposed,
              float* dst, ParallelFor& parallel, WeightFormat format) {
  const std::size_t width = format == WeightFormat::kNarrowF32 ? kNarrowRows : kPanelRows;
  const std::size_t full = width == kPanelRows ? n / kPanelRows : 0;
  const auto rest = [&](std::size_t panel, std::size_t rows) {
    float* out = dst + panel * k * kPanelRows;
    std::fill(out, out + k * width, 0.0F);
    for (std::size_t row = 0; row < rows; ++row) {
      const std::size_t at = panel * kPanelRows + row;
      for (std::size_t col = 0; col < k; ++col)
        out[col * width + row] = transposed ? src[col * stride + at] : src[at * stride + col];
    }
  };
  for_ranges(parallel, ceil_div(n, kPanelRows), rows_per_piece(k * kPanelRows),
             [&](std::size_t begin, std::size_t end) {
               const std::size_t whole = std::min(end, full);
               if (transposed) {
                 pack_columns(src, begin, whole, k, stride, dst);
               } else {
                 for (std::size_t panel = begin; panel < whole; ++panel)
                   pack_rows(src + panel * kPanelRows * stride, k, stride,
                             dst + panel * k * kPanelRows);
               }
               if (end > full) rest(full, n % kPanelRows);
             });
}

void pack_bf16(const float* src, std::size_t n, std::size_t k, std::uint16_t* dst,
               ParallelFor& parallel) {
  const std::size_t size = panel_bytes(WeightFormat::kBf16, k) / sizeof(std::uint16_t);
  for_panels(n, k, parallel, [&](std::size_t panel, std::size_t first, std::size_t rows) {
    std::uint16_t* out = dst + panel * size;
    std::fill(out, out + size, std::uint16_t{0});
    for (std::size_t row = 0; row < rows; ++row) {
      const float* x = src + (first + row) * k;
      for (std::size_t col = 0; col < k; ++col) {
        out[(col / 2 * kPanelRows + row) * 2 + col % 2] = bf16_from_float(x[col]);
      }
    }
  });
}

void pack_codes(const std::int8_t* codes, std::size_t n, std::size_t k, WeightFormat format,
                void* dst, std::int32_t* code_sums, ParallelFor& parallel) {
  pack_panels(codes, n, k, format, dst, parallel);
  for (std::size_t row = 0; row < n; ++row)
    code_sums[row] = std::accumulate(codes + row * k, codes + (row + 1) * k, std::int32_t{0});
}

void pack_codes(const std::int8_t* codes, std::size_t n, std::size_t k, WeightFormat format,
                std::size_t group, void* dst, std::int32_t* code_sums, ParallelFor& parallel) {
  pack_panels(codes, n, k, format, dst, parallel);
  const std::size_t groups = num_groups(k, group);
  std::vector<std::int32_t> sums(n * groups);
  for (std::size_t row = 0; row < n; ++row) {
    for (std::size_t col = 0; col < k; ++col)
      sums[row * groups + col / group] += codes[row * k + col];
  }
  pack_groups(sums.data(), n, groups, code_sums);
}

void pack_groups(const float* src, std::size_t n, std::size_t groups, float* dst) {
  pack_group_values(src, n, groups, dst);
}
void pack_groups(const std::int32_t* src, std::size_t n, std::size_t groups, std::int32_t* dst) {
  pack_group_values(src, n, groups, dst);
}
void pack_groups(const std::int8_t* src, std::size_t n, std::size_t groups, std::int8_t* dst) {
  pack_group_values(src, n, groups, dst);
}

void unpack_codes(const PackedMatrix& w, std::int8_t* codes) {
  const std::size_t size = panel_bytes(w.format, w.k);
  const int offset = code_layout(w.format).offset;
  for (std::size_t first = 0; first < w.n; first += kPanelRows) {
    const auto* panel = static_cast<const std::uint8_t*>(w.panels) + first / kPanelRows * size;
    for (std::size_t col = 0; col < w.k; ++col) {
      const CodePlace place = code_place(w.format, col);
      for (std::size_t row = 0; row < std::min(kPanelRows, w.n - first); ++row) {
        codes[(first + row) * w.k + col] =
            static_cast<std::int8_t>(stored_code(panel, place, row) - offset);
      }
    }
  }
}

}  // namespace qalof::kernels
