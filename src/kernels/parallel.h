// Helpers of the drivers: running tasks without allocation, splitting ranges, scratch memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <vector>

#include "core/threads.h"

namespace qalof::kernels {

/// Runs tasks without allocation: std::function over a reference needs no memory, and a single task
/// runs on the calling thread.
template <typename Task>
void run_tasks(ParallelFor& parallel, std::size_t num_tasks, Task&& task) {
  if (num_tasks == 1) {
    task(std::size_t{0});
  } else if (num_tasks > 1) {
    parallel.run(num_tasks, std::ref(task));
  }
}

inline std::size_t ceil_div(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

/// Calls body(begin, end) over 0..count in pieces of at least min_piece, a few per thread. For work
/// where the split does not change results.
template <typename Body>
void for_ranges(ParallelFor& parallel, std::size_t count, std::size_t min_piece, Body&& body) {
  if (count == 0) return;
  const auto wanted = static_cast<std::size_t>(parallel.num_threads()) * 4;
  const std::size_t piece = std::max(std::max<std::size_t>(min_piece, 1), ceil_div(count, wanted));
  auto task = [&](std::size_t i) { body(i * piece, std::min(count, (i + 1) * piece)); };
  run_tasks(parallel, ceil_div(count, piece), task);
}

/// Elements below which another thread costs more than it saves.
inline constexpr std::size_t kMinPiece = 16384;

inline std::size_t rows_per_piece(std::size_t cols) {
  return ceil_div(kMinPiece, std::max<std::size_t>(cols, 1));
}

/// The buffer's memory for count elements. It only grows, so a steady state allocates nothing.
template <typename T>
T* at_least(std::vector<T>& buffer, std::size_t count) {
  if (buffer.size() < count) buffer.resize(count);
  return buffer.data();
}

}  // namespace qalof::kernels
