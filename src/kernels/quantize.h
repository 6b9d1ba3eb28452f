// The one quantizer: codes, scales and zero points of every scheme (docs/numerics.md, "Scheme
// minmax" and "Group schemes"). scheme `minmax` is symmetric min-max:
//
//   L = 2^(bits-1) - 1,  s = L * (1 / (max|x| + 1e-6)),  q = rint(x * s),  scale = 1 / (s + 1e-6),
//   value = q * scale
//
// all in f32, rint rounding ties to even. Everything that needs codes calls these functions:
// training's fake quantization, the packed file and the integer GEMM.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/threads.h"

namespace qalof::kernels {

/// Codes of a symmetric grid lie in -level_count..level_count.
constexpr int level_count(int bits) { return (1 << (bits - 1)) - 1; }

/// Scale and multiplier of a row, from its max|x|.
struct RowScale {
  float multiplier;  // s: code = rint(x * multiplier)
  float scale;       // value = code * scale
};
/// bits in 2..8; max_abs finite and >= 0.
RowScale seed_row_scale(float max_abs, int bits);

/// Quantizes each row of src [rows, cols] to codes [rows, cols] in -L..L and scales [rows]. bits in
/// 2..8. src must be finite (public callers check). Bit-equal on every ISA.
void quantize_rows(const float* src, std::size_t rows, std::size_t cols, int bits,
                   std::int8_t* codes, float* scales, ParallelFor& parallel);

/// Which elements of a row of activations share a range, and how codes cover that range
/// (docs/numerics.md, "Activations"). The default is scheme `minmax`.
struct RowRange {
  std::size_t group = 0;  // elements per range, the last group may be shorter; 0: whole row
  bool asymmetric = false;
  float clip = 1.0F;  // factor on the range, in (0, 1]
};
/// quantize_rows with a range; scales [rows, num_groups(cols, range.group)]. Codes are relative to
/// the code of 0, so that value = code * scale in every case, and lie in -127..127.
void quantize_rows(const float* src, std::size_t rows, std::size_t cols, int bits,
                   const RowRange& range, std::int8_t* codes, float* scales, ParallelFor& parallel);

/// dst[row, col] = codes[row, col] * scales[row].
void dequantize_rows(const std::int8_t* codes, const float* scales, std::size_t rows,
                     std::size_t cols, float* dst, ParallelFor& parallel);

/// Group schemes, for weights: every `group` elements of a row (the last group may be shorter)
/// share a scale that is representable in bfloat16 and, if asymmetric, a zero point. src [rows,
/// cols] is finite, codes [rows, cols], scales and zeros [rows, num_groups(cols, group)], zeros
/// null unless asymmetric. bits in 2..8, group > 0. One code path for every ISA, so bit-equal.
void quantize_groups(const float* src, std::size_t rows, std::size_t cols, int bits,
                     std::size_t group, std::int8_t* codes, float* scales, std::int8_t* zeros,
                     ParallelFor& parallel);
/// quantize_rows in scheme minmax, and quantize_groups, with a searched range: of 100 candidates
/// between the whole range and a fifth of it, the one whose dequantized values have the least sum
/// of squared errors (docs/numerics.md, "Clip search").
void quantize_rows_least_error(const float* src, std::size_t rows, std::size_t cols, int bits,
                               std::int8_t* codes, float* scales, ParallelFor& parallel);
void quantize_groups_least_error(const float* src, std::size_t rows, std::size_t cols, int bits,
                                 std::size_t group, std::int8_t* codes, float* scales,
                                 std::int8_t* zeros, ParallelFor& parallel);
/// Nested codes, for weights: codes of 8 bits in -127..119 (symmetric: -119..119) of which
/// nested_high gives 4-bit codes with 16 times the scale and a sixteenth of the zero
/// (docs/numerics.md, "Nested codes"). group 0: one scale per row, no zeros. Otherwise as
/// quantize_groups; zeros are multiples of 16.
void quantize_nested(const float* src, std::size_t rows, std::size_t cols, std::size_t group,
                     std::int8_t* codes, float* scales, std::int8_t* zeros, ParallelFor& parallel);
/// The nearest multiple of 16, as -8..7, of a nested code; what remains is -8..7.
constexpr int nested_high(int code) { return (code + 8) >> 4; }
constexpr int nested_low(int code) { return code - 16 * nested_high(code); }
/// dst[row, col] = f32((code - zero) * scale) with the group's scale and zero (null: 0).
void dequantize_groups(const std::int8_t* codes, const float* scales, const std::int8_t* zeros,
                       std::size_t rows, std::size_t cols, std::size_t group, float* dst,
                       ParallelFor& parallel);

/// Quantizes and dequantizes K or V rows [rows, heads * head_dim], with the result that a cache
/// would give: each row has one range over all heads; head h has head_bits[h], which is 2..8 (codes
/// and multiplier of that width), 16 (rounded to bf16) or 32 (copied). src and dst may be the same,
/// and dst null where all heads are integers of which only codes are needed. codes, if not null,
/// receives [rows, heads * head_dim] (0 where bits > 8) and scales [rows, heads].
void fake_quantize_kv(const float* src, std::size_t rows, std::size_t heads, std::size_t head_dim,
                      const int* head_bits, float* dst, std::int8_t* codes, float* scales,
                      ParallelFor& parallel);

/// Rounds to bfloat16 (nearest, ties to even), stored as f32. src and dst may be the same.
void round_to_bf16(const float* src, std::size_t count, float* dst, ParallelFor& parallel);

/// Bit-packed storage of codes: 2..4 bits take a nibble (code + 8, low nibble = even index), 5..8
/// bits take a byte.
std::size_t packed_code_bytes(std::size_t count, int bits);
void pack_code_bits(const std::int8_t* codes, std::size_t count, int bits, std::uint8_t* dst);
/// False where a stored code lies outside -L..L for bits.
bool unpack_code_bits(const std::uint8_t* src, std::size_t count, int bits, std::int8_t* codes);

}  // namespace qalof::kernels
