// Quantizers whose values are learned: codes of weights with given steps, and the gradients of
// steps and of activations' clip factors (docs/numerics.md, "Learned steps" and "Learned clips",
// after LSQ, Esser et al. 2020). One code path and one order of sums for every instruction set and
// number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/threads.h"
#include "kernels/quantize.h"

namespace qalof::kernels {

/// What weights [rows, cols] are quantized with: real = (code - zero) * step.
struct StepGrid {
  int bits = 8;                        // 2..8
  std::size_t group = 0;               // inputs that share a step; 0: the row
  const float* steps = nullptr;        // [rows, num_groups(cols, group)], finite and >= 0
  const std::int8_t* zeros = nullptr;  // the same shape, or null: all 0 and codes -L..L
};

/// codes [rows, cols]; a group whose step is 0 has codes zero. src is finite.
void quantize_with_steps(const float* src, std::size_t rows, std::size_t cols, const StepGrid& grid,
                         std::int8_t* codes, ParallelFor& parallel);

/// Given dw [rows, cols], the gradient of the reals: dsteps [rows, num_groups(cols, group)] that of
/// the steps with LSQ's gradient scale, and dw becomes that of src: 0 outside the grid.
void step_gradients(float* dw, const float* src, std::size_t rows, std::size_t cols,
                    const StepGrid& grid, float* dsteps, ParallelFor& parallel);

/// Given dx [rows, cols], the gradient of the reals that quantize_rows makes of x: returns that of
/// range.clip, with LSQ's gradient scale, and dx becomes that of x: 0 outside the clipped range.
double clip_gradient(const float* x, std::size_t rows, std::size_t cols, int bits,
                     const RowRange& range, float* dx, ParallelFor& parallel);

}  // namespace qalof::kernels
