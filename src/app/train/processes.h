// The processes that train one model together, or measure it in the program that trains.
#pragma once

#include "app/processes.h"
#include "train/options.h"

namespace qalof::app {

/// Connects to the others where a launcher's variables tell of more than one process, and shares
/// the machine's threads with them where threads is 0. device: where gradients are that they sum.
/// Errors are train::connect's.
Processes connect_processes(const ProcessOptions& options, int& threads, Observer& observer,
                            train::Device device = train::Device::kCpu);
/// Counts the micro-batches of all processes in schedule. Error{kUsage} for numbers of them that
/// give no fixed tree.
void count_micro_batches(const Processes& processes, int threads, train::ScheduleOptions& schedule);

}  // namespace qalof::app
