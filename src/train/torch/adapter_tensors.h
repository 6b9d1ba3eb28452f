// Adapters of finished phases as the named tensors of a RunState, and back.
#pragma once

#include <map>
#include <string>

#include "train/run_state.h"
#include "train/torch/network.h"

namespace qalof::train {

std::map<std::string, NamedTensor> export_adapters(const std::map<int, AdapterParams>& adapters);
/// Without gradient. Error{kBadInput} where a tensor is missing or has another shape than the base
/// and the options want.
std::map<int, AdapterParams> import_adapters(const std::map<std::string, NamedTensor>& tensors,
                                             const weights::BaseModel& base,
                                             const TrainOptions& options, at::Device device,
                                             ParallelFor& parallel);

}  // namespace qalof::train
