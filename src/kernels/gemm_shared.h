// Integer products of several weights with the same rows, which are normed, quantized and prepared
// once: q, k and v of a layer, or gate and up.
#pragma once

#include <cstddef>
#include <span>

#include "core/threads.h"
#include "kernels/gemm.h"
#include "kernels/quantize.h"

namespace qalof::kernels {

/// One of the products: y [m, w->n] = rows w^T + bias; bias [w->n] or null. Does not own its
/// memory.
struct SharedProduct {
  const PackedMatrix* w;
  const float* bias;
  float* y;
};

/// True where two weights read rows prepared for either.
bool share_rows(const PackedMatrix& a, const PackedMatrix& b);

/// quantize_gemm_int without an adapter for each of several products; bit-equal to calls one by
/// one. Each pair of weights must satisfy share_rows. input.result may be null.
void quantize_gemm_int_shared(const RowInput& input, int bits, std::size_t m,
                              std::span<const SharedProduct> products, ParallelFor& parallel,
                              const RowRange& range = {});

}  // namespace qalof::kernels
