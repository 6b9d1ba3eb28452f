// Connects, compares and ends the processes of a run together. See processes.h.
#include "app/train/processes.h"

#include <algorithm>
#include <bit>

#include "app/model_handle.h"
#include "app/train/checkpoint.h"

namespace qalof::app {

Processes::Processes(train::ProcessGroup* given, std::chrono::seconds timeout, int& threads,
                     train::ScheduleOptions& schedule, Observer& observer)
    : group_(given), observer_(&observer) {
  if (group_ == nullptr) {
    const train::Launch launch = train::launch_of_environment();
    if (launch.size == 1) return;
    if (launch.rank == 0) observer.status(fmt::format("waiting for {} processes", launch.size));
    own_ = train::connect(launch, timeout);
    group_ = own_.get();
    const auto all = static_cast<std::size_t>(choose_threads(threads));
    if (threads == 0) threads = static_cast<int>(std::max<std::size_t>(1, all / launch.local_size));
  }
  if (!lead()) observer_ = &quiet_;
  std::size_t& batches = schedule.gradient_accumulation_steps;
  QALOF_CHECK(std::has_single_bit(batches), ErrorKind::kUsage,
              "--gradient_accumulation_steps: found {}, expected a power of two where several "
              "processes train together",
              batches);
  batches *= count();
  observer_->info(fmt::format("{} processes, {} micro-batches a step, {} threads each", count(),
                              batches, choose_threads(threads)));
}

void Processes::check_same_run(const Json& identity) const {
  if (group_ == nullptr) return;
  wait_for_all();
  const std::string first = of_leader([&] { return identity.dump(); });
  const std::string difference = identity_difference(Json::parse(first), identity);
  QALOF_CHECK(difference.empty(), ErrorKind::kUsage,
              "this process was started for another run than rank 0: {}", difference);
  wait_for_all();
}

std::string Processes::of_leader(const std::function<std::string()>& make) const {
  if (group_ == nullptr) return make();
  return group_->broadcast(lead() ? make() : "");
}

void Processes::wait_for_all() const {
  if (group_ != nullptr) group_->wait_for_all();
}

void Processes::give_up(const Error& error) const {
  if (group_ == nullptr) throw error;
  if (!group_->report_failure(error.what())) throw Error(error.kind(), "");
  fail(error.kind(), "rank {}: {}", group_->rank(), error.what());
}

}  // namespace qalof::app
