// GPTQ: chooses the codes of a linear column by column and spreads each column's rounding error
// over the columns not yet rounded, weighted by the covariance of the inputs (docs/numerics.md,
// "GPTQ").
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "core/process_group.h"
#include "core/threads.h"
#include "quant/scheme.h"
#include "weights/weight_packing.h"

namespace qalof::weights {

/// H = X^T X of the rows a linear read, upper triangle; summed in f32 over 256 rows, then in f64.
class InputProducts {
 public:
  explicit InputProducts(std::size_t in) : InputProducts(in, 0, std::vector<double>(sums_of(in))) {}
  /// From numbers that take_sums gave.
  InputProducts(std::size_t in, std::size_t rows, std::vector<double> sums)
      : in_(in), rows_(rows), sums_(std::move(sums)) {}
  /// Adds rows x [rows, in]; the sums are bitwise the same on any number of threads.
  void add(const float* x, std::size_t rows, ParallelFor& parallel);
  std::size_t in() const { return in_; }
  std::size_t rows() const { return rows_; }
  /// Element (i, j), i <= j.
  double at(std::size_t i, std::size_t j) const { return row(i)[j]; }
  /// Elements (i, i) .. (i, in - 1), at their j.
  const double* row(std::size_t i) const { return sums_.data() + row_start(i); }
  /// Numbers of a triangle.
  static std::size_t sums_of(std::size_t in) { return in * (in + 1) / 2; }
  std::vector<double> take_sums() && { return std::move(sums_); }

 private:
  // Where (i, 0) would be.
  std::size_t row_start(std::size_t i) const { return i * in_ - i * (i + 1) / 2; }

  std::size_t in_, rows_;
  std::vector<double> sums_;  // rows one after another, each from its diagonal on
};

/// What the codes of every linear that reads the same rows are found with.
class GptqInputs {
 public:
  /// Processes that have the same products share the work (null: this one alone). Error{kBadInput}
  /// where the products have no rows or are not finite.
  GptqInputs(InputProducts products, ParallelFor& parallel, ProcessGroup* processes = nullptr);
  const InputProducts& products() const { return products_; }
  /// Inputs by falling sum of squares; ties keep their order.
  const std::vector<std::size_t>& order() const { return order_; }
  /// Row i of U, the upper triangular factor of (H + damping)^-1 = U^T U in that order.
  const double* factor_row(std::size_t i) const { return factor_.data() + i * products_.in(); }

 private:
  InputProducts products_;
  std::vector<std::size_t> order_;
  std::vector<double> factor_;  // [in, in]
};

/// Codes and their output error.
struct GptqResult {
  RowCodes codes;
  // Relative error |X (W - real)^T|^2 / |X W^T|^2 over the rows of the products; 0 where they are
  // all zero.
  double error = 0, nearest_error = 0;  // of these codes, and of the nearest ones
};
/// Codes of weights [out, in]; scheme is uniform, bits 2..8. Processes (null: this one alone) share
/// the rows; given the same weights and inputs, all get the same result.
GptqResult quantize_gptq(const std::vector<float>& weights, std::size_t out,
                         const GptqInputs& inputs, int bits, quant::QuantScheme scheme,
                         ParallelFor& parallel, ProcessGroup* processes = nullptr);

}  // namespace qalof::weights
