// AVX-512: products and exponentials of attention, bit-equal to the AVX2 form: a score is the sum
// of eight partial sums over head_dim, a weighted sum is one chain over ascending keys
// (docs/numerics.md, "Float sums").
//
// Many queries: sixteen keys are transposed once into columns, so that a lane is a key and its
// partial sums are computed one after the other. Few queries (decoding): a register holds eight
// elements of two keys.
#if defined(__x86_64__)
#include "kernels/avx512/avx512_math.h"
#include "kernels/avx512/avx512_transpose.h"
#include "kernels/kernel_table.h"
#include "kernels/unroll.h"

namespace qalof::kernels {

namespace {

std::size_t smaller(std::size_t a, std::size_t b) { return a < b ? a : b; }

// Rows of keys or values. load(j, d, mask) returns elements d .. d + 15 of row j within the mask,
// pair(j, d, mask) elements d .. d + 7 of rows j and j + 1.
struct FloatRows {
  const float* rows;
  std::size_t stride;
  __m512 load(std::size_t j, std::size_t d, __mmask16 mask) const {
    return _mm512_maskz_loadu_ps(mask, rows + j * stride + d);
  }
  __m512 pair(std::size_t j, std::size_t d, __mmask8 mask) const {
    const float* at = rows + j * stride + d;
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_maskz_loadu_ps(mask, at)),
                              _mm256_maskz_loadu_ps(mask, at + stride), 1);
  }
};

// Rows copied to contiguous memory.
struct CopiedRows {
  const float* rows;
  std::size_t stride, first;
  __m512 load(std::size_t j, std::size_t d, __mmask16 mask) const {
    return _mm512_maskz_loadu_ps(mask, rows + (j - first) * stride + d);
  }
};

// Cached rows are padded with zeros to a multiple of eight, so pairs need no mask.
struct StoredRows {
  const std::uint8_t* rows;
  const float* scales;
  std::size_t stride;
  __m512 scales_of_pair(std::size_t j) const {
    return _mm512_insertf32x8(_mm512_set1_ps(scales[j]), _mm256_set1_ps(scales[j + 1]), 1);
  }
};

// Eight bytes from each of two places.
__m128i two_words(const std::uint8_t* low, const std::uint8_t* high) {
  // These loads may be unaligned; loads of doubles may not.
  return _mm_unpacklo_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(low)),
                            _mm_loadl_epi64(reinterpret_cast<const __m128i*>(high)));
}

struct Bf16Rows : StoredRows {
  static __m512 widen(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
  __m512 load(std::size_t j, std::size_t d, __mmask16 mask) const {
    return widen(_mm256_maskz_loadu_epi16(mask, rows + j * stride + 2 * d));
  }
  __m512 pair(std::size_t j, std::size_t d, __mmask8) const {
    const auto* at = reinterpret_cast<const __m128i*>(rows + j * stride + 2 * d);
    const auto* next = reinterpret_cast<const __m128i*>(rows + (j + 1) * stride + 2 * d);
    return widen(_mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(at)),
                                         _mm_loadu_si128(next), 1));
  }
};

struct Int8Rows : StoredRows {
  __m512 load(std::size_t j, std::size_t d, __mmask16 mask) const {
    const __m512i codes = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, rows + j * stride + d));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(codes), _mm512_set1_ps(scales[j]));
  }
  __m512 pair(std::size_t j, std::size_t d, __mmask8) const {
    const std::uint8_t* at = rows + j * stride + d;
    const __m512i codes = _mm512_cvtepi8_epi32(two_words(at, at + stride));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(codes), scales_of_pair(j));
  }
};

struct Int4Rows : StoredRows {
  // Widens the sixteen nibbles of eight bytes.
  static __m512 widen(__m128i bytes) {
    const __m128i low = _mm_set1_epi8(15);
    const __m128i nibbles =
        _mm_unpacklo_epi8(_mm_and_si128(bytes, low), _mm_and_si128(_mm_srli_epi16(bytes, 4), low));
    return _mm512_cvtepi32_ps(
        _mm512_sub_epi32(_mm512_cvtepu8_epi32(nibbles), _mm512_set1_epi32(8)));
  }
  __m512 load(std::size_t j, std::size_t d, __mmask16 mask) const {
    // Rows end in whole words of eight nibbles.
    const std::uint8_t* at = rows + j * stride + d / 2;
    const __m128i bytes = _mm_maskz_loadu_epi8((mask >> 8) != 0 ? 0xFF : 0x0F, at);
    return _mm512_maskz_mul_ps(mask, widen(bytes), _mm512_set1_ps(scales[j]));
  }
  __m512 pair(std::size_t j, std::size_t d, __mmask8) const {
    const std::uint8_t* at = rows + j * stride + d / 2;
    const __m128i bytes = _mm_unpacklo_epi32(_mm_loadu_si32(at), _mm_loadu_si32(at + stride));
    return _mm512_mul_ps(widen(bytes), scales_of_pair(j));
  }
};

template <typename Body>
void with_rows(const StoredKv& stored, const Body& body) {
  const StoredRows rows = {static_cast<const std::uint8_t*>(stored.rows), stored.scales,
                           stored.row_bytes};
  switch (stored.format) {
    case KvFormat::kF32:
      return body(FloatRows{static_cast<const float*>(stored.rows), stored.row_bytes / 4});
    case KvFormat::kBf16:
      return body(Bf16Rows{rows});
    case KvFormat::kInt8:
      return body(Int8Rows{rows});
    case KvFormat::kInt4:
      return body(Int4Rows{rows});
  }
}

// Keys of up to this many elements are transposed.
constexpr std::size_t kMaxDim = 256;
constexpr std::size_t kKeys = 16;

// Writes panel[d][key] for count keys from j on; zeros for missing keys.
template <typename Rows>
void turn_keys(const Rows& keys, std::size_t j, std::size_t count, std::size_t dim, float* panel) {
  for (std::size_t d = 0; d < dim; d += kLanes) {
    const __mmask16 mask = lane_mask(dim - d);
    __m512 rows[16];
    if (count == kKeys) {
      unrolled<16>(
          QALOF_UNROLLED(i) { rows[i] = keys.load(j + static_cast<std::size_t>(i), d, mask); });
    } else {
      for (std::size_t i = 0; i < kKeys; ++i)
        rows[i] = i < count ? keys.load(j + i, d, mask) : _mm512_setzero_ps();
    }
    transpose(rows, panel + d * 16);
  }
}

// Scores of kRows queries (rows x, stride apart) and kPanels panels of sixteen keys.
template <int kRows, int kPanels>
struct ScoreTile {
  const float* x;
  std::size_t stride;
  const float* panels;
  std::size_t panel_size;
  std::size_t dim;

  // Computes one of the eight partial sums.
  [[gnu::always_inline]] void partial(std::size_t first, __m512 (&sum)[kRows][kPanels]) const {
    unrolled<kRows>(QALOF_UNROLLED(r) {
      unrolled<kPanels>(QALOF_UNROLLED(p) { sum[r][p] = _mm512_setzero_ps(); });
    });
    for (std::size_t d = first; d < dim; d += 8) {
      __m512 key[kPanels];
      unrolled<kPanels>(QALOF_UNROLLED(p) {
        key[p] = _mm512_loadu_ps(panels + static_cast<std::size_t>(p) * panel_size + d * 16);
      });
      unrolled<kRows>(QALOF_UNROLLED(r) {
        const __m512 value = _mm512_set1_ps(x[static_cast<std::size_t>(r) * stride + d]);
        unrolled<kPanels>(
            QALOF_UNROLLED(p) { sum[r][p] = _mm512_fmadd_ps(value, key[p], sum[r][p]); });
      });
    }
  }

  // Partial sums are added in pairs, so at most three are pending.
  void run(float scale, __mmask16 mask, float* dst, std::size_t dst_stride) const {
    __m512 waiting[3][kRows][kPanels];
    __m512 sum[kRows][kPanels];
    for (std::size_t first = 0; first < 8; ++first) {
      partial(first, sum);
      std::size_t level = 0;
      for (; (first >> level) % 2 == 1; ++level) {
        unrolled<kRows>(QALOF_UNROLLED(r) {
          unrolled<kPanels>(
              QALOF_UNROLLED(p) { sum[r][p] = _mm512_add_ps(waiting[level][r][p], sum[r][p]); });
        });
      }
      if (first == 7) break;
      unrolled<kRows>(QALOF_UNROLLED(r) {
        unrolled<kPanels>(QALOF_UNROLLED(p) { waiting[level][r][p] = sum[r][p]; });
      });
    }
    const __m512 factor = _mm512_set1_ps(scale);
    unrolled<kRows>(QALOF_UNROLLED(r) {
      unrolled<kPanels>(QALOF_UNROLLED(p) {
        // The mask applies to the last panel only.
        const __mmask16 keys = p == kPanels - 1 ? mask : static_cast<__mmask16>(0xFFFF);
        _mm512_mask_storeu_ps(dst + static_cast<std::size_t>(r) * dst_stride + p * 16, keys,
                              _mm512_mul_ps(sum[r][p], factor));
      });
    });
  }
};

struct Scores {
  const float* a;
  std::size_t a_rows, a_stride;
  std::size_t dim;
  float scale;
  float* dst;
  std::size_t dst_stride;
};

template <int kRows, int kPanels>
void score_tile(const Scores& work, std::size_t row, const float* panels, std::size_t panel_size,
                __mmask16 mask, float* dst) {
  const ScoreTile<kRows, kPanels> tile = {work.a + row * work.a_stride, work.a_stride, panels,
                                          panel_size, work.dim};
  tile.run(work.scale, mask, dst + row * work.dst_stride, work.dst_stride);
}

template <int kPanels>
void score_panels(const Scores& work, const float* panels, std::size_t panel_size, __mmask16 mask,
                  float* dst) {
  std::size_t row = 0;
  for (; row + 8 <= work.a_rows; row += 8)
    score_tile<8, kPanels>(work, row, panels, panel_size, mask, dst);
  for (; row + 4 <= work.a_rows; row += 4)
    score_tile<4, kPanels>(work, row, panels, panel_size, mask, dst);
  for (; row < work.a_rows; ++row) score_tile<1, kPanels>(work, row, panels, panel_size, mask, dst);
}

// Rows with a large stride map to few sets of the first-level cache, so rows that are used
// repeatedly are copied to contiguous memory first.
constexpr std::size_t kCopiedFloats = 4096;
// Floats of copied queries: enough for a whole block (attention.cpp), which meets the columns of
// all keys.
constexpr std::size_t kCopiedQueries = 6144;

template <typename Rows>
void copy_rows(const Rows& rows, std::size_t first, std::size_t count, std::size_t dim,
               float* dst) {
  for (std::size_t j = 0; j < count; ++j) {
    for (std::size_t d = 0; d < dim; d += kLanes) {
      const __mmask16 mask = lane_mask(dim - d);
      _mm512_mask_storeu_ps(dst + j * dim + d, mask, rows.load(first + j, d, mask));
    }
  }
}

// Many queries: columns of 32 keys at a time.
template <typename Rows>
void score_many(const Scores& all, const Rows& keys, std::size_t num_keys) {
  alignas(64) float panels[2 * kMaxDim * kKeys];
  alignas(64) float queries[kCopiedQueries];
  const std::size_t panel_size = (all.dim + kLanes - 1) / kLanes * kLanes * kKeys;
  const std::size_t max_rows = kCopiedQueries / all.dim;
  for (std::size_t row = 0; row < all.a_rows; row += max_rows) {
    Scores work = all;
    work.a_rows = smaller(max_rows, all.a_rows - row);
    work.dst += row * all.dst_stride;
    copy_rows(FloatRows{all.a, all.a_stride}, row, work.a_rows, work.dim, queries);
    work.a = queries;
    work.a_stride = work.dim;
    for (std::size_t j = 0; j < num_keys; j += 2 * kKeys) {
      const std::size_t count = smaller(2 * kKeys, num_keys - j);
      turn_keys(keys, j, smaller(kKeys, count), work.dim, panels);
      if (count <= kKeys) {
        score_panels<1>(work, panels, panel_size, lane_mask(count), work.dst + j);
      } else {
        turn_keys(keys, j + kKeys, count - kKeys, work.dim, panels + panel_size);
        score_panels<2>(work, panels, panel_size, lane_mask(count - kKeys), work.dst + j);
      }
    }
  }
}

// ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)) of both halves of four vectors: [a, b, c, d] for the
// lower halves, then for the upper halves.
__m256 sum_halves(__m512 a, __m512 b, __m512 c, __m512 d) {
  const auto pairs = [](__m512 x, __m512 y) {
    return _mm512_add_ps(_mm512_shuffle_ps(x, y, 0x88), _mm512_shuffle_ps(x, y, 0xDD));
  };
  const __m512 fours = pairs(pairs(a, b), pairs(c, d));
  const __m512 swapped = _mm512_shuffle_f32x4(fours, fours, 0xB1);
  return _mm512_castps512_ps256(_mm512_shuffle_f32x4(_mm512_add_ps(fours, swapped), fours, 0x08));
}

// Few queries: eight keys at a time, two per register.
template <typename Rows>
void score_few(const Scores& work, const Rows& keys, std::size_t num_keys) {
  const auto last = static_cast<__mmask8>((1U << (work.dim % 8)) - 1U);
  for (std::size_t row = 0; row < work.a_rows; ++row) {
    const float* x = work.a + row * work.a_stride;
    float* dst = work.dst + row * work.dst_stride;
    const auto both = [](__m256 half) {
      return _mm512_insertf32x8(_mm512_castps256_ps512(half), half, 1);
    };
    std::size_t j = 0;
    for (; j + 8 <= num_keys; j += 8) {
      __m512 sum[4];
      unrolled<4>(QALOF_UNROLLED(p) { sum[p] = _mm512_setzero_ps(); });
      std::size_t d = 0;
      for (; d + 8 <= work.dim; d += 8) {
        const __m512 value = both(_mm256_loadu_ps(x + d));
        unrolled<4>(QALOF_UNROLLED(p) {
          sum[p] = _mm512_fmadd_ps(value, keys.pair(j + 2 * static_cast<std::size_t>(p), d, 0xFF),
                                   sum[p]);
        });
      }
      if (d < work.dim) {
        const __m512 value = both(_mm256_maskz_loadu_ps(last, x + d));
        unrolled<4>(QALOF_UNROLLED(p) {
          sum[p] = _mm512_fmadd_ps(value, keys.pair(j + 2 * static_cast<std::size_t>(p), d, last),
                                   sum[p]);
        });
      }
      // Order of lanes: keys 0 2 4 6, then 1 3 5 7.
      const __m256 total = _mm256_permutevar8x32_ps(sum_halves(sum[0], sum[1], sum[2], sum[3]),
                                                    _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
      _mm256_storeu_ps(dst + j, _mm256_mul_ps(total, _mm256_set1_ps(work.scale)));
    }
    for (; j < num_keys; ++j) {
      __m256 sum = _mm256_setzero_ps();
      for (std::size_t d = 0; d < work.dim; d += 8) {
        const __mmask8 mask = d + 8 <= work.dim ? static_cast<__mmask8>(0xFF) : last;
        sum = _mm256_fmadd_ps(_mm256_maskz_loadu_ps(mask, x + d),
                              _mm512_castps512_ps256(keys.load(j, d, mask)), sum);
      }
      const __m256 pairs = _mm256_hadd_ps(sum, sum);
      const __m256 fours = _mm256_hadd_ps(pairs, pairs);
      dst[j] = _mm_cvtss_f32(
                   _mm_add_ss(_mm256_castps256_ps128(fours), _mm256_extractf128_ps(fours, 1))) *
               work.scale;
    }
  }
}

template <typename Rows>
void score(const Scores& work, const Rows& keys, std::size_t num_keys) {
  constexpr std::size_t kMany = 4;
  if (work.a_rows >= kMany && num_keys >= kKeys / 2 && work.dim <= kMaxDim) {
    score_many(work, keys, num_keys);
  } else {
    score_few(work, keys, num_keys);
  }
}

void dot_rows(const float* a, std::size_t a_rows, std::size_t a_stride, const float* b,
              std::size_t b_rows, std::size_t b_stride, std::size_t dim, float scale, float* dst,
              std::size_t dst_stride) {
  score({a, a_rows, a_stride, dim, scale, dst, dst_stride}, FloatRows{b, b_stride}, b_rows);
}

void dot_stored(const float* a, std::size_t a_rows, std::size_t a_stride, const StoredKv& b,
                std::size_t b_rows, std::size_t dim, float scale, float* dst,
                std::size_t dst_stride) {
  with_rows(b, [&](const auto& keys) {
    score({a, a_rows, a_stride, dim, scale, dst, dst_stride}, keys, b_rows);
  });
}

void exp_shifted(float* row, std::size_t count, float shift) {
  const __m512 offset = _mm512_set1_ps(shift);
  for (std::size_t i = 0; i < count; i += kLanes) {
    const __mmask16 mask = lane_mask(count - i);
    const __m512 value = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, row + i), offset);
    _mm512_mask_storeu_ps(row + i, mask, exp_lanes(value));
  }
}

float exp_row(float* row, std::size_t count, float* max) {
  __m512 largest = _mm512_set1_ps(row[0]);
  for (std::size_t i = 0; i < count; i += kLanes) {
    const __mmask16 mask = lane_mask(count - i);
    largest = _mm512_mask_max_ps(largest, mask, largest, _mm512_maskz_loadu_ps(mask, row + i));
  }
  *max = _mm512_reduce_max_ps(largest);
  const __m512 offset = _mm512_set1_ps(*max);
  __m256 sum = _mm256_setzero_ps();
  for (std::size_t i = 0; i < count; i += kLanes) {
    const __mmask16 mask = lane_mask(count - i);
    const __m512 value = _mm512_maskz_mov_ps(
        mask, exp_lanes(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, row + i), offset)));
    _mm512_mask_storeu_ps(row + i, mask, value);
    sum = _mm256_add_ps(sum, _mm512_castps512_ps256(value));
    sum = _mm256_add_ps(sum, _mm512_extractf32x8_ps(value, 1));
  }
  const __m256 pairs = _mm256_hadd_ps(sum, sum);
  const __m256 fours = _mm256_hadd_ps(pairs, pairs);
  return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(fours), _mm256_extractf128_ps(fours, 1)));
}

std::size_t terms(const WeighRows& work, std::size_t row) {
  return work.first_count + row * work.count_step;
}

// Adds to kRows rows from row on, columns d .. d + 16 kVectors - 1 (the last vector masked), terms
// begin .. end - 1.
template <int kRows, int kVectors, typename Rows>
void weigh_tile(const WeighRows& work, const Rows& values, std::size_t row, std::size_t d,
                __mmask16 mask, std::size_t begin, std::size_t end) {
  const std::size_t step = work.column_stride;
  const float* weights = work.weights + row * work.row_stride;
  float* out = work.out + row * work.out_stride + d;
  __m512 sum[kRows][kVectors];
  const auto mask_of = [&](int v) __attribute__((always_inline)) {
    return v == kVectors - 1 ? mask : static_cast<__mmask16>(0xFFFF);
  };
  const auto load = [&](std::size_t j, int v) __attribute__((always_inline)) {
    return values.load(j, d + static_cast<std::size_t>(v) * kLanes, mask_of(v));
  };
  unrolled<kRows>(QALOF_UNROLLED(r) {
    const float* at = out + static_cast<std::size_t>(r) * work.out_stride;
    unrolled<kVectors>(
        QALOF_UNROLLED(v) { sum[r][v] = _mm512_maskz_loadu_ps(mask_of(v), at + v * 16); });
  });
  const std::size_t common = smaller(end, terms(work, row));
  for (std::size_t j = begin; j < common; ++j) {
    __m512 value[kVectors];
    unrolled<kVectors>(QALOF_UNROLLED(v) { value[v] = load(j, v); });
    unrolled<kRows>(QALOF_UNROLLED(r) {
      const __m512 weight =
          _mm512_set1_ps(weights[static_cast<std::size_t>(r) * work.row_stride + j * step]);
      unrolled<kVectors>(
          QALOF_UNROLLED(v) { sum[r][v] = _mm512_fmadd_ps(weight, value[v], sum[r][v]); });
    });
  }
  // Terms that only later rows have.
  unrolled<kRows>(QALOF_UNROLLED(r) {
    const auto at = static_cast<std::size_t>(r);
    const std::size_t last = smaller(end, terms(work, row + at));
    for (std::size_t j = common > begin ? common : begin; j < last; ++j) {
      const __m512 weight = _mm512_set1_ps(weights[at * work.row_stride + j * step]);
      unrolled<kVectors>(
          QALOF_UNROLLED(v) { sum[r][v] = _mm512_fmadd_ps(weight, load(j, v), sum[r][v]); });
    }
    unrolled<kVectors>(QALOF_UNROLLED(v) {
      _mm512_mask_storeu_ps(out + at * work.out_stride + v * 16, mask_of(v), sum[r][v]);
    });
  });
}

template <int kRows, typename Rows>
void weigh_columns(const WeighRows& work, const Rows& values, std::size_t row, std::size_t begin,
                   std::size_t end) {
  std::size_t d = 0;
  for (; work.dim - d >= 64; d += 64)
    weigh_tile<kRows, 4>(work, values, row, d, 0xFFFF, begin, end);
  for (; d < work.dim; d += kLanes)
    weigh_tile<kRows, 1>(work, values, row, d, lane_mask(work.dim - d), begin, end);
}

template <typename Rows>
void weigh_terms(const WeighRows& work, const Rows& values, std::size_t begin, std::size_t end) {
  // Tiles of nearly equal height: eight rows are faster as 4 + 4 than as 6 + 1 + 1.
  const std::size_t tiles = (work.rows + 5) / 6;
  for (std::size_t tile = 0; tile < tiles; ++tile) {
    const std::size_t row = work.rows * tile / tiles;
    switch (work.rows * (tile + 1) / tiles - row) {
      case 1:
        weigh_columns<1>(work, values, row, begin, end);
        break;
      case 2:
        weigh_columns<2>(work, values, row, begin, end);
        break;
      case 3:
        weigh_columns<3>(work, values, row, begin, end);
        break;
      case 4:
        weigh_columns<4>(work, values, row, begin, end);
        break;
      case 5:
        weigh_columns<5>(work, values, row, begin, end);
        break;
      default:
        weigh_columns<6>(work, values, row, begin, end);
        break;
    }
  }
}

template <typename Rows>
void weigh(const WeighRows& work, const Rows& values) {
  constexpr std::size_t kMany = 6;
  const std::size_t longest = work.rows == 0 ? 0 : terms(work, work.rows - 1);
  if (work.rows < kMany || work.dim > kMaxDim) return weigh_terms(work, values, 0, longest);
  alignas(64) float copied[kCopiedFloats];
  const std::size_t length = kCopiedFloats / work.dim;
  for (std::size_t begin = 0; begin < longest; begin += length) {
    const std::size_t count = smaller(length, longest - begin);
    copy_rows(values, begin, count, work.dim, copied);
    weigh_terms(work, CopiedRows{copied, work.dim, begin}, begin, begin + count);
  }
}

void weigh_rows(const WeighRows& work) { weigh(work, FloatRows{work.v, work.v_stride}); }

void weigh_stored(const WeighRows& work, const StoredKv& values) {
  with_rows(values, [&](const auto& rows) { weigh(work, rows); });
}

void divide(float* row, std::size_t count, float divisor) {
  const __m512 by = _mm512_set1_ps(divisor);
  for (std::size_t i = 0; i < count; i += kLanes) {
    const __mmask16 mask = lane_mask(count - i);
    _mm512_mask_storeu_ps(row + i, mask, _mm512_div_ps(_mm512_maskz_loadu_ps(mask, row + i), by));
  }
}

void softmax_dx(const float* p, std::size_t count, float shift, float scale, float* ds) {
  const __m512 offset = _mm512_set1_ps(shift);
  const __m512 factor = _mm512_set1_ps(scale);
  for (std::size_t i = 0; i < count; i += kLanes) {
    const __mmask16 mask = lane_mask(count - i);
    const __m512 weight = _mm512_mul_ps(factor, _mm512_maskz_loadu_ps(mask, p + i));
    const __m512 shifted = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, ds + i), offset);
    _mm512_mask_storeu_ps(ds + i, mask, _mm512_mul_ps(weight, shifted));
  }
}

}  // namespace

void set_avx512_attention(KernelTable& table) {
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
