// Codes and LSQ gradients for learned steps and clip factors, in plain loops that the compiler
// vectorizes.
#include "kernels/learned_quantizer.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/gemm.h"
#include "kernels/kernel_table.h"
#include "kernels/parallel.h"
#include "kernels/quantize.h"

namespace qalof::kernels {

namespace {

constexpr std::size_t kLanes = 16;

// rint for |value| < 2^22, ties to even; unlike the C library's it is vectorized.
float round_small(float value) {
  constexpr float kShift = 0x1.8p23F;
  return (value + kShift) - kShift;
}

// The grid of elements that share a step: v = x / step is rounded and limited to low..high.
struct Cell {
  float step, zero, low, high;

  Cell(const StepGrid& grid, std::size_t at)
      : step(grid.steps[at]),
        zero(grid.zeros == nullptr ? 0.0F : static_cast<float>(grid.zeros[at])) {
    const auto top = static_cast<float>(level_count(grid.bits));
    const float bottom = grid.zeros == nullptr ? -top : std::max(-top - 1.0F, -127.0F);
    low = bottom - zero;
    high = top - zero;
  }
  float inside(float v) const { return std::min(std::max(v, low), high); }
};

template <typename Body>
void for_cells(std::size_t rows, std::size_t cols, std::size_t group, ParallelFor& parallel,
               const Body& body) {
  const std::size_t groups = num_groups(cols, group), length = group == 0 ? cols : group;
  for_ranges(parallel, rows, rows_per_piece(cols), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      for (std::size_t g = 0; g < groups; ++g)
        body(row * groups + g, row * cols + g * length, std::min(length, cols - g * length));
    }
  });
}

// Sums term(i) over i, in a fixed order of lanes.
template <typename Term>
float sum_lanes(std::size_t count, const Term& term) {
  float sums[kLanes] = {};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) sums[lane] += term(i + lane);
  }
  for (std::size_t lane = 0; i < count; ++i, ++lane) sums[lane] += term(i);
  float total = 0.0F;
  for (const float sum : sums) total += sum;
  return total;
}

float gradient_scale(std::size_t count, int bits) {
  return 1.0F / std::sqrt(static_cast<float>(count) * static_cast<float>(level_count(bits)));
}

}  // namespace

void quantize_with_steps(const float* src, std::size_t rows, std::size_t cols, const StepGrid& grid,
                         std::int8_t* codes, ParallelFor& parallel) {
  for_cells(rows, cols, grid.group, parallel,
            [&](std::size_t at, std::size_t first, std::size_t count) {
              const Cell cell(grid, at);
              const float* x = src + first;
              std::int8_t* q = codes + first;
              if (cell.step == 0.0F) {
                std::fill_n(q, count, static_cast<std::int8_t>(cell.zero));
                return;
              }
              for (std::size_t i = 0; i < count; ++i) {
                const float code = round_small(cell.inside(x[i] / cell.step)) + cell.zero;
                q[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(code));
              }
            });
}

void step_gradients(float* dw, const float* src, std::size_t rows, std::size_t cols,
                    const StepGrid& grid, float* dsteps, ParallelFor& parallel) {
  for_cells(rows, cols, grid.group, parallel,
            [&](std::size_t at, std::size_t first, std::size_t count) {
              const Cell cell(grid, at);
              const float* x = src + first;
              float* gradient = dw + first;
              if (cell.step == 0.0F) {
                dsteps[at] = 0.0F;
                return;
              }
              // Inside the grid, d value / d step = rint(v) - v; outside it is the nearest bound.
              const float sum = sum_lanes(count, [&](std::size_t i) {
                const float v = x[i] / cell.step, bounded = cell.inside(v);
                const float passed = bounded == v ? 1.0F : 0.0F;
                const float term = gradient[i] * (round_small(bounded) - passed * bounded);
                gradient[i] *= passed;
                return term;
              });
              dsteps[at] = sum * gradient_scale(count, grid.bits);
            });
}

double clip_gradient(const float* x, std::size_t rows, std::size_t cols, int bits,
                     const RowRange& range, float* dx, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  const std::size_t groups = num_groups(cols, range.group);
  const std::size_t length = range.group == 0 ? cols : range.group;
  std::vector<double> row_sums(rows);
  for_ranges(parallel, rows, rows_per_piece(cols), [&](std::size_t begin, std::size_t end) {
    std::vector<std::int8_t> codes(cols);
    std::vector<float> scales(groups);
    for (std::size_t row = begin; row < end; ++row) {
      quantize_row(table, x + row * cols, cols, bits, range, codes.data(), scales.data());
      for (std::size_t g = 0; g < groups; ++g) {
        const std::size_t first = g * length, count = std::min(length, cols - first);
        const float* values = x + row * cols + first;
        const std::int8_t* q = codes.data() + first;
        float* gradient = dx + row * cols + first;
        float low = 0.0F, high = 0.0F;
        if (range.asymmetric && bits < 8) {
          table.min_max(values, count, &low, &high);
        } else {
          high = table.max_abs(values, count);
          low = -high;
        }
        low *= range.clip;
        high *= range.clip;
        // Inside the range, d value / d clip = (code - v) * scale / clip; outside it is the bound /
        // clip.
        const float sum = sum_lanes(count, [&](std::size_t i) {
          const float value = values[i];
          const float passed = value >= low && value <= high ? 1.0F : 0.0F;
          const float term = gradient[i] * (static_cast<float>(q[i]) * scales[g] - passed * value);
          gradient[i] *= passed;
          return term;
        });
        row_sums[row] += static_cast<double>(sum * gradient_scale(count, bits) / range.clip);
      }
    }
  });
  double total = 0;
  for (const double sum : row_sums) total += sum;
  return total;
}

}  // namespace qalof::kernels
