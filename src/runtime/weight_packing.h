// Float weights to the packed form a precision computes with, and back.
//
// The codes are those of kernels/quantize.h. Not for: whose weights they are and how long they are
// kept (runtime/base_model.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/threads.h"
#include "kernels/gemm.h"
#include "quant/precision.h"
#include "quant/scheme.h"

namespace qalof::runtime {

/// Packed weights with the memory they view.
struct OwnedMatrix {
  kernels::PackedMatrix view;
  std::vector<std::byte> panels;  // empty where the view points into a mapped file
  std::vector<float> scales;
  std::vector<std::int32_t> code_sums;
  std::vector<std::int8_t> zeros;

  /// Lets the view point to scales, sums and zero points that are held here, null where empty.
  void update_view();
};

/// Packs float weights [out, in] for a precision: quantized in the scheme where the width is an
/// integer.
std::unique_ptr<OwnedMatrix> pack_weights(const std::vector<float>& weights, std::size_t out,
                                          std::size_t in, quant::Precision precision,
                                          quant::QuantScheme scheme, ParallelFor& parallel);

/// Packed integers as reals [n, k]: exactly the numbers their products are made of.
std::vector<float> unpack_reals(const kernels::PackedMatrix& integers, ParallelFor& parallel);

/// Packed integers in the form that float activations multiply (weight_format of w8a16): the same
/// numbers that pack_weights gives for that precision.
std::unique_ptr<OwnedMatrix> pack_for_floats(const kernels::PackedMatrix& integers,
                                             ParallelFor& parallel);

}  // namespace qalof::runtime
