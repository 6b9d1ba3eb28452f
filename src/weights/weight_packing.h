// Converts float weights into the packed form a precision computes with, and back.
//
// The codes are those of kernels/quantize.h. Not for: owning or caching a model's weights
// (weights/base_model.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/threads.h"
#include "kernels/gemm.h"
#include "quant/precision.h"
#include "quant/scheme.h"

namespace qalof::weights {

/// Packed weights together with the memory that their view points to.
struct OwnedMatrix {
  kernels::PackedMatrix view;
  std::vector<std::byte> panels;  // empty where the view points into a mapped file
  std::vector<float> scales;
  std::vector<std::int32_t> code_sums;
  std::vector<std::int8_t> zeros;

  /// Points the view at the scales, sums and zero points held here, null where empty.
  void update_view();
};

/// All of a matrix as bytes, and a matrix whose view points into them. The bytes are aligned to a
/// page, are of this program's build, and outlive the matrix.
std::vector<std::byte> to_bytes(const OwnedMatrix& matrix);
std::unique_ptr<OwnedMatrix> matrix_in(std::span<const std::byte> bytes);

/// Codes of weights [n, k] as rows; scales, and zeros where the scheme has them, are [n, groups]
/// (kernels/quantize.h). Custom quantizers (GPTQ) return this.
struct RowCodes {
  std::size_t n = 0, k = 0, group = 0;  // group 0: one scale per row
  std::vector<std::int8_t> codes;
  std::vector<float> scales;
  std::vector<std::int8_t> zeros;

  std::size_t groups() const { return kernels::num_groups(k, group); }
};
/// Nearest codes of weights [out, in] in a uniform scheme (not a codebook).
RowCodes quantize_weights(const std::vector<float>& weights, std::size_t out, std::size_t in,
                          int bits, quant::QuantScheme scheme, ParallelFor& parallel);
/// Dequantized values [n, k] of codes.
std::vector<float> dequantize_codes(const RowCodes& rows, ParallelFor& parallel);
/// Packs codes into the form that a precision computes with.
std::unique_ptr<OwnedMatrix> pack_codes(const RowCodes& rows, quant::Precision precision,
                                        ParallelFor& parallel);
/// Nested codes of 8 bits (packed in kInt8) as two matrices of 4 bits: high with the scales and
/// zeros of 4 bits, low (what remains) with those of 8.
struct NestedMatrix {
  std::unique_ptr<OwnedMatrix> high, low;
};
NestedMatrix pack_nested(const kernels::PackedMatrix& w, ParallelFor& parallel);
/// The codes of 8 bits again; scales and zeros are those of low.
RowCodes unpack_nested(const kernels::PackedMatrix& high, const kernels::PackedMatrix& low);
/// Packs floats [out, in] into panels of kF32 or kBf16.
std::unique_ptr<OwnedMatrix> pack_floats(const std::vector<float>& weights, std::size_t out,
                                         std::size_t in, kernels::WeightFormat format,
                                         ParallelFor& parallel);

/// Packs float weights [out, in] for a precision: quantized in the scheme where the width is an
/// integer.
std::unique_ptr<OwnedMatrix> pack_weights(const std::vector<float>& weights, std::size_t out,
                                          std::size_t in, quant::Precision precision,
                                          quant::QuantScheme scheme, ParallelFor& parallel);

/// pack_weights in scheme minmax for weights that are produced in parts, so that their floats are
/// never held whole: fill(first row, dst) writes as many rows as fit dst.
std::unique_ptr<OwnedMatrix> pack_rows(
    const std::function<void(std::size_t, std::span<float>)>& fill, std::size_t out, std::size_t in,
    quant::Precision precision, ParallelFor& parallel);

/// Dequantized values [n, k] of packed weights: exactly the numbers that products use. Accepts
/// integers, f32 panels of kPanelRows rows, and bf16.
std::vector<float> unpack_reals(const kernels::PackedMatrix& packed, ParallelFor& parallel);

/// Repacks packed integers into the form that float activations multiply (weight_format of w8a16):
/// the same numbers that pack_weights returns for that precision.
std::unique_ptr<OwnedMatrix> pack_for_floats(const kernels::PackedMatrix& integers,
                                             ParallelFor& parallel);

}  // namespace qalof::weights
