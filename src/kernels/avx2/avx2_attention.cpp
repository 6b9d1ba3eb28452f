// AVX2 and FMA: products and exponentials of attention. A score is the sum of eight partial sums
// over head_dim, a weighted sum is one chain over ascending keys, for every tile size
// (docs/numerics.md, "Float sums").
#if defined(__x86_64__)
#include "kernels/avx2/avx2_math.h"
#include "kernels/kernel_table.h"
#include "kernels/unroll.h"

namespace qalof::kernels {

namespace {

// Rows of keys or values. row(j).load(d) returns elements d .. d + 7; load_masked must not read
// beyond the mask where rows are not padded.
struct FloatRows {
  const float* rows;
  std::size_t stride;
  struct Row {
    const float* at;
    __m256 load(std::size_t d) const { return _mm256_loadu_ps(at + d); }
    __m256 load_masked(std::size_t d, __m256i mask) const {
      return _mm256_maskload_ps(at + d, mask);
    }
  };
  Row row(std::size_t j) const { return {rows + j * stride}; }
};

// Cached rows are padded with zeros, so they need no mask.
template <typename Element>
struct StoredRow {
  const std::uint8_t* at;
  const float* scale;
  __m256 load(std::size_t d) const { return Element::load(at, scale, d); }
  __m256 load_masked(std::size_t d, __m256i) const { return Element::load(at, scale, d); }
};

template <typename Element>
struct StoredRows {
  const std::uint8_t* rows;
  const float* scales;
  std::size_t stride;
  using Row = StoredRow<Element>;
  Row row(std::size_t j) const { return {rows + j * stride, scales + j}; }
};

struct Bf16Element {
  static __m256 load(const std::uint8_t* at, const float*, std::size_t d) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 2 * d));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
};

struct Int8Element {
  static __m256 load(const std::uint8_t* at, const float* scale, std::size_t d) {
    const __m256i codes =
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at + d)));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(codes), _mm256_broadcast_ss(scale));
  }
};

struct Int4Element {
  static __m256 load(const std::uint8_t* at, const float* scale, std::size_t d) {
    const __m256i word =
        _mm256_castps_si256(_mm256_broadcast_ss(reinterpret_cast<const float*>(at + d / 2)));
    const __m256i nibbles =
        _mm256_and_si256(_mm256_srlv_epi32(word, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28)),
                         _mm256_set1_epi32(15));
    const __m256i codes = _mm256_sub_epi32(nibbles, _mm256_set1_epi32(8));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(codes), _mm256_broadcast_ss(scale));
  }
};

template <typename Body>
void with_rows(const StoredKv& stored, const Body& body) {
  const auto* bytes = static_cast<const std::uint8_t*>(stored.rows);
  switch (stored.format) {
    case KvFormat::kF32:
      return body(FloatRows{static_cast<const float*>(stored.rows), stored.row_bytes / 4});
    case KvFormat::kBf16:
      return body(StoredRows<Bf16Element>{bytes, stored.scales, stored.row_bytes});
    case KvFormat::kInt8:
      return body(StoredRows<Int8Element>{bytes, stored.scales, stored.row_bytes});
    case KvFormat::kInt4:
      return body(StoredRows<Int4Element>{bytes, stored.scales, stored.row_bytes});
  }
}

template <typename Rows>
struct DotRows {
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
    __m256 sum[kRows][kCols];
    unrolled<kRows>(QALOF_UNROLLED(r) {
      x[r] = a + (row + static_cast<std::size_t>(r)) * a_stride;
      unrolled<kCols>(QALOF_UNROLLED(c) { sum[r][c] = _mm256_setzero_ps(); });
    });
    unrolled<kCols>(QALOF_UNROLLED(c) { y[c] = b.row(col + static_cast<std::size_t>(c)); });
    std::size_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) {
      __m256 left[kRows];
      unrolled<kRows>(QALOF_UNROLLED(r) { left[r] = _mm256_loadu_ps(x[r] + d); });
      unrolled<kCols>(QALOF_UNROLLED(c) {
        const __m256 right = y[c].load(d);
        unrolled<kRows>(
            QALOF_UNROLLED(r) { sum[r][c] = _mm256_fmadd_ps(left[r], right, sum[r][c]); });
      });
    }
    if (d < dim) {
      const __m256i mask = lane_mask(dim - d);
      unrolled<kCols>(QALOF_UNROLLED(c) {
        const __m256 right = y[c].load_masked(d, mask);
        unrolled<kRows>(QALOF_UNROLLED(r) {
          sum[r][c] = _mm256_fmadd_ps(_mm256_maskload_ps(x[r] + d, mask), right, sum[r][c]);
        });
      });
    }
    unrolled<kRows>(QALOF_UNROLLED(r) {
      float* out = dst + (row + static_cast<std::size_t>(r)) * dst_stride + col;
      if constexpr (kCols == 4) {
        const __m128 total = sum_lanes(sum[r][0], sum[r][1], sum[r][2], sum[r][3]);
        _mm_storeu_ps(out, _mm_mul_ps(total, _mm_set1_ps(scale)));
      } else {
        *out = sum_lanes(sum[r][0]) * scale;
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

void dot_rows(const float* a, std::size_t a_rows, std::size_t a_stride, const float* b,
              std::size_t b_rows, std::size_t b_stride, std::size_t dim, float scale, float* dst,
              std::size_t dst_stride) {
  DotRows<FloatRows>{a, a_stride, {b, b_stride}, dim, scale, dst, dst_stride}.run(a_rows, b_rows);
}

void dot_stored(const float* a, std::size_t a_rows, std::size_t a_stride, const StoredKv& b,
                std::size_t b_rows, std::size_t dim, float scale, float* dst,
                std::size_t dst_stride) {
  with_rows(b, [&](auto rows) {
    DotRows<decltype(rows)>{a, a_stride, rows, dim, scale, dst, dst_stride}.run(a_rows, b_rows);
  });
}

void exp_shifted(float* row, std::size_t count, float shift) {
  const __m256 offset = _mm256_set1_ps(shift);
  for (std::size_t i = 0; i < count; i += kLanes) {
    const __m256i mask = lane_mask(count - i);
    _mm256_maskstore_ps(row + i, mask,
                        exp_lanes(_mm256_sub_ps(_mm256_maskload_ps(row + i, mask), offset)));
  }
}

float exp_row(float* row, std::size_t count, float* max) {
  __m256 largest = _mm256_set1_ps(row[0]);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    largest = _mm256_max_ps(largest, _mm256_loadu_ps(row + i));
  if (i < count) {
    const __m256i mask = lane_mask(count - i);
    const __m256 rest = _mm256_maskload_ps(row + i, mask);
    largest = _mm256_max_ps(largest, _mm256_blendv_ps(largest, rest, _mm256_castsi256_ps(mask)));
  }
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  half = _mm_max_ss(half, _mm_shuffle_ps(half, half, 1));
  *max = _mm_cvtss_f32(half);
  const __m256 offset = _mm256_set1_ps(*max);
  __m256 sum = _mm256_setzero_ps();
  for (i = 0; i + kLanes <= count; i += kLanes) {
    const __m256 value = exp_lanes(_mm256_sub_ps(_mm256_loadu_ps(row + i), offset));
    _mm256_storeu_ps(row + i, value);
    sum = _mm256_add_ps(sum, value);
  }
  if (i < count) {
    const __m256i mask = lane_mask(count - i);
    const __m256 value = exp_lanes(_mm256_sub_ps(_mm256_maskload_ps(row + i, mask), offset));
    _mm256_maskstore_ps(row + i, mask, value);
    sum = _mm256_add_ps(sum, _mm256_and_ps(value, _mm256_castsi256_ps(mask)));
  }
  return sum_lanes(sum);
}

std::size_t smaller(std::size_t a, std::size_t b) { return a < b ? a : b; }

std::size_t terms(const WeighRows& work, std::size_t row) {
  return work.first_count + row * work.count_step;
}

// Adds to kRows rows from row on, columns d .. d + 8 kVectors - 1 (the last vector masked), terms
// begin .. end - 1.
template <int kRows, int kVectors, typename Rows>
void weigh_tile(const WeighRows& work, const Rows& values, std::size_t row, std::size_t d,
                __m256i mask, std::size_t begin, std::size_t end) {
  const std::size_t step = work.column_stride;
  const float* weights[kRows];
  float* out[kRows];
  __m256 sum[kRows][kVectors];
  const auto load = [&](const auto& at, std::size_t first, int v) __attribute__((always_inline)) {
    const std::size_t element = first + static_cast<std::size_t>(v) * 8;
    return v == kVectors - 1 ? at.load_masked(element, mask) : at.load(element);
  };
  unrolled<kRows>(QALOF_UNROLLED(r) {
    weights[r] = work.weights + (row + static_cast<std::size_t>(r)) * work.row_stride;
    out[r] = work.out + (row + static_cast<std::size_t>(r)) * work.out_stride + d;
    unrolled<kVectors>(QALOF_UNROLLED(v) { sum[r][v] = load(FloatRows::Row{out[r]}, 0, v); });
  });
  const std::size_t common = smaller(end, terms(work, row));
  for (std::size_t j = begin; j < common; ++j) {
    const auto at = values.row(j);
    __m256 weight[kRows];
    unrolled<kRows>(QALOF_UNROLLED(r) { weight[r] = _mm256_broadcast_ss(weights[r] + j * step); });
    unrolled<kVectors>(QALOF_UNROLLED(v) {
      const __m256 value = load(at, d, v);
      unrolled<kRows>(
          QALOF_UNROLLED(r) { sum[r][v] = _mm256_fmadd_ps(weight[r], value, sum[r][v]); });
    });
  }
  // Terms that only later rows have.
  unrolled<kRows>(QALOF_UNROLLED(r) {
    const std::size_t last = smaller(end, terms(work, row + static_cast<std::size_t>(r)));
    for (std::size_t j = common > begin ? common : begin; j < last; ++j) {
      const __m256 weight = _mm256_broadcast_ss(weights[r] + j * step);
      const auto at = values.row(j);
      unrolled<kVectors>(
          QALOF_UNROLLED(v) { sum[r][v] = _mm256_fmadd_ps(weight, load(at, d, v), sum[r][v]); });
    }
    unrolled<kVectors - 1>(QALOF_UNROLLED(v) { _mm256_storeu_ps(out[r] + v * 8, sum[r][v]); });
    _mm256_maskstore_ps(out[r] + (kVectors - 1) * 8, mask, sum[r][kVectors - 1]);
  });
}

template <int kRows, typename Rows>
void weigh_columns(const WeighRows& work, const Rows& values, std::size_t row, std::size_t begin,
                   std::size_t end) {
  const __m256i all = _mm256_set1_epi32(-1);
  std::size_t d = 0;
  for (; d + 32 <= work.dim; d += 32) weigh_tile<kRows, 4>(work, values, row, d, all, begin, end);
  for (; d < work.dim; d += 8)
    weigh_tile<kRows, 1>(work, values, row, d, lane_mask(work.dim - d), begin, end);
}

template <typename Rows>
void weigh(const WeighRows& work, const Rows& values) {
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

void weigh_rows(const WeighRows& work) { weigh(work, FloatRows{work.v, work.v_stride}); }

void weigh_stored(const WeighRows& work, const StoredKv& values) {
  with_rows(values, [&](auto rows) { weigh(work, rows); });
}

void divide(float* row, std::size_t count, float divisor) {
  const __m256 by = _mm256_set1_ps(divisor);
  for (std::size_t i = 0; i < count; i += kLanes) {
    const __m256i mask = lane_mask(count - i);
    _mm256_maskstore_ps(row + i, mask, _mm256_div_ps(_mm256_maskload_ps(row + i, mask), by));
  }
}

void softmax_dx(const float* p, std::size_t count, float shift, float scale, float* ds) {
  const __m256 offset = _mm256_set1_ps(shift);
  const __m256 factor = _mm256_set1_ps(scale);
  for (std::size_t i = 0; i < count; i += kLanes) {
    const __m256i mask = lane_mask(count - i);
    const __m256 weight = _mm256_mul_ps(factor, _mm256_maskload_ps(p + i, mask));
    _mm256_maskstore_ps(
        ds + i, mask,
        _mm256_mul_ps(weight, _mm256_sub_ps(_mm256_maskload_ps(ds + i, mask), offset)));
  }
}

}  // namespace

void set_avx2_attention(KernelTable& table) {
  table.dot_rows = dot_rows;
  table.exp_row = exp_row;
  table.exp_shifted = exp_shifted;
  table.weigh_rows = weigh_rows;
  table.dot_stored = dot_stored;
  table.weigh_stored = weigh_stored;
  table.divide = divide;
  table.softmax_dx = softmax_dx;
}

}  // namespace qalof::kernels
#endif
