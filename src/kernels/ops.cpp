// Drivers of the row operations: split rows over threads and call the instruction set's functions.
#include "kernels/ops.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/kernel_table.h"
#include "kernels/parallel.h"

namespace qalof::kernels {

namespace {

// Calls norm(row of x, row of dst, stats) for every row; with added, sum = x + added replaces x.
template <typename Norm>
void norm_rows(const float* x, const float* added, std::size_t rows, std::size_t cols, float* sum,
               float* dst, float* stats, ParallelFor& parallel, const Norm& norm) {
  const KernelTable& table = active_table();
  for_ranges(parallel, rows, rows_per_piece(cols), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      const std::size_t at = row * cols;
      const float* src = x + at;
      if (added != nullptr) {
        if (sum != x) std::copy_n(src, cols, sum + at);
        table.add(added + at, cols, sum + at);
        src = sum + at;
      }
      float own[2];
      norm(table, src, dst + at, stats == nullptr ? own : stats + row * 2);
    }
  });
}

// Calls gradient(row of dy, of x, stats, row of dx) for every row, then computes the parameters'
// gradients.
template <typename Gradient>
void norm_rows_backward(const float* dy, const float* src, const float* stats, std::size_t rows,
                        std::size_t cols, float* dx, float* dgamma, float* dbeta,
                        ParallelFor& parallel, const float* skip, const Gradient& gradient) {
  const KernelTable& table = active_table();
  for_ranges(parallel, rows, rows_per_piece(cols), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      gradient(table, dy + row * cols, src + row * cols, stats + row * 2, dx + row * cols);
      if (skip != nullptr) table.add(skip + row * cols, cols, dx + row * cols);
    }
  });
  if (dgamma == nullptr && dbeta == nullptr) return;
  // Columns are split over threads, never the sum over rows, so the result does not depend on their
  // number.
  for_ranges(parallel, cols, rows_per_piece(rows), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = 0; row < rows; ++row) {
      const std::size_t at = row * cols + begin;
      table.layer_norm_dparams(dy + at, src + at, stats + row * 2, end - begin,
                               dgamma == nullptr ? nullptr : dgamma + begin,
                               dbeta == nullptr ? nullptr : dbeta + begin);
    }
  });
}

// Applies a function of the table to each of count numbers.
void map_numbers(void (*map)(const float*, std::size_t, float*), const float* src,
                 std::size_t count, float* dst, ParallelFor& parallel) {
  for_ranges(parallel, count, kMinPiece / 4, [&](std::size_t begin, std::size_t end) {
    map(src + begin, end - begin, dst + begin);
  });
}
// Applies a function of the table to each of count pairs of numbers.
void map_numbers(void (*map)(const float*, const float*, std::size_t, float*), const float* a,
                 const float* b, std::size_t count, float* dst, ParallelFor& parallel) {
  for_ranges(parallel, count, kMinPiece / 4, [&](std::size_t begin, std::size_t end) {
    map(a + begin, b + begin, end - begin, dst + begin);
  });
}

}  // namespace

void layer_norm(const float* src, std::size_t rows, std::size_t cols, const float* gamma,
                const float* beta, float eps, float* dst, float* stats, ParallelFor& parallel) {
  norm_rows(src, nullptr, rows, cols, nullptr, dst, stats, parallel,
            [&](const KernelTable& table, const float* x, float* y, float* row_stats) {
              table.layer_norm(x, cols, gamma, beta, eps, y, row_stats);
            });
}

void add_layer_norm(const float* x, const float* added, std::size_t rows, std::size_t cols,
                    const float* gamma, const float* beta, float eps, float* sum, float* dst,
                    float* stats, ParallelFor& parallel) {
  norm_rows(x, added, rows, cols, sum, dst, stats, parallel,
            [&](const KernelTable& table, const float* row, float* y, float* row_stats) {
              table.layer_norm(row, cols, gamma, beta, eps, y, row_stats);
            });
}

void layer_norm_backward(const float* dy, const float* src, const float* stats, const float* gamma,
                         std::size_t rows, std::size_t cols, float* dx, float* dgamma, float* dbeta,
                         ParallelFor& parallel, const float* skip) {
  norm_rows_backward(
      dy, src, stats, rows, cols, dx, dgamma, dbeta, parallel, skip,
      [&](const KernelTable& table, const float* row_dy, const float* x, const float* row_stats,
          float* row_dx) { table.layer_norm_dx(row_dy, x, row_stats, gamma, cols, row_dx); });
}

void rms_norm(const float* src, std::size_t rows, std::size_t cols, const float* gamma, float eps,
              float* dst, float* stats, ParallelFor& parallel) {
  norm_rows(src, nullptr, rows, cols, nullptr, dst, stats, parallel,
            [&](const KernelTable& table, const float* x, float* y, float* row_stats) {
              table.rms_norm(x, cols, gamma, eps, y, row_stats);
            });
}

void add_rms_norm(const float* x, const float* added, std::size_t rows, std::size_t cols,
                  const float* gamma, float eps, float* sum, float* dst, float* stats,
                  ParallelFor& parallel) {
  norm_rows(x, added, rows, cols, sum, dst, stats, parallel,
            [&](const KernelTable& table, const float* row, float* y, float* row_stats) {
              table.rms_norm(row, cols, gamma, eps, y, row_stats);
            });
}

void rms_norm_backward(const float* dy, const float* src, const float* stats, const float* gamma,
                       std::size_t rows, std::size_t cols, float* dx, float* dgamma,
                       ParallelFor& parallel, const float* skip) {
  norm_rows_backward(
      dy, src, stats, rows, cols, dx, dgamma, nullptr, parallel, skip,
      [&](const KernelTable& table, const float* row_dy, const float* x, const float* row_stats,
          float* row_dx) { table.rms_norm_dx(row_dy, x, row_stats, gamma, cols, row_dx); });
}

void gelu_new(const float* src, std::size_t count, float* dst, ParallelFor& parallel) {
  map_numbers(active_table().gelu, src, count, dst, parallel);
}

void gelu_new_backward(const float* dy, const float* src, std::size_t count, float* dx,
                       ParallelFor& parallel) {
  map_numbers(active_table().gelu_dx, dy, src, count, dx, parallel);
}

void gelu_erf(const float* src, std::size_t count, float* dst, ParallelFor& parallel) {
  map_numbers(active_table().gelu_erf, src, count, dst, parallel);
}

void gelu_erf_backward(const float* dy, const float* src, std::size_t count, float* dx,
                       ParallelFor& parallel) {
  map_numbers(active_table().gelu_erf_dx, dy, src, count, dx, parallel);
}

void copy_matrix(const float* x, std::size_t rows, std::size_t cols, std::size_t x_stride, float* y,
                 std::size_t y_stride, ParallelFor& parallel) {
  for_ranges(parallel, rows, rows_per_piece(cols), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row)
      std::copy_n(x + row * x_stride, cols, y + row * y_stride);
  });
}

void swiglu(const float* gate, const float* up, std::size_t count, float* dst,
            ParallelFor& parallel) {
  const KernelTable& table = active_table();
  for_ranges(parallel, count, kMinPiece / 4, [&](std::size_t begin, std::size_t end) {
    table.swiglu(gate + begin, up + begin, end - begin, dst + begin);
  });
}

void swiglu_backward(const float* dy, const float* gate, const float* up, std::size_t count,
                     float* dgate, float* dup, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  for_ranges(parallel, count, kMinPiece / 4, [&](std::size_t begin, std::size_t end) {
    table.swiglu_dx(dy + begin, gate + begin, up + begin, end - begin, dgate + begin, dup + begin);
  });
}

namespace {

void gate_row(const KernelTable& table, Gate activation, const float* gate, const float* up,
              std::size_t count, float* dst) {
  switch (activation) {
    case Gate::kSilu:
      return table.swiglu(gate, up, count, dst);
    case Gate::kGeluTanh:
      table.gelu(gate, count, dst);
      break;
    case Gate::kGeluErf:
      table.gelu_erf(gate, count, dst);
      break;
  }
  table.multiply(up, count, dst);
}

}  // namespace

void gate_rows(Gate activation, const float* gate, const float* up, std::size_t rows,
               std::size_t cols, std::size_t stride, float* dst, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  for_ranges(parallel, rows, rows_per_piece(cols), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row)
      gate_row(table, activation, gate + row * stride, up + row * stride, cols, dst + row * cols);
  });
}

void gate_backward(Gate activation, const float* dy, const float* gate, const float* up,
                   std::size_t count, float* dgate, float* dup, ParallelFor& parallel) {
  if (activation == Gate::kSilu) return swiglu_backward(dy, gate, up, count, dgate, dup, parallel);
  const KernelTable& table = active_table();
  const auto slope = activation == Gate::kGeluTanh ? table.gelu_dx : table.gelu_erf_dx;
  for_ranges(parallel, count, kMinPiece / 4, [&](std::size_t begin, std::size_t end) {
    const std::size_t n = end - begin;
    gate_row(table, activation, gate + begin, dy + begin, n, dup + begin);
    std::copy_n(dy + begin, n, dgate + begin);
    table.multiply(up + begin, n, dgate + begin);
    slope(dgate + begin, gate + begin, n, dgate + begin);
  });
}

void soft_cap_row(const KernelTable& table, float* x, std::size_t count, float cap) {
  constexpr std::size_t kPart = 256;
  // tanh is 1 within f32 beyond 10; below 0.2 a series keeps digits that exp(2x) - 1 loses.
  constexpr float kFlat = 20.0F, kSeries = 0.2F;
  float grown[kPart];
  const float slope = 1.0F / cap;
  for (std::size_t first = 0; first < count; first += kPart) {
    const std::size_t n = std::min(kPart, count - first);
    float* part = x + first;
    for (std::size_t i = 0; i < n; ++i)
      grown[i] = std::min(std::max(2.0F * slope * part[i], -kFlat), kFlat);
    table.exp_shifted(grown, n, 0.0F);
    for (std::size_t i = 0; i < n; ++i) {
      const float t = part[i] * slope, square = t * t;
      const float series =
          t + t * square *
                  (-1.0F / 3.0F + square * (2.0F / 15.0F + square * (-17.0F / 315.0F +
                                                                     square * (62.0F / 2835.0F))));
      const float ratio = (grown[i] - 1.0F) / (grown[i] + 1.0F);
      part[i] = cap * (std::fabs(t) < kSeries ? series : ratio);
    }
  }
}

void soft_cap(float* x, std::size_t count, float cap, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  for_ranges(parallel, count, kMinPiece / 4, [&](std::size_t begin, std::size_t end) {
    soft_cap_row(table, x + begin, end - begin, cap);
  });
}

void soft_cap_backward(float* dy, const float* y, std::size_t count, float cap,
                       ParallelFor& parallel) {
  for_ranges(parallel, count, kMinPiece / 4, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      const float t = y[i] / cap;
      dy[i] *= 1.0F - t * t;
    }
  });
}

void norm_heads(const float* x, std::size_t rows, std::size_t stride, std::size_t heads,
                std::size_t head_dim, const float* gamma, float eps, float* y, float* stats,
                ParallelFor& parallel) {
  const KernelTable& table = active_table();
  for_ranges(parallel, rows, rows_per_piece(heads * head_dim),
             [&](std::size_t begin, std::size_t end) {
               float own[2];
               for (std::size_t row = begin; row < end; ++row) {
                 for (std::size_t head = 0; head < heads; ++head) {
                   const std::size_t at = row * stride + head * head_dim;
                   table.rms_norm(x + at, head_dim, gamma, eps, y + at,
                                  stats == nullptr ? own : stats + 2 * (row * heads + head));
                 }
               }
             });
}

void norm_heads_backward(float* dy, const float* x, const float* stats, const float* gamma,
                         std::size_t rows, std::size_t stride, std::size_t heads,
                         std::size_t head_dim, float* dgamma, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  // Serial, in order of rows, so that sums do not depend on the number of threads.
  for (std::size_t i = 0; dgamma != nullptr && i < rows * heads; ++i) {
    const std::size_t at = i / heads * stride + i % heads * head_dim;
    table.layer_norm_dparams(dy + at, x + at, stats + 2 * i, head_dim, dgamma, nullptr);
  }
  for_ranges(parallel, rows, rows_per_piece(heads * head_dim),
             [&](std::size_t begin, std::size_t end) {
               std::vector<float> dx(head_dim);
               for (std::size_t i = begin * heads; i < end * heads; ++i) {
                 const std::size_t at = i / heads * stride + i % heads * head_dim;
                 table.rms_norm_dx(dy + at, x + at, stats + 2 * i, gamma, head_dim, dx.data());
                 std::copy_n(dx.data(), head_dim, dy + at);
               }
             });
}

void rotary_table(const std::int32_t* positions, std::size_t rows, const float* frequencies,
                  std::size_t half, float* table, double scale) {
  for (std::size_t row = 0; row < rows; ++row) {
    float* cosines = table + row * 2 * half;
    for (std::size_t i = 0; i < half; ++i) {
      // The angle is one f32 product and its functions are computed in double, so results are equal
      // on every machine.
      const auto angle = static_cast<double>(static_cast<float>(positions[row]) * frequencies[i]);
      cosines[i] = static_cast<float>(std::cos(angle) * scale);
      cosines[half + i] = static_cast<float>(std::sin(angle) * scale);
    }
  }
}

void rotate(float* x, std::size_t rows, std::size_t stride, const RotaryHeads& heads,
            const float* table, ParallelFor& parallel) {
  const KernelTable& kernels = active_table();
  const std::size_t half = heads.half;
  for_ranges(parallel, rows, rows_per_piece(heads.heads * 2 * half),
             [&](std::size_t begin, std::size_t end) {
               for (std::size_t row = begin; row < end; ++row) {
                 const float* cosines = table + row * 2 * half;
                 for (std::size_t head = 0; head < heads.heads; ++head) {
                   kernels.rotate_pairs(x + row * stride + head * heads.head_dim, half, cosines,
                                        cosines + half);
                 }
               }
             });
}

void rotate_backward(float* dx, std::size_t rows, std::size_t stride, const RotaryHeads& heads,
                     const float* table, ParallelFor& parallel) {
  const std::size_t half = heads.half;
  std::vector<float> back(table, table + rows * 2 * half);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t i = 0; i < half; ++i) back[row * 2 * half + half + i] *= -1.0F;
  }
  rotate(dx, rows, stride, heads, back.data(), parallel);
}

void add_in_place(const float* src, std::size_t count, float* dst, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  for_ranges(parallel, count, kMinPiece, [&](std::size_t begin, std::size_t end) {
    table.add(src + begin, end - begin, dst + begin);
  });
}

}  // namespace qalof::kernels
