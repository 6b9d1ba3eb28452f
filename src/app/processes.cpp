// Shares scores among the processes of a run, and ends them together. See processes.h.
#include "app/processes.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "app/model_handle.h"
#include "app/run_journal.h"
#include "core/hash.h"

namespace qalof::app {

namespace {

// Computes every size-th batch and keeps its numbers; of the others it knows only zeros.
class OwnBatches final : public tasks::BatchSource {
 public:
  OwnBatches(std::size_t rank, std::size_t size) : rank_(rank), size_(size) {}
  void fill(std::span<float> numbers, const std::function<void()>& compute) override {
    std::ranges::fill(numbers, 0.0F);
    if (next_++ % size_ != rank_) return;
    compute();
    numbers_ += bytes_of<float>(numbers);
  }
  const std::string& numbers() const { return numbers_; }

 private:
  std::size_t rank_, size_, next_ = 0;
  std::string numbers_;  // floats
};

// Reads numbers from the process whose turn a batch was.
class ComputedBatches final : public tasks::BatchSource {
 public:
  explicit ComputedBatches(std::vector<std::string> numbers)
      : numbers_(std::move(numbers)), read_(numbers_.size()) {}
  void fill(std::span<float> numbers, const std::function<void()>& /*compute*/) override {
    const std::size_t rank = next_++ % numbers_.size();
    QALOF_CHECK(read_[rank] + numbers.size_bytes() <= numbers_[rank].size(), ErrorKind::kInternal,
                "rank {} computed {} bytes of numbers, more are read", rank, numbers_[rank].size());
    std::memcpy(numbers.data(), numbers_[rank].data() + read_[rank], numbers.size_bytes());
    read_[rank] += numbers.size_bytes();
  }

 private:
  std::vector<std::string> numbers_;  // [rank] floats
  std::vector<std::size_t> read_;
  std::size_t next_ = 0;
};

}  // namespace

void ProcessOptions::list(OptionList& list) {
  list.group("machine");
  list.option("--ddp_timeout", timeout_seconds,
              "under torchrun: seconds until a process that does not answer ends the run")
      ->within(1, 86'400)
      ->incidental();
}

Processes::Processes(ProcessGroup* group, Observer& observer)
    : group_(group), observer_(&observer) {}

Processes::Processes(std::unique_ptr<ProcessGroup> group, const Launch& launch, int& threads,
                     Observer& observer)
    : own_(std::move(group)),
      group_(own_.get()),
      shared_memory_(SharedMemory::connect(*group_)),
      observer_(&observer) {
  const int all = choose_threads(threads);
  if (threads == 0) threads = std::max(1, all / static_cast<int>(launch.local_size));
}

std::string Processes::of_leader(const std::function<std::string()>& make) const {
  if (group_ == nullptr) return make();
  return group_->broadcast(lead() ? make() : "");
}

void Processes::check_same(
    const Json& own,
    const std::function<std::string(const Json& first, const Json& own)>& difference) const {
  if (group_ == nullptr) return;
  wait_for_all();
  const std::string differs = difference(Json::parse(of_leader([&] { return own.dump(); })), own);
  QALOF_CHECK(differs.empty(), ErrorKind::kUsage,
              "this process was started for another run than rank 0: {}", differs);
  wait_for_all();
}

void Processes::wait_for_all() const {
  if (group_ != nullptr) group_->wait_for_all();
}

tasks::Scores Processes::evaluate(const tasks::Task& task, const tasks::Evaluation& run,
                                  const tasks::DataOptions& data) const {
  if (group_ == nullptr) return task.evaluate(run, data);
  OwnBatches own(rank(), count());
  tasks::Evaluation first = run;
  first.batches = &own;
  tasks::DataOptions unwritten = data;
  unwritten.output_dir = "";
  const double seconds = task.evaluate(first, unwritten).seconds;
  wait_for_all();  // one may have had more to do
  ComputedBatches computed(gather_texts(*group_, own.numbers()));
  tasks::Evaluation second{
      {run.reading.encoder, run.reading.positions, quiet_, run.reading.separator},
      run.executions,
      run.parallel};
  second.label_names = run.label_names;
  second.keep_samples = run.keep_samples;
  second.batches = &computed;
  tasks::Scores scores = task.evaluate(second, lead() ? data : unwritten);
  scores.seconds += seconds;
  return scores;
}

void Processes::give_up(const Error& error) const {
  if (group_ == nullptr) throw error;
  if (!group_->report_failure(error.what())) throw Error(error.kind(), "");
  fail(error.kind(), "rank {}: {}", group_->rank(), error.what());
}

void check_same_inputs(const Processes& processes, const ModelHandle& handle,
                       const std::string& flag, const std::string& file) {
  if (processes.group() == nullptr) return;
  processes.check_same(
      {{"base_sha256", handle.base->source().sha256()},
       {"adapters_sha256", handle.adapters ? Json(adapters_sha256(*handle.adapters)) : Json()},
       {flag + "_sha256", sha256_of_file(file)}},
      member_difference);
}

void run_together(const Processes& processes, const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    processes.give_up(error);
  }
}

}  // namespace qalof::app
