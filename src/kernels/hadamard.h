// Rotations by Hadamard matrices: R = D H / sqrt(m) with fixed signs D, H being blocks of order m
// along the diagonal (docs/numerics.md, "Hadamard transform"). R is orthonormal. One row of n costs
// n log m additions; every addition has the same operands on every ISA, so results are bit-equal.
#pragma once

#include <cstddef>
#include <vector>

#include "core/threads.h"

namespace qalof::kernels {

/// The order m of the blocks that rotate rows of n > 0: the largest divisor of n of the form
/// 12^a 2^b. n itself for most sizes of models; a row of 960 is rotated as 5 blocks of 192.
std::size_t hadamard_block(std::size_t n);

/// The rotation of an order. Immutable: threads may share it.
class Hadamard {
 public:
  explicit Hadamard(std::size_t order);
  std::size_t order() const { return factors_.size(); }

  /// x [order] = x R, in place.
  void apply(float* x) const;
  /// x [order] = x R^T, in place: undoes apply, and is the gradient of apply.
  void invert(float* x) const;
  /// apply or invert on `blocks` neighbouring stretches of every row; rows lie stride floats apart.
  /// from: read instead of x, which is then written as a whole, [rows, stride].
  void apply(float* x, std::size_t rows, std::size_t stride, std::size_t blocks,
             ParallelFor& parallel, const float* from = nullptr) const;
  void invert(float* x, std::size_t rows, std::size_t stride, std::size_t blocks,
              ParallelFor& parallel, const float* from = nullptr) const;

 private:
  std::size_t power_ = 1, twelves_ = 0, block_ = 1;  // block = power * 12^twelves
  std::vector<float> factors_;                       // [order] D / sqrt(block)
};

}  // namespace qalof::kernels
