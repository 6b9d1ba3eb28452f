// Packs and transposes operands so that gradient products run on the float GEMM in a fixed order.
#include "train/gradient_gemm.h"

#include <algorithm>

#include "kernels/parallel.h"
#include "weights/transpose.h"

namespace qalof::train {

kernels::PackedMatrix pack_right(const MatrixView& w, std::vector<float>& panels,
                                 ParallelFor& parallel) {
  const std::size_t n = w.cols, k = w.rows;
  const kernels::WeightFormat format = kernels::f32_format(n);
  kernels::at_least(panels, kernels::packed_matrix_bytes(format, n, k) / sizeof(float));
  kernels::pack_f32(w.data, n, k, n, /*transposed=*/true, panels.data(), parallel, format);
  return {format, n, k, panels.data(), nullptr, nullptr};
}

void GradientGemm::multiply(const MatrixView& x, const kernels::PackedMatrix& w, float alpha,
                            kernels::Accumulate accumulate, float* y) {
  kernels::gemm_f32(x.data, x.rows, x.cols, w, alpha, nullptr, accumulate, y, parallel_);
}

void GradientGemm::multiply(const MatrixView& x, const MatrixView& w, float alpha,
                            kernels::Accumulate accumulate, float* y) {
  multiply(x, pack_right(w, panels_, parallel_), alpha, accumulate, y);
}

void GradientGemm::multiply_transposed(const MatrixView& a, const MatrixView& b, float alpha,
                                       kernels::Accumulate accumulate, float* y) {
  // The side with fewer columns is transposed and the other packed: packing the narrow side would
  // leave panels half empty.
  const bool swap = a.cols > b.cols;
  const MatrixView& rows = swap ? b : a;
  const MatrixView& right = swap ? a : b;
  const bool store = accumulate == kernels::Accumulate::kStore;
  if (swap) kernels::at_least(result_, a.cols * b.cols);
  float* result = swap ? result_.data() : y;
  constexpr std::size_t kNarrow = 32;
  if (rows.cols <= kNarrow && (swap || store)) {
    kernels::gemm_transposed(rows.data, rows.rows, rows.cols, right.data, right.cols, alpha, result,
                             parallel_);
  } else {
    kernels::at_least(transposed_, rows.rows * rows.cols);
    weights::transpose(rows.data, rows.rows, rows.cols, transposed_.data(), parallel_);
    const MatrixView left{transposed_.data(), rows.cols, rows.rows};
    multiply(left, pack_right(right, panels_, parallel_), alpha,
             swap ? kernels::Accumulate::kStore : accumulate, result);
  }
  if (!swap) return;
  for (std::size_t row = 0; row < a.cols; ++row) {
    for (std::size_t col = 0; col < b.cols; ++col) {
      const float value = result_[col * a.cols + row];
      float& target = y[row * b.cols + col];
      target = store ? value : target + value;
    }
  }
}

}  // namespace qalof::train
