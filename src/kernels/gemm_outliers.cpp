// Multiplies the few large activations of a row as floats (docs/numerics.md, "Outliers").
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "kernels/gemm.h"
#include "kernels/parallel.h"

namespace qalof::kernels {

void add_outliers(const float* x, std::size_t m, float threshold, const PackedMatrix& w, float* y,
                  ParallelFor& parallel) {
  QALOF_CHECK(w.format == WeightFormat::kInt8 && w.group == 0, ErrorKind::kInternal,
              "add_outliers: weights are not int8 with one scale a row");
  const auto* panels = static_cast<const std::int8_t*>(w.panels);
  const std::size_t panel_bytes = packed_matrix_bytes(w.format, kPanelRows, w.k);
  for_ranges(parallel, m, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      for (std::size_t j = 0; j < w.k; ++j) {
        const float value = x[row * w.k + j];
        // Not `value < threshold`: a NaN is no outlier.
        if (!(std::fabs(value) >= threshold)) continue;
        for (std::size_t first = 0; first < w.n; first += kPanelRows) {
          const std::int8_t* codes =
              panels + first / kPanelRows * panel_bytes + j / 4 * 4 * kPanelRows + j % 4;
          const std::size_t outputs = std::min(kPanelRows, w.n - first);
          for (std::size_t n = 0; n < outputs; ++n) {
            const float real = static_cast<float>(codes[4 * n]) * w.scales[first + n];
            const float term = value * real;
            y[row * w.n + first + n] += term;
          }
        }
      }
    }
  });
}

}  // namespace qalof::kernels
