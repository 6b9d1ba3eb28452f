// Connects, compares and ends the processes of a run together. See processes.h.
#include "app/train/processes.h"

#include <algorithm>
#include <bit>

#include "app/train/checkpoint.h"

namespace qalof::app {

namespace {

constexpr const char* kMicroBatches = "--gradient_accumulation_steps";

}  // namespace

Processes::Processes(TrainRunOptions& options, Observer& observer) : observer_(&observer) {
  if (options.group == nullptr) {
    const train::Launch launch = train::launch_of_environment();
    if (launch.size > 1) {
      if (launch.rank == 0) observer.status(fmt::format("waiting for {} processes", launch.size));
      own_ = train::connect(launch, std::chrono::seconds(options.ddp_timeout));
      options.group = own_.get();
      const std::size_t each = static_cast<std::size_t>(choose_threads(options.model.threads));
      if (options.model.threads == 0)
        options.model.threads =
            static_cast<int>(std::max<std::size_t>(1, each / launch.local_size));
    }
  }
  if (options.group == nullptr || options.group->size() == 1) return;
  group_ = options.group;
  if (!lead()) observer_ = &quiet_;
  std::size_t& batches = options.train.schedule.gradient_accumulation_steps;
  QALOF_CHECK(std::has_single_bit(batches), ErrorKind::kUsage,
              "--gradient_accumulation_steps: found {}, expected a power of two where several "
              "processes train together",
              batches);
  // From here on: of all processes. A run may go on with more or fewer of them.
  batches *= group_->size();
  if (options.flags.contains(kMicroBatches)) options.flags[kMicroBatches] = batches;
  this->observer().info(fmt::format("{} processes, {} micro-batches a step, {} threads each",
                                    group_->size(), batches,
                                    choose_threads(options.model.threads)));
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
