// Weights as codes of a table: 4-bit NF4 and FP4 in blocks of 64 with an f32 scale, and the 8-bit
// dynamic map in which such scales can be stored (docs/numerics.md, "Codebook schemes"). Codes,
// scales and dequantized values equal those of bitsandbytes.
//
// One code path for every instruction set, so results are bit-equal. Not for products: float
// kernels multiply the dequantized values.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/threads.h"

namespace qalof::kernels {

enum class Codebook { kNf4, kFp4 };

inline constexpr std::size_t kCodebookBlock = 64;
inline constexpr std::size_t kScaleBlock = 256;  // of the dynamic map

constexpr std::size_t codebook_blocks(std::size_t count) {
  return (count + kCodebookBlock - 1) / kCodebookBlock;
}
constexpr std::size_t scale_blocks(std::size_t blocks) {
  return (blocks + kScaleBlock - 1) / kScaleBlock;
}
/// Two codes a byte, the earlier one in the upper nibble.
constexpr std::size_t codebook_bytes(std::size_t count) { return (count + 1) / 2; }

/// The 16 values of a codebook, indexed by code.
const std::array<float, 16>& codebook_reals(Codebook codebook);

/// src [count] is finite and treated as one row: blocks do not end at the rows of a matrix. packed
/// holds codebook_bytes(count) bytes, scales (max|x| of each block) codebook_blocks(count).
void quantize_codebook(const float* src, std::size_t count, Codebook codebook, std::uint8_t* packed,
                       float* scales, ParallelFor& parallel);
/// dst[i] = f32(value of the code * scale of its block).
void dequantize_codebook(const std::uint8_t* packed, const float* scales, std::size_t count,
                         Codebook codebook, float* dst, ParallelFor& parallel);

/// Stores block scales in 8 bits: the mean is subtracted, the differences become codes of the
/// dynamic map with an f32 scale per kScaleBlock. codes [blocks], block_scales
/// [scale_blocks(blocks)]. Returns the mean, summed in f64.
float quantize_scales(const float* scales, std::size_t blocks, std::uint8_t* codes,
                      float* block_scales);
/// quantize_scales with a given mean.
void quantize_scales(const float* scales, std::size_t blocks, float mean, std::uint8_t* codes,
                     float* block_scales);
/// scales[i] = f32(f32(map[code] * block_scale) + mean).
void dequantize_scales(const std::uint8_t* codes, const float* block_scales, float mean,
                       std::size_t blocks, float* scales);

/// The 256 values of the signed dynamic map, ascending.
const std::array<float, 256>& dynamic_map();

/// Rows of src [rows, cols] as int8: scale = max|x|, code = rint(x * f32(127 / scale)), value =
/// f32(f32(code * scale) * f32(1 / 127)). stats [rows] receives the scales; a row of zeros has
/// codes 0. src is finite.
void quantize_vectorwise(const float* src, std::size_t rows, std::size_t cols, std::int8_t* codes,
                         float* stats, ParallelFor& parallel);

}  // namespace qalof::kernels
