// Rotations by Hadamard matrices: R = D H / sqrt(m) with fixed signs D, where H has blocks of order
// m along its diagonal (docs/numerics.md, "Hadamard transform"). R is orthonormal. A row of n costs
// n log m additions; every addition has equal operands on every ISA, so results are bit-equal.
#pragma once

#include <cstddef>
#include <vector>

#include "core/threads.h"

namespace qalof::kernels {

/// The order m of the blocks that rotate rows of n > 0: the largest divisor of n of the form
/// 12^a 2^b. This is n itself for most model sizes; a row of 960 is rotated as 5 blocks of 192.
std::size_t hadamard_block(std::size_t n);

/// The rotation of a given order. Immutable: threads may share it.
class Hadamard {
 public:
  explicit Hadamard(std::size_t order);
  std::size_t order() const { return factors_.size(); }

  /// x [order] = x R, in place.
  void apply(float* x) const;
  /// x [order] = x R^T, in place: the inverse of apply, and its gradient.
  void invert(float* x) const;
  /// apply or invert on `blocks` neighbouring parts of every row; rows are stride floats apart.
  /// With from [rows, stride], its rows are copied to x first, whole.
  void apply(float* x, std::size_t rows, std::size_t stride, std::size_t blocks,
             ParallelFor& parallel, const float* from = nullptr) const;
  void invert(float* x, std::size_t rows, std::size_t stride, std::size_t blocks,
              ParallelFor& parallel, const float* from = nullptr) const;

 private:
  std::size_t power_ = 1, twelves_ = 0, block_ = 1;  // block = power * 12^twelves
  std::vector<float> factors_;                       // [order] D / sqrt(block)
};

}  // namespace qalof::kernels
