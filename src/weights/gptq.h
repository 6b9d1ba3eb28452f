// GPTQ: chooses the codes of a linear column by column and spreads each column's rounding error
// over the columns not yet rounded, weighted by the covariance of the inputs (docs/numerics.md,
// "GPTQ").
#pragma once

#include <cstddef>
#include <vector>

#include "core/threads.h"
#include "quant/scheme.h"
#include "weights/weight_packing.h"

namespace qalof::weights {

/// H = X^T X of the rows a linear read, upper triangle; summed in f32 over 256 rows, then in f64.
class InputProducts {
 public:
  explicit InputProducts(std::size_t in) : in_(in), sums_(in * in) {}
  /// Adds rows x [rows, in]; the sums are bitwise the same on any number of threads.
  void add(const float* x, std::size_t rows, ParallelFor& parallel);
  std::size_t in() const { return in_; }
  std::size_t rows() const { return rows_; }
  /// Element (i, j), i <= j.
  double at(std::size_t i, std::size_t j) const { return sums_[i * in_ + j]; }

 private:
  std::size_t in_, rows_ = 0;
  std::vector<double> sums_;
};

/// Codes and their output error.
struct GptqResult {
  RowCodes codes;
  // Relative error |X (W - real)^T|^2 / |X W^T|^2 over the rows of the products; 0 where they are
  // all zero.
  double error = 0, nearest_error = 0;  // of these codes, and of the nearest ones
};
/// Codes of weights [out, in]; scheme is uniform, bits 2..8. Error{kBadInput} where the products
/// have no rows or are not finite.
GptqResult quantize_gptq(const std::vector<float>& weights, std::size_t out,
                         const InputProducts& products, int bits, quant::QuantScheme scheme,
                         ParallelFor& parallel);

}  // namespace qalof::weights
