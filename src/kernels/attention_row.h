// Products and exponentials of attention, written once for vectors of eight floats. A score is the
// sum of eight partial sums over head_dim, a weighted sum is one chain over ascending keys, for
// every tile size (docs/numerics.md, "Float sums"). Internal linkage, for the files of one
// instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernel_table.h"
#include "kernels/ops_row.h"
#include "kernels/unroll.h"

namespace qalof::kernels {
namespace {

// Pack supplies, besides what ops_row.h asks for,
//   load_bf16(at), load_int8(at), load_int4(at)  eight elements of a row of a cache as floats
//   where(mask, v, other)                        other in the lanes beyond the mask
//   sum_lanes(v)                                 ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))
//   store_sums(at, v[4], scale)                  sum_lanes of four vectors, times scale
//   max_lanes(v)

/// Rows of keys or values. row(j).load(d) returns elements d .. d + 7; load_masked must not read
/// beyond the mask where rows are not padded.
template <typename Pack>
struct FloatRows {
  const float* rows;
  std::size_t stride;
  struct Row {
    const float* at;
    auto load(std::size_t d) const { return Pack::load(at + d); }
    auto load_masked(std::size_t d, typename Pack::Mask mask) const {
      return Pack::load(at + d, mask);
    }
  };
  Row row(std::size_t j) const { return {rows + j * stride}; }
};

/// Cached rows are padded with zeros, so they need no mask. Element: load(at, scale, d).
template <typename Pack, typename Element>
struct StoredRows {
  const std::uint8_t* rows;
  const float* scales;
  std::size_t stride;
  struct Row {
    const std::uint8_t* at;
    const float* scale;
    auto load(std::size_t d) const { return Element::load(at, scale, d); }
    auto load_masked(std::size_t d, typename Pack::Mask) const { return load(d); }
  };
  Row row(std::size_t j) const { return {rows + j * stride, scales + j}; }
};

template <typename Pack>
struct Bf16Element {
  static auto load(const std::uint8_t* at, const float*, std::size_t d) {
    return Pack::load_bf16(at + 2 * d);
  }
};
template <typename Pack>
struct Int8Element {
  static auto load(const std::uint8_t* at, const float* scale, std::size_t d) {
    return Pack::load_int8(at + d) * Pack::all(*scale);
  }
};
template <typename Pack>
struct Int4Element {
  static auto load(const std::uint8_t* at, const float* scale, std::size_t d) {
    return Pack::load_int4(at + d / 2) * Pack::all(*scale);
  }
};

template <typename Pack, typename Rows>
struct DotRows {
  using Vector = typename Pack::Vector;
  const float* a;
  std::size_t a_stride;
  Rows b;
  std::size_t dim;
  float scale;
  float* dst;
  std::size_t dst_stride;

  // Scores of kRows rows of a from row on, and kCols (1 or 4) rows of b from col on.
  template <int kRows, int kCols>
  void tile(std::size_t row, std::size_t col) const {
    const float* x[kRows];
    typename Rows::Row y[kCols];
    Vector sum[kRows][kCols];
    unrolled<kRows>(QALOF_UNROLLED(r) {
      x[r] = a + (row + static_cast<std::size_t>(r)) * a_stride;
      unrolled<kCols>(QALOF_UNROLLED(c) { sum[r][c] = Pack::all(0.0F); });
    });
    unrolled<kCols>(QALOF_UNROLLED(c) { y[c] = b.row(col + static_cast<std::size_t>(c)); });
    std::size_t d = 0;
    for (; d + Pack::kLanes <= dim; d += Pack::kLanes) {
      Vector left[kRows];
      unrolled<kRows>(QALOF_UNROLLED(r) { left[r] = Pack::load(x[r] + d); });
      unrolled<kCols>(QALOF_UNROLLED(c) {
        const Vector right = y[c].load(d);
        unrolled<kRows>(QALOF_UNROLLED(r) { sum[r][c] = Pack::fmadd(left[r], right, sum[r][c]); });
      });
    }
    if (d < dim) {
      const auto mask = Pack::mask(dim - d);
      unrolled<kCols>(QALOF_UNROLLED(c) {
        const Vector right = y[c].load_masked(d, mask);
        unrolled<kRows>(QALOF_UNROLLED(r) {
          sum[r][c] = Pack::fmadd(Pack::load(x[r] + d, mask), right, sum[r][c]);
        });
      });
    }
    unrolled<kRows>(QALOF_UNROLLED(r) {
      float* out = dst + (row + static_cast<std::size_t>(r)) * dst_stride + col;
      if constexpr (kCols == 4) {
        Pack::store_sums(out, sum[r], scale);
      } else {
        *out = Pack::sum_lanes(sum[r][0]) * scale;
      }
    });
  }

  template <int kCols>
  void column(std::size_t rows, std::size_t col) const {
    std::size_t row = 0;
    for (; row + 3 <= rows; row += 3) tile<3, kCols>(row, col);
    if (rows - row == 2) {
      tile<2, kCols>(row, col);
    } else if (rows - row == 1) {
      tile<1, kCols>(row, col);
    }
  }

  void run(std::size_t a_rows, std::size_t b_rows) const {
    std::size_t col = 0;
    for (; col + 4 <= b_rows; col += 4) column<4>(a_rows, col);
    for (; col < b_rows; ++col) column<1>(a_rows, col);
  }
};

/// The functions of a KernelTable that attention uses.
template <typename Pack>
struct AttentionOps {
  using Vector = typename Pack::Vector;
  using Floats = FloatRows<Pack>;
  static constexpr std::size_t kLanes = Pack::kLanes;

  template <typename Body>
  static void with_rows(const StoredKv& stored, const Body& body) {
    const auto* bytes = static_cast<const std::uint8_t*>(stored.rows);
    switch (stored.format) {
      case KvFormat::kF32:
        return body(Floats{static_cast<const float*>(stored.rows), stored.row_bytes / 4});
      case KvFormat::kBf16:
        return body(StoredRows<Pack, Bf16Element<Pack>>{bytes, stored.scales, stored.row_bytes});
      case KvFormat::kInt8:
        return body(StoredRows<Pack, Int8Element<Pack>>{bytes, stored.scales, stored.row_bytes});
      case KvFormat::kInt4:
        return body(StoredRows<Pack, Int4Element<Pack>>{bytes, stored.scales, stored.row_bytes});
    }
  }

  static void dot_rows(const float* a, std::size_t a_rows, std::size_t a_stride, const float* b,
                       std::size_t b_rows, std::size_t b_stride, std::size_t dim, float scale,
                       float* dst, std::size_t dst_stride) {
    DotRows<Pack, Floats>{a, a_stride, {b, b_stride}, dim, scale, dst, dst_stride}.run(a_rows,
                                                                                       b_rows);
  }

  static void dot_stored(const float* a, std::size_t a_rows, std::size_t a_stride,
                         const StoredKv& b, std::size_t b_rows, std::size_t dim, float scale,
                         float* dst, std::size_t dst_stride) {
    with_rows(b, [&](auto rows) {
      DotRows<Pack, decltype(rows)>{a, a_stride, rows, dim, scale, dst, dst_stride}.run(a_rows,
                                                                                        b_rows);
    });
  }

  static void exp_shifted(float* row, std::size_t count, float shift) {
    const Vector offset = Pack::all(shift);
    for (std::size_t i = 0; i < count; i += kLanes) {
      const auto mask = Pack::mask(count - i);
      Pack::store(row + i, exp_of<Pack>(Pack::load(row + i, mask) - offset), mask);
    }
  }

  static float exp_row(float* row, std::size_t count, float* max) {
    Vector largest = Pack::all(row[0]);
    std::size_t i = 0;
    for (; i + kLanes <= count; i += kLanes) largest = Pack::max(largest, Pack::load(row + i));
    if (i < count) {
      const auto mask = Pack::mask(count - i);
      const Vector rest = Pack::load(row + i, mask);
      largest = Pack::max(largest, Pack::where(mask, rest, largest));
    }
    *max = Pack::max_lanes(largest);
    const Vector offset = Pack::all(*max);
    Vector sum = Pack::all(0.0F);
    for (i = 0; i + kLanes <= count; i += kLanes) {
      const Vector value = exp_of<Pack>(Pack::load(row + i) - offset);
      Pack::store(row + i, value);
      sum = sum + value;
    }
    if (i < count) {
      const auto mask = Pack::mask(count - i);
      const Vector value = exp_of<Pack>(Pack::load(row + i, mask) - offset);
      Pack::store(row + i, value, mask);
      sum = sum + Pack::keep(value, mask);
    }
    return Pack::sum_lanes(sum);
  }

  static std::size_t smaller(std::size_t a, std::size_t b) { return a < b ? a : b; }

  static std::size_t terms(const WeighRows& work, std::size_t row) {
    return work.first_count + row * work.count_step;
  }

  // Adds to kRows rows from row on, columns d .. d + 8 kVectors - 1 (the last vector masked), terms
  // begin .. end - 1.
  template <int kRows, int kVectors, typename Rows>
  static void weigh_tile(const WeighRows& work, const Rows& values, std::size_t row, std::size_t d,
                         typename Pack::Mask mask, std::size_t begin, std::size_t end) {
    const std::size_t step = work.column_stride;
    const float* weights[kRows];
    float* out[kRows];
    Vector sum[kRows][kVectors];
    const auto load = [&](const auto& at, std::size_t first, int v) __attribute__((always_inline)) {
      const std::size_t element = first + static_cast<std::size_t>(v) * 8;
      return v == kVectors - 1 ? at.load_masked(element, mask) : at.load(element);
    };
    unrolled<kRows>(QALOF_UNROLLED(r) {
      weights[r] = work.weights + (row + static_cast<std::size_t>(r)) * work.row_stride;
      out[r] = work.out + (row + static_cast<std::size_t>(r)) * work.out_stride + d;
      unrolled<kVectors>(
          QALOF_UNROLLED(v) { sum[r][v] = load(typename Floats::Row{out[r]}, 0, v); });
    });
    const std::size_t common = smaller(end, terms(work, row));
    for (std::size_t j = begin; j < common; ++j) {
      const auto at = values.row(j);
      Vector weight[kRows];
      unrolled<kRows>(QALOF_UNROLLED(r) { weight[r] = Pack::all(weights[r][j * step]); });
      unrolled<kVectors>(QALOF_UNROLLED(v) {
        const Vector value = load(at, d, v);
        unrolled<kRows>(
            QALOF_UNROLLED(r) { sum[r][v] = Pack::fmadd(weight[r], value, sum[r][v]); });
      });
    }
    // Terms that only later rows have.
    unrolled<kRows>(QALOF_UNROLLED(r) {
      const std::size_t last = smaller(end, terms(work, row + static_cast<std::size_t>(r)));
      for (std::size_t j = common > begin ? common : begin; j < last; ++j) {
        const Vector weight = Pack::all(weights[r][j * step]);
        const auto at = values.row(j);
        unrolled<kVectors>(
            QALOF_UNROLLED(v) { sum[r][v] = Pack::fmadd(weight, load(at, d, v), sum[r][v]); });
      }
      unrolled<kVectors - 1>(QALOF_UNROLLED(v) { Pack::store(out[r] + v * 8, sum[r][v]); });
      Pack::store(out[r] + (kVectors - 1) * 8, sum[r][kVectors - 1], mask);
    });
  }

  template <int kRows, typename Rows>
  static void weigh_columns(const WeighRows& work, const Rows& values, std::size_t row,
                            std::size_t begin, std::size_t end) {
    const auto all = Pack::mask(kLanes);
    std::size_t d = 0;
    for (; d + 32 <= work.dim; d += 32) weigh_tile<kRows, 4>(work, values, row, d, all, begin, end);
    for (; d < work.dim; d += 8)
      weigh_tile<kRows, 1>(work, values, row, d, Pack::mask(work.dim - d), begin, end);
  }

  template <typename Rows>
  static void weigh(const WeighRows& work, const Rows& values) {
    // This many rows of v are used by all rows of weights while in the first-level cache.
    constexpr std::size_t kTerms = 64;
    const std::size_t longest = work.rows == 0 ? 0 : terms(work, work.rows - 1);
    for (std::size_t begin = 0; begin < longest; begin += kTerms) {
      const std::size_t end = begin + kTerms;
      std::size_t row = 0;
      for (; row + 3 <= work.rows; row += 3) weigh_columns<3>(work, values, row, begin, end);
      if (work.rows - row == 2) {
        weigh_columns<2>(work, values, row, begin, end);
      } else if (work.rows - row == 1) {
        weigh_columns<1>(work, values, row, begin, end);
      }
    }
  }

  static void weigh_rows(const WeighRows& work) { weigh(work, Floats{work.v, work.v_stride}); }

  static void weigh_stored(const WeighRows& work, const StoredKv& values) {
    with_rows(values, [&](auto rows) { weigh(work, rows); });
  }

  static void divide(float* row, std::size_t count, float divisor) {
    const Vector by = Pack::all(divisor);
    for (std::size_t i = 0; i < count; i += kLanes) {
      const auto mask = Pack::mask(count - i);
      Pack::store(row + i, Pack::load(row + i, mask) / by, mask);
    }
  }

  static void softmax_dx(const float* p, std::size_t count, float shift, float scale, float* ds) {
    const Vector offset = Pack::all(shift);
    const Vector factor = Pack::all(scale);
    for (std::size_t i = 0; i < count; i += kLanes) {
      const auto mask = Pack::mask(count - i);
      const Vector weight = factor * Pack::load(p + i, mask);
      Pack::store(ds + i, weight * (Pack::load(ds + i, mask) - offset), mask);
    }
  }

  static void set(KernelTable& table) {
    table.dot_rows = dot_rows;
    table.exp_row = exp_row;
    table.exp_shifted = exp_shifted;
    table.weigh_rows = weigh_rows;
    table.dot_stored = dot_stored;
    table.weigh_stored = weigh_stored;
    table.divide = divide;
    table.softmax_dx = softmax_dx;
  }
};

}  // namespace
}  // namespace qalof::kernels
