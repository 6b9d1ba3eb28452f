// Drivers of the row operations.
#include "kernels/ops.h"

#include <algorithm>

#include "kernels/kernel_table.h"
#include "kernels/parallel.h"

namespace qalof::kernels {

void layer_norm(const float* src, std::size_t rows, std::size_t cols, const float* gamma,
                const float* beta, float eps, float* dst, float* stats, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  for_ranges(parallel, rows, rows_per_piece(cols), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      float own[2];
      table.layer_norm(src + row * cols, cols, gamma, beta, eps, dst + row * cols,
                       stats == nullptr ? own : stats + row * 2);
    }
  });
}

void add_layer_norm(const float* x, const float* added, std::size_t rows, std::size_t cols,
                    const float* gamma, const float* beta, float eps, float* sum, float* dst,
                    float* stats, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  for_ranges(parallel, rows, rows_per_piece(cols), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      const std::size_t at = row * cols;
      float own[2];
      if (sum != x) std::copy_n(x + at, cols, sum + at);
      table.add(added + at, cols, sum + at);
      table.layer_norm(sum + at, cols, gamma, beta, eps, dst + at,
                       stats == nullptr ? own : stats + row * 2);
    }
  });
}

void layer_norm_backward(const float* dy, const float* src, const float* stats, const float* gamma,
                         std::size_t rows, std::size_t cols, float* dx, float* dgamma, float* dbeta,
                         ParallelFor& parallel, const float* skip) {
  const KernelTable& table = active_table();
  for_ranges(parallel, rows, rows_per_piece(cols), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      table.layer_norm_dx(dy + row * cols, src + row * cols, stats + row * 2, gamma, cols,
                          dx + row * cols);
      if (skip != nullptr) table.add(skip + row * cols, cols, dx + row * cols);
    }
  });
  if (dgamma == nullptr && dbeta == nullptr) return;
  // Columns are split, never the sum over rows, so the number of threads does not change it.
  for_ranges(parallel, cols, rows_per_piece(rows), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = 0; row < rows; ++row) {
      const std::size_t at = row * cols + begin;
      table.layer_norm_dparams(dy + at, src + at, stats + row * 2, end - begin,
                               dgamma == nullptr ? nullptr : dgamma + begin,
                               dbeta == nullptr ? nullptr : dbeta + begin);
    }
  });
}

void gelu_new(const float* src, std::size_t count, float* dst, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  for_ranges(parallel, count, kMinPiece / 4, [&](std::size_t begin, std::size_t end) {
    table.gelu(src + begin, end - begin, dst + begin);
  });
}

void gelu_new_backward(const float* dy, const float* src, std::size_t count, float* dx,
                       ParallelFor& parallel) {
  const KernelTable& table = active_table();
  for_ranges(parallel, count, kMinPiece / 4, [&](std::size_t begin, std::size_t end) {
    table.gelu_dx(dy + begin, src + begin, end - begin, dx + begin);
  });
}

void add_in_place(const float* src, std::size_t count, float* dst, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  for_ranges(parallel, count, kMinPiece, [&](std::size_t begin, std::size_t end) {
    table.add(src + begin, end - begin, dst + begin);
  });
}

}  // namespace qalof::kernels
