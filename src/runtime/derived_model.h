// A base with some of its numbers replaced: what post-training methods evaluate and pack.
//
// The result is a BaseModel like any other, so that scores, calibration and packed files of a
// method come from the code that everything else runs on.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "quant/scheme.h"
#include "runtime/base_model.h"
#include "runtime/weight_packing.h"

namespace qalof::runtime {

/// Replacements; what is not named stays the base's.
struct DerivedWeights {
  std::map<std::string, std::vector<float>> vectors;  // norms and biases, by name without prefix
  std::map<std::size_t, std::vector<float>> linears;  // [out, in] by index
  /// Ready codes by index and weight bits, all in scheme; they win over linears.
  std::map<std::pair<std::size_t, int>, RowCodes> codes;
  quant::QuantScheme scheme = {};
};

/// Keeps base alive. Error{kInternal} where a replacement has another size than what it replaces.
std::shared_ptr<const BaseModel> derive_model(std::shared_ptr<const BaseModel> base,
                                              DerivedWeights weights);

}  // namespace qalof::runtime
