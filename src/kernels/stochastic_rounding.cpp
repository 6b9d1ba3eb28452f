// Scales each row and passes it to the instruction set's stochastic rounding.
#include "kernels/stochastic_rounding.h"

#include <cmath>
#include <vector>

#include "kernels/kernel_table.h"
#include "kernels/parallel.h"
#include "kernels/stochastic_row.h"

namespace qalof::kernels {

void quantize_rows_stochastic(const float* src, std::size_t rows, std::size_t cols,
                              const float* column_scales, std::uint32_t key, std::int8_t* codes,
                              float* scales, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  for_ranges(parallel, rows, rows_per_piece(cols), [&](std::size_t begin, std::size_t end) {
    thread_local std::vector<float> buffer;
    float* scaled = at_least(buffer, cols);
    for (std::size_t row = begin; row < end; ++row) {
      const float* x = src + row * cols;
      if (column_scales != nullptr) {
        for (std::size_t i = 0; i < cols; ++i) scaled[i] = x[i] * column_scales[i];
        x = scaled;
      }
      const float largest = table.max_abs(x, cols);
      scales[row] = largest / 127.0F;
      const float multiplier = largest > 0 ? 127.0F / largest : 0.0F;
      table.round_stochastically(x, cols, std::isfinite(multiplier) ? multiplier : 0.0F,
                                 mixed_bits(key ^ mixed_bits(static_cast<std::uint32_t>(row))),
                                 codes + row * cols);
    }
  });
}

}  // namespace qalof::kernels
