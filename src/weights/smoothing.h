// SmoothQuant: part of the activations' range is moved into the weights that read them, through the
// norm before these (docs/numerics.md, "Smoothing").
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
/// The norms inside the layers of a model, each with its readers.
std::vector<NormReaders> norm_readers(const model::ModelConfig& config);

/// max|x| per input, [linear][in], over the rows each linear read; may be empty for linears without
/// a norm before them.
using InputRanges = std::vector<std::vector<float>>;

struct Smoothed {
  std::shared_ptr<const BaseModel> base;
  std::shared_ptr<const AdapterSet> adapters;  // for that base; null where none were given
};
/// Smooths a base and its adapters (null: none). alpha, in 0..1, is the exponent of the
/// activations' range: the larger, the more of it moves into the weights. The function stays the
/// same up to rounding. Error{kUsage} for another alpha.
Smoothed smooth(const std::shared_ptr<const BaseModel>& base,
                const std::shared_ptr<const AdapterSet>& adapters, const InputRanges& ranges,
                float alpha);

}  // namespace qalof::weights
