// Post-training methods that calibrate on activations. The result is a base (and adapters), to be
// packed like any other.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "app/processes.h"
#include "core/threads.h"
#include "quant/plan.h"
#include "weights/adapter.h"
#include "weights/base_model.h"

namespace qalof::app {

using TokenWindows = std::vector<std::vector<std::int32_t>>;

/// Squared error of a linear's outputs over the calibration rows, relative to their squares.
struct LayerError {
  std::string name;
  double nearest = 0;  // of round-to-nearest
  double error = 0;    // of the method
};
struct PostTrained {
  std::shared_ptr<const weights::BaseModel> base;
  std::shared_ptr<const weights::AdapterSet> adapters;
  std::vector<LayerError> layers;
};

/// Processes share the windows, which are the same in all; each gets the result.
///
/// SmoothQuant with activations of the 32-bit network (docs/numerics.md, "Smoothing").
PostTrained smooth_model(const std::shared_ptr<const weights::BaseModel>& base,
                         const std::shared_ptr<const weights::AdapterSet>& adapters,
                         const TokenWindows& windows, float alpha, ParallelFor& parallel,
                         const Processes& processes);
/// GPTQ for every linear with an integer width in the plan, layer by layer; each sees the inputs
/// that the already quantized layers before it produce (docs/numerics.md, "GPTQ").
PostTrained gptq_model(const std::shared_ptr<const weights::BaseModel>& base,
                       const std::shared_ptr<const weights::AdapterSet>& adapters,
                       const quant::PrecisionPlan& plan, const TokenWindows& windows,
                       ParallelFor& parallel, const Processes& processes);

}  // namespace qalof::app
