// Matrix products of backward passes on the kernels' float GEMM. Used instead of a BLAS because
// sums then run in a fixed order whatever the number of threads, and because training needs one
// thread pool: OpenMP's threads wait by spinning, which costs a factor of ten where other work
// shares the CPUs.
#pragma once

#include <cstddef>
#include <vector>

#include "core/threads.h"
#include "kernels/gemm.h"

namespace qalof::train {

/// A row-major matrix; does not own its memory.
struct MatrixView {
  const float* data = nullptr;
  std::size_t rows = 0;
  std::size_t cols = 0;
};

/// w [k, n] packed so that x [m, k] w can be computed; panels is resized as needed and must live as
/// long as the result.
kernels::PackedMatrix pack_right(const MatrixView& w, std::vector<float>& panels,
                                 ParallelFor& parallel);

/// Gradient products with buffers reused between calls. One per calling thread.
class GradientGemm {
 public:
  explicit GradientGemm(ParallelFor& parallel) : parallel_(parallel) {}
  /// y [m, n] = alpha x w, or y += alpha x w.
  void multiply(const MatrixView& x, const kernels::PackedMatrix& w, float alpha,
                kernels::Accumulate accumulate, float* y);
  /// multiply with an unpacked w [k, n].
  void multiply(const MatrixView& x, const MatrixView& w, float alpha,
                kernels::Accumulate accumulate, float* y);
  /// y [a.cols, b.cols] = alpha a^T b, or y += ...; sums over ascending rows.
  void multiply_transposed(const MatrixView& a, const MatrixView& b, float alpha,
                           kernels::Accumulate accumulate, float* y);

 private:
  ParallelFor& parallel_;
  std::vector<float> panels_, transposed_, result_;
};

}  // namespace qalof::train
