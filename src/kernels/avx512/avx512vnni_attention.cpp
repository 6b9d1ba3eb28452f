// AVX-512 VNNI: attention on the codes of K and V. Queries and weights become integers of 24 bits,
// three digits of a byte each (docs/numerics.md, "Attention"). Integer sums are exact, so a row has
// the same bits whatever rows and keys are beside it.
#if defined(__x86_64__)
#include "kernels/avx512/avx512_math.h"
#include "kernels/avx512/avx512_transpose.h"
#include "kernels/kernel_table.h"
#include "kernels/unroll.h"

namespace qalof::kernels {

namespace {

// A dword holds four codes: neighbouring elements of a key, or an element of neighbouring keys.
constexpr std::size_t kFour = 4, kBytes = 64;
constexpr int kDigits = kCodeDigits;

std::size_t smaller(std::size_t a, std::size_t b) { return a < b ? a : b; }
std::size_t whole_vectors(std::size_t bytes) { return (bytes + kBytes - 1) / kBytes * kBytes; }

// Codes d .. d + 63 of a row as bytes; zeros beyond dim.
struct ByteCodes {
  static __m512i load(const std::uint8_t* row, std::size_t d, std::size_t dim) {
    const std::size_t left = dim - d;
    const __mmask64 mask = left < kBytes ? (std::uint64_t{1} << left) - 1U : ~std::uint64_t{0};
    return _mm512_maskz_loadu_epi8(mask, row + d);
  }
};
struct NibbleCodes {
  static __m512i load(const std::uint8_t* row, std::size_t d, std::size_t dim) {
    const std::size_t left = dim - d, bytes = (left + 1) / 2;
    const auto mask = static_cast<__mmask32>(bytes < kBytes / 2 ? (std::uint32_t{1} << bytes) - 1U
                                                                : ~std::uint32_t{0});
    const __m512i words = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, row + d / 2));
    const __m512i low = _mm512_and_si512(words, _mm512_set1_epi16(0x0F));
    const __m512i high = _mm512_and_si512(_mm512_slli_epi16(words, 4), _mm512_set1_epi16(0x0F00));
    const __m512i codes = _mm512_sub_epi8(_mm512_or_si512(low, high), _mm512_set1_epi8(8));
    const __mmask64 real = left < kBytes ? (std::uint64_t{1} << left) - 1U : ~std::uint64_t{0};
    return _mm512_maskz_mov_epi8(real, codes);
  }
};

template <typename Body>
void with_codes(const StoredKv& stored, const Body& body) {
  if (stored.format == KvFormat::kInt4) return body(NibbleCodes{});
  return body(ByteCodes{});
}

const std::uint8_t* row_at(const StoredKv& stored, std::size_t row) {
  return static_cast<const std::uint8_t*>(stored.rows) + row * stored.row_bytes;
}

// Sixteen keys from j on, as panel[four elements][key] of code + 128; any bytes for keys from count
// on.
template <typename Codes>
void turn_codes(const Codes&, const StoredKv& keys, std::size_t j, std::size_t count,
                std::size_t dim, float* panel) {
  const __m512i offset = _mm512_set1_epi8(-128);
  for (std::size_t d = 0; d < dim; d += kBytes) {
    __m512 rows[16];
    const auto load = [&](std::size_t key) __attribute__((always_inline)) {
      return _mm512_castsi512_ps(
          _mm512_xor_si512(Codes::load(row_at(keys, j + key), d, dim), offset));
    };
    if (count >= kLanes) {
      unrolled<16>(QALOF_UNROLLED(i) { rows[i] = load(static_cast<std::size_t>(i)); });
    } else {
      for (std::size_t i = 0; i < kLanes; ++i) rows[i] = i < count ? load(i) : _mm512_setzero_ps();
    }
    transpose(rows, panel + d / kFour * kLanes);
  }
}

// The larger of |a| and |b| in every lane; of NaN and a number, NaN.
__m512 larger_size(__m512 a, __m512 b) {
  const auto size = [](__m512 x) {
    return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7FFFFFFF));
  };
  return _mm512_castsi512_ps(_mm512_max_epu32(size(a), size(b)));
}
float largest_of(__m512 sizes) {
  const std::uint32_t bits = _mm512_reduce_max_epu32(_mm512_castps_si512(sizes));
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}
// What takes numbers up to a size to integers up to most; numbers too small for it become 0.
float multiplier_for(float largest, float most) { return largest > 1e-30F ? most / largest : 0.0F; }

// Of digits -128 .. 127, three reach 127 (1 + 256 + 65536) = 8355711; a little less, because the
// product with the multiplier is rounded.
constexpr float kMostQuery = 8355700.0F;

CodeQuery round_query(const float* x, std::size_t dim, std::int8_t* dst) {
  const auto load = [&](std::size_t at) {
    return _mm512_maskz_loadu_ps(lane_mask(dim > at ? dim - at : 0), x + at);
  };
  const std::size_t plane = whole_vectors(dim);
  __m512 sizes = _mm512_setzero_ps();
  for (std::size_t d = 0; d < dim; d += kLanes) sizes = larger_size(sizes, load(d));
  const float largest = largest_of(sizes);
  const __m512 factor = _mm512_set1_ps(multiplier_for(largest, kMostQuery));
  __m512i sums[kDigits] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  for (std::size_t d = 0; d < plane; d += kLanes) {
    __m512i rest = _mm512_cvtps_epi32(_mm512_mul_ps(load(d), factor));
    for (int i = 0; i < kDigits; ++i) {
      const __m512i digit = _mm512_srai_epi32(_mm512_slli_epi32(rest, 24), 24);
      sums[i] = _mm512_add_epi32(sums[i], digit);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + static_cast<std::size_t>(i) * plane + d),
                       _mm512_cvtepi32_epi8(digit));
      rest = _mm512_srai_epi32(_mm512_sub_epi32(rest, digit), 8);
    }
  }
  CodeQuery query{largest / kMostQuery, {}};
  for (int i = 0; i < kDigits; ++i) query.starts[i] = -128 * _mm512_reduce_add_epi32(sums[i]);
  return query;
}

__m512i four_everywhere(const void* at) {
  int four;
  __builtin_memcpy(&four, at, sizeof(four));
  return _mm512_set1_epi32(four);
}

void keep_in_register([[maybe_unused]] __m512i& sum) {
#if defined(__AVX512VNNI__)  // else tests simulate the set
  asm volatile("" : "+v"(sum));
#endif
}

// The number of digits' sums. The lower two fit 32 bits together; the last step rounds once.
__m512 number_of(const __m512i (&digits)[kDigits]) {
  const __m512i low = _mm512_add_epi32(_mm512_slli_epi32(digits[1], 8), digits[0]);
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(digits[2]), _mm512_set1_ps(65536.0F),
                         _mm512_cvtepi32_ps(low));
}

// kRows queries and two panels of sixteen keys.
template <int kRows>
void score_tile(const CodeScores& work, std::size_t row, std::size_t key, const float* panels,
                std::size_t panel_size) {
  __m512i sum[kRows][2][kDigits];
  unrolled<kRows>(QALOF_UNROLLED(r) {
    const CodeQuery& query = work.scales[row + static_cast<std::size_t>(r)];
    unrolled<kDigits>(QALOF_UNROLLED(i) {
      unrolled<2>(QALOF_UNROLLED(p) { sum[r][p][i] = _mm512_set1_epi32(query.starts[i]); });
    });
  });
  const std::int8_t* x = work.queries + row * work.query_stride;
  const std::size_t plane = whole_vectors(work.dim), fours = (work.dim + kFour - 1) / kFour;
  for (std::size_t d = 0; d < fours; ++d) {
    __m512i keys[2];
    unrolled<2>(QALOF_UNROLLED(p) {
      keys[p] = _mm512_loadu_si512(panels + static_cast<std::size_t>(p) * panel_size + d * kLanes);
    });
    unrolled<kRows>(QALOF_UNROLLED(r) {
      unrolled<kDigits>(QALOF_UNROLLED(i) {
        const __m512i value = four_everywhere(x + static_cast<std::size_t>(r) * work.query_stride +
                                              static_cast<std::size_t>(i) * plane + d * kFour);
        unrolled<2>(QALOF_UNROLLED(p) {
          sum[r][p][i] = _mm512_dpbusd_epi32(sum[r][p][i], keys[p], value);
          keep_in_register(sum[r][p][i]);
        });
      });
    });
  }
  unrolled<2>(QALOF_UNROLLED(p) {
    const std::size_t at = key + static_cast<std::size_t>(p) * kLanes;
    const __m512 factors =
        _mm512_mul_ps(_mm512_maskz_loadu_ps(lane_mask(work.num_keys > at ? work.num_keys - at : 0),
                                            work.keys.scales + at),
                      _mm512_set1_ps(work.scale));
    unrolled<kRows>(QALOF_UNROLLED(r) {
      const std::size_t to = row + static_cast<std::size_t>(r);
      const __m512 scores = _mm512_mul_ps(number_of(sum[r][p]), factors);
      _mm512_storeu_ps(work.scores + to * work.score_stride + at,
                       _mm512_mul_ps(scores, _mm512_set1_ps(work.scales[to].scale)));
    });
  });
}

template <int kRows>
struct Height {};

// Calls tile(Height<h>, row) for tiles of h rows, at most kMost, that cover begin .. end - 1.
template <int kMost, typename Tile>
void for_tiles(std::size_t begin, std::size_t end, const Tile& tile) {
  static_assert(kMost <= 4);
  if (begin >= end) return;
  // Of nearly equal height: five rows are faster as 3 + 2 than as 4 + 1.
  const std::size_t rows = end - begin, tiles = (rows + kMost - 1) / kMost;
  for (std::size_t i = 0; i < tiles; ++i) {
    const std::size_t row = begin + rows * i / tiles;
    const std::size_t height = begin + rows * (i + 1) / tiles - row;
    if (height == 1) tile(Height<1>{}, row);
    if (height == 2) tile(Height<2>{}, row);
    if constexpr (kMost > 2) {
      if (height == 3) tile(Height<3>{}, row);
      if (height == 4) tile(Height<4>{}, row);
    }
  }
}

void score_codes(const CodeScores& work) {
  constexpr std::size_t kMostPanel = kMostCodeDim / kFour * kLanes;
  alignas(64) float panels[2 * kMostPanel];
  const std::size_t panel_size = whole_vectors(work.dim) / kFour * kLanes;
  with_codes(work.keys, [&](const auto& codes) {
    for (std::size_t j = 0; j < work.num_keys; j += 2 * kLanes) {
      const std::size_t count = work.num_keys - j;
      turn_codes(codes, work.keys, j, count, work.dim, panels);
      const std::size_t more = count > kLanes ? count - kLanes : 0;
      turn_codes(codes, work.keys, j + kLanes, more, work.dim, panels + panel_size);
      // Rows before this one see none of these keys.
      const std::size_t row = j < work.seen ? 0 : (j - work.seen) * work.rows_per_key;
      for_tiles<4>(row, work.rows, [&]<int kRows>(Height<kRows>, std::size_t at) {
        score_tile<kRows>(work, at, j, panels, panel_size);
      });
    }
  });
}

float round_weights(const float* row, std::size_t count, std::size_t end, const float* scales,
                    std::uint8_t* dst, std::size_t plane) {
  // Below 2^24 by more than the product rounds.
  constexpr float kMost = 16777200.0F;
  const auto load = [&](std::size_t i) {
    const __mmask16 mask = lane_mask(count > i ? count - i : 0);
    return _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, row + i),
                         _mm512_maskz_loadu_ps(mask, scales + i));
  };
  __m512 sizes = _mm512_setzero_ps();
  for (std::size_t i = 0; i < count; i += kLanes) sizes = larger_size(sizes, load(i));
  const float largest = largest_of(sizes);
  const __m512 factor = _mm512_set1_ps(multiplier_for(largest, kMost));
  for (std::size_t i = 0; i < end; i += kLanes) {
    const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(load(i), factor));
    unrolled<kDigits>(QALOF_UNROLLED(digit) {
      std::uint8_t* at = dst + static_cast<std::size_t>(digit) * plane + i;
      _mm_storeu_si128(
          reinterpret_cast<__m128i*>(at),
          _mm512_cvtepi32_epi8(_mm512_srli_epi32(whole, static_cast<unsigned>(8 * digit))));
    });
  }
  return largest / kMost;
}

// Values of four neighbouring keys, as panel[four keys][d]; zeros for keys from count on.
template <typename Codes>
void weave_codes(const Codes&, const StoredKv& values, std::size_t j, std::size_t count,
                 std::size_t dim, float* panel, std::size_t stride) {
  for (std::size_t key = 0; key < count; key += kFour) {
    for (std::size_t d = 0; d < dim; d += kBytes) {
      __m512i rows[kFour];
      for (std::size_t i = 0; i < kFour; ++i) {
        rows[i] = key + i < count ? Codes::load(row_at(values, j + key + i), d, dim)
                                  : _mm512_setzero_si512();
      }
      const __m512i low01 = _mm512_unpacklo_epi8(rows[0], rows[1]);
      const __m512i high01 = _mm512_unpackhi_epi8(rows[0], rows[1]);
      const __m512i low23 = _mm512_unpacklo_epi8(rows[2], rows[3]);
      const __m512i high23 = _mm512_unpackhi_epi8(rows[2], rows[3]);
      // Quarter q of part i: elements 16 q + 4 i .. + 3.
      const __m512i parts[4] = {
          _mm512_unpacklo_epi16(low01, low23), _mm512_unpackhi_epi16(low01, low23),
          _mm512_unpacklo_epi16(high01, high23), _mm512_unpackhi_epi16(high01, high23)};
      const __m512i a = _mm512_shuffle_i32x4(parts[0], parts[1], 0x44);
      const __m512i b = _mm512_shuffle_i32x4(parts[2], parts[3], 0x44);
      const __m512i c = _mm512_shuffle_i32x4(parts[0], parts[1], 0xEE);
      const __m512i e = _mm512_shuffle_i32x4(parts[2], parts[3], 0xEE);
      float* to = panel + key / kFour * stride + d;
      _mm512_storeu_si512(to, _mm512_shuffle_i32x4(a, b, 0x88));
      _mm512_storeu_si512(to + 16, _mm512_shuffle_i32x4(a, b, 0xDD));
      _mm512_storeu_si512(to + 32, _mm512_shuffle_i32x4(c, e, 0x88));
      _mm512_storeu_si512(to + 48, _mm512_shuffle_i32x4(c, e, 0xDD));
    }
  }
}

// Keys whose values stay in the first-level cache while all rows use them.
struct KeyRange {
  std::size_t begin, end;
  const float* panel;
  std::size_t stride;
};

// Adds the keys of a range to kRows rows, columns d .. d + 63.
template <int kRows>
void weigh_tile(const CodeWeights& work, std::size_t row, std::size_t d, const KeyRange& range) {
  constexpr int kVectors = 4;
  const std::size_t end = smaller(range.end, work.seen + (row + kRows - 1) / work.rows_per_key + 1);
  if (end <= range.begin) return;
  __m512i sum[kRows][kVectors][kDigits];
  unrolled<kRows>(QALOF_UNROLLED(r) {
    unrolled<kVectors>(QALOF_UNROLLED(v) {
      unrolled<kDigits>(QALOF_UNROLLED(i) { sum[r][v][i] = _mm512_setzero_si512(); });
    });
  });
  const std::uint8_t* weights = work.weights + row * work.weight_stride + range.begin;
  const float* values = range.panel + d;
  const std::size_t fours = (end - range.begin + kFour - 1) / kFour;
  for (std::size_t j = 0; j < fours; ++j, values += range.stride, weights += kFour) {
    __m512i value[kVectors];
    unrolled<kVectors>(QALOF_UNROLLED(v) {
      value[v] = _mm512_loadu_si512(values + static_cast<std::size_t>(v) * kLanes);
    });
    unrolled<kRows>(QALOF_UNROLLED(r) {
      unrolled<kDigits>(QALOF_UNROLLED(i) {
        const __m512i weight =
            four_everywhere(weights + static_cast<std::size_t>(r) * work.weight_stride +
                            static_cast<std::size_t>(i) * work.plane);
        unrolled<kVectors>(QALOF_UNROLLED(v) {
          sum[r][v][i] = _mm512_dpbusd_epi32(sum[r][v][i], weight, value[v]);
          keep_in_register(sum[r][v][i]);
        });
      });
    });
  }
  unrolled<kRows>(QALOF_UNROLLED(r) {
    const std::size_t at = row + static_cast<std::size_t>(r);
    const __m512 unit = _mm512_set1_ps(work.units[at]);
    unrolled<kVectors>(QALOF_UNROLLED(v) {
      const std::size_t column = d + static_cast<std::size_t>(v) * kLanes;
      const __mmask16 mask = lane_mask(work.dim > column ? work.dim - column : 0);
      const __m512 part = _mm512_mul_ps(number_of(sum[r][v]), unit);
      float* out = work.out[at] + column;
      const __m512 total =
          range.begin == 0 ? part : _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), part);
      _mm512_mask_storeu_ps(out, mask, total);
    });
  });
}

void weigh_codes(const CodeWeights& work) {
  // The sums of the lower two digits fit 32 bits up to 259 keys.
  constexpr std::size_t kKeys = 128;
  alignas(64) float panel[kKeys / kFour * kMostCodeDim];
  const std::size_t stride = whole_vectors(work.dim);
  with_codes(work.values, [&](const auto& codes) {
    KeyRange range = {0, 0, panel, stride};
    for (; range.begin < work.num_keys; range.begin = range.end) {
      range.end = smaller(range.begin + kKeys, work.num_keys);
      weave_codes(codes, work.values, range.begin, range.end - range.begin, work.dim, panel,
                  stride);
      for_tiles<2>(0, work.rows, [&]<int kRows>(Height<kRows>, std::size_t row) {
        for (std::size_t d = 0; d < work.dim; d += kBytes) weigh_tile<kRows>(work, row, d, range);
      });
    }
  });
}

}  // namespace

void set_avx512vnni_attention(KernelTable& table) {
  table.round_query = round_query;
  table.score_codes = score_codes;
  table.round_weights = round_weights;
  table.weigh_codes = weigh_codes;
}

}  // namespace qalof::kernels
#endif
