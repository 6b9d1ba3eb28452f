// Transposes a dense matrix in tiles that fit L1.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace qalof::weights {

/// values [rows, cols] as [cols, rows].
inline std::vector<float> transposed(const std::vector<float>& values, std::size_t rows,
                                     std::size_t cols) {
  std::vector<float> result(values.size());
  constexpr std::size_t kTile = 32;  // keeps both sides in L1
  for (std::size_t row0 = 0; row0 < rows; row0 += kTile) {
    for (std::size_t col0 = 0; col0 < cols; col0 += kTile) {
      for (std::size_t row = row0; row < std::min(row0 + kTile, rows); ++row) {
        for (std::size_t col = col0; col < std::min(col0 + kTile, cols); ++col)
          result[col * rows + row] = values[row * cols + col];
      }
    }
  }
  return result;
}

}  // namespace qalof::weights
