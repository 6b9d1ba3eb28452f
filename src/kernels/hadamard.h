// Rotations by Hadamard matrices: R = D H / sqrt(n) with fixed signs D (docs/numerics.md,
// "Hadamard transform"). R is orthonormal. One row costs n log n additions; every addition has the
// same operands on every ISA, so results are bit-equal.
#pragma once

#include <cstddef>
#include <vector>

#include "core/threads.h"

namespace qalof::kernels {

/// True for 2^b and 12^a 2^b: the orders that are implemented.
bool is_hadamard_order(std::size_t n);

/// The rotation of an order. Immutable: threads may share it.
class Hadamard {
 public:
  /// Error{kInternal} where is_hadamard_order(order) is false.
  explicit Hadamard(std::size_t order);
  std::size_t order() const { return factors_.size(); }

  /// x [order] = x R, in place.
  void apply(float* x) const;
  /// x [order] = x R^T, in place: undoes apply, and is the gradient of apply.
  void invert(float* x) const;
  /// apply or invert on `blocks` neighbouring stretches of every row; rows lie stride floats apart.
  void apply(float* x, std::size_t rows, std::size_t stride, std::size_t blocks,
             ParallelFor& parallel) const;
  void invert(float* x, std::size_t rows, std::size_t stride, std::size_t blocks,
              ParallelFor& parallel) const;

 private:
  std::size_t power_ = 1, twelves_ = 0;  // order = power * 12^twelves
  std::vector<float> factors_;           // D / sqrt(n)
};

}  // namespace qalof::kernels
