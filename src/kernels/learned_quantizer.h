// Quantizers with learned parameters: codes of weights for given steps, and the gradients of steps
// and of the clip factors of activations (docs/numerics.md, "Learned steps" and "Learned clips",
// after LSQ, Esser et al. 2020). One code path and one order of sums for every instruction set and
// number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/threads.h"
#include "kernels/quantize.h"

namespace qalof::kernels {

/// The grid of weights [rows, cols]: value = (code - zero) * step.
struct StepGrid {
  int bits = 8;                        // 2..8
  std::size_t group = 0;               // inputs that share a step; 0: the row
  const float* steps = nullptr;        // [rows, num_groups(cols, group)], finite and >= 0
  const std::int8_t* zeros = nullptr;  // shape of steps, or null: all 0 and codes -L..L
};

/// codes [rows, cols]; a group whose step is 0 has codes zero. src is finite.
void quantize_with_steps(const float* src, std::size_t rows, std::size_t cols, const StepGrid& grid,
                         std::int8_t* codes, ParallelFor& parallel);

/// Given dw [rows, cols], the gradient of the dequantized weights, computes the gradient of the
/// steps, with LSQ's gradient scale, into dsteps [rows, num_groups(cols, group)], and turns dw into
/// the gradient of src: 0 outside the grid.
void step_gradients(float* dw, const float* src, std::size_t rows, std::size_t cols,
                    const StepGrid& grid, float* dsteps, ParallelFor& parallel);

/// Given dx [rows, cols], the gradient of the dequantized values of quantize_rows(x), returns the
/// gradient of range.clip, with LSQ's gradient scale, and turns dx into the gradient of x: 0
/// outside the clipped range.
double clip_gradient(const float* x, std::size_t rows, std::size_t cols, int bits,
                     const RowRange& range, float* dx, ParallelFor& parallel);

}  // namespace qalof::kernels
