// SmoothQuant: the range of activations moves into the weights that read them, by the norm before
// them (docs/numerics.md, "Smoothing").
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "core/threads.h"
#include "weights/adapter.h"
#include "weights/derived_model.h"

namespace qalof::weights {

/// The linears that read one norm, and the norm's name without ".weight".
struct NormReaders {
  std::string norm;
  std::vector<std::size_t> linears;
};
std::vector<NormReaders> norm_readers(const model::ModelConfig& config);

/// max|x| per input [linear][in] of rows that linears read; linears without a norm before them may
/// be empty.
using InputRanges = std::vector<std::vector<float>>;

struct Smoothed {
  std::shared_ptr<const BaseModel> base;
  std::shared_ptr<const AdapterSet> adapters;  // for that base; null where none were given
};
/// alpha in 0..1. The function stays the same up to rounding.
Smoothed smooth(const std::shared_ptr<const BaseModel>& base,
                const std::shared_ptr<const AdapterSet>& adapters, const InputRanges& ranges,
                float alpha);

}  // namespace qalof::weights
