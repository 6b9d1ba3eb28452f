// Transposes a dense matrix, in tiles that fit L1.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "core/threads.h"

namespace qalof::weights {

/// values [rows, cols] as result [cols, rows], which must not overlap.
template <typename T>
void transpose(const T* values, std::size_t rows, std::size_t cols, T* result,
               ParallelFor& parallel) {
  constexpr std::size_t kTile = 32;  // keeps both sides in L1
  parallel.run((cols + kTile - 1) / kTile, [&](std::size_t tile) {
    const std::size_t end = std::min(cols, (tile + 1) * kTile);
    for (std::size_t first = 0; first < rows; first += kTile) {
      for (std::size_t row = first; row < std::min(first + kTile, rows); ++row) {
        for (std::size_t col = tile * kTile; col < end; ++col)
          result[col * rows + row] = values[row * cols + col];
      }
    }
  });
}

template <typename T>
std::vector<T> transposed(const std::vector<T>& values, std::size_t rows, std::size_t cols,
                          ParallelFor& parallel) {
  std::vector<T> result(values.size());
  transpose(values.data(), rows, cols, result.data(), parallel);
  return result;
}

template <typename T>
std::vector<T> transposed(const std::vector<T>& values, std::size_t rows, std::size_t cols) {
  SerialFor serial;
  return transposed(values, rows, cols, serial);
}

}  // namespace qalof::weights
