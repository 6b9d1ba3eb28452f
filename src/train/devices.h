// Which GPU each process of a run trains on, and who may not share one.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "core/process_group.h"

namespace qalof::train {

/// The GPU of a process, of `count` on its machine: its number among the machine's processes.
/// Error{kUsage} where there are fewer.
std::size_t device_of(const Launch& launch, std::size_t count);
/// Error{kUsage} names two processes that were given one GPU. names: of the GPUs, by rank, unlike
/// those of any other GPU on any machine.
void check_own_devices(std::span<const std::string> names);

}  // namespace qalof::train
