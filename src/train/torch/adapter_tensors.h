// Adapters of finished phases as the named tensors of a RunState, and back.
#pragma once

#include <map>
#include <string>

#include "train/run_state.h"
#include "train/torch/network.h"

namespace qalof::train {

/// Copies pairs, heads and learned values into tensors "w<width>.<linear>.a",
/// "w<width>.head.weight" and so on.
std::map<std::string, NamedTensor> export_adapters(const std::map<int, AdapterParams>& adapters);
/// Adapters without gradient. Error{kBadInput} where a tensor is missing or has a shape that does
/// not fit base and options.
std::map<int, AdapterParams> import_adapters(const std::map<std::string, NamedTensor>& tensors,
                                             const weights::BaseModel& base,
                                             const TrainOptions& options, at::Device device,
                                             ParallelFor& parallel);

}  // namespace qalof::train
