// One linear layer at one precision: y = Q(x) Q(W)^T + bias + scaling * (x A^T) B^T
// (docs/numerics.md, "Linear").
//
// The runtime's decoder and training's forward pass both call run_linear, which is why their
// numbers agree bit for bit. The LoRA branch reads the float row. Not for: choosing weights or
// adapters (runtime/execution.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/threads.h"
#include "kernels/gemm.h"
#include "quant/precision.h"
#include "quant/scheme.h"

namespace qalof::weights {

/// An adapter's pair packed for the float GEMM; scaling is alpha / r. Does not own its memory.
using LoraView = kernels::LowRankProduct;

/// Everything run_linear needs for one linear, resolved once per plan. Does not own its memory.
struct LinearCall {
  quant::Precision precision;
  kernels::PackedMatrix weight;    // [out, in] in the form that precision computes with
  const float* bias = nullptr;     // [out] or null
  kernels::RowRange range;         // how integer activations are quantized
  const LoraView* lora = nullptr;  // null: no adapter
  // Activations of at least this size are multiplied as floats (docs/numerics.md, "Outliers"); 0:
  // none are. Integer activations and weights in kInt8 without groups only.
  float outlier_threshold = 0.0F;
};

/// The packed form of integer codes of 2..8 bits.
kernels::WeightFormat code_format(int bits);
/// The packed form of weights that a precision computes with in a scheme.
kernels::WeightFormat weight_format(quant::Precision precision, quant::QuantScheme scheme = {});

/// The range of activations of a scheme.
kernels::RowRange activation_range(const quant::QuantScheme& scheme);

/// Buffers reused between calls; one per calling thread.
struct LinearWorkspace {
  std::vector<std::int8_t> codes;  // [m, in] of the last integer call
  std::vector<float> scales;       // [m], or [m, groups]
  std::vector<float> rounded;      // [m, in]
  std::vector<float> low_rank;     // [m, r]
  std::vector<float> inliers;      // [m, in], outliers replaced by 0
};

/// x [m, in] and y [m, out], both dense; y is overwritten. Rows are independent of each other.
/// Threads may run it at once on different workspaces and outputs.
void run_linear(const LinearCall& call, const float* x, std::size_t m, float* y,
                LinearWorkspace& workspace, ParallelFor& parallel);
/// run_linear with the norm or activation before the linear fused in; bitwise the result of
/// applying it to x [m, in] first. input.result must not be null where there is an operation; its
/// contents are undefined afterwards.
void run_linear(const LinearCall& call, const kernels::RowInput& input, std::size_t m, float* y,
                LinearWorkspace& workspace, ParallelFor& parallel);

}  // namespace qalof::weights
