// Connects the processes that a launcher started, by PyTorch's c10d (docs/scaling.md).
#pragma once

#include <chrono>
#include <memory>

#include "core/process_group.h"
#include "train/options.h"

namespace qalof::train {

/// Connects the processes of a launch over Gloo; blocks until all are there. Those that train on
/// GPUs, in a build with NCCL, are connected over that too, for their gradients. Error{kUsage}
/// where the port is taken or two processes have one GPU, {kNetwork} where not all arrive in time,
/// {kUnsupported} in a build without Gloo.
std::unique_ptr<ProcessGroup> connect(const Launch& launch, std::chrono::milliseconds timeout,
                                      Device device = Device::kCpu);

}  // namespace qalof::train
