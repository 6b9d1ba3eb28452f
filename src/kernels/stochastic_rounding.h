// Quantizes gradients to 8 bits by stochastic rounding, which is unbiased, so that small gradients
// are not lost on average (docs/numerics.md, "Backward in 8 bits").
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/threads.h"

namespace qalof::kernels {

/// codes [rows, cols] and scales [rows] of g = src * column_scales (null: 1):
///   scale = max|g| / 127,  code = floor(g / scale + u),  u uniform in [0, 1)
/// u is a hash of key, row and column, so that a call gives equal codes for any number of threads
/// and instruction set. src must be finite. A row of zeros has scale 0.
void quantize_rows_stochastic(const float* src, std::size_t rows, std::size_t cols,
                              const float* column_scales, std::uint32_t key, std::int8_t* codes,
                              float* scales, ParallelFor& parallel);

}  // namespace qalof::kernels
