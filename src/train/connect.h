// Connects the processes that a launcher started, by PyTorch's c10d (docs/scaling.md).
#pragma once

#include <chrono>
#include <memory>

#include "core/process_group.h"

namespace qalof::train {

/// Connects the processes of a launch over Gloo; blocks until all are there. Error{kUsage} where
/// the port is taken, {kNetwork} where not all arrive in time, {kUnsupported} in a build without
/// Gloo.
std::unique_ptr<ProcessGroup> connect(const Launch& launch, std::chrono::milliseconds timeout);

}  // namespace qalof::train
