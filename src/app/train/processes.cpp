// Connects and compares the processes of a run. See processes.h.
#include "app/train/processes.h"

#include <bit>
#include <chrono>

#include "app/model_handle.h"
#include "train/connect.h"

namespace qalof::app {

Processes connect_processes(const ProcessOptions& options, int& threads, Observer& observer,
                            train::Device device) {
  const Launch launch = launch_of_environment();
  if (launch.size == 1) return Processes(observer);
  if (launch.rank == 0) observer.status(fmt::format("waiting for {} processes", launch.size));
  auto group = train::connect(launch, std::chrono::seconds(options.timeout_seconds), device);
  if (launch.rank == 0 && device == train::Device::kCuda && !group->sums_on_devices())
    observer.info("gradients travel through the host's memory, because this build has no NCCL");
  return {std::move(group), launch, threads, observer};
}

void count_micro_batches(const Processes& processes, int threads,
                         train::ScheduleOptions& schedule) {
  if (processes.group() == nullptr) return;
  std::size_t& batches = schedule.gradient_accumulation_steps;
  QALOF_CHECK(std::has_single_bit(batches), ErrorKind::kUsage,
              "--gradient_accumulation_steps: found {}, expected a power of two where several "
              "processes train together",
              batches);
  batches *= processes.count();
  processes.observer().info(fmt::format("{} processes, {} micro-batches a step, {} threads each",
                                        processes.count(), batches, choose_threads(threads)));
}

}  // namespace qalof::app
