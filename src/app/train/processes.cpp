// Connects, compares and ends the processes of a run together. See processes.h.
#include "app/train/processes.h"

#include <algorithm>
#include <bit>

#include "app/model_handle.h"
#include "app/train/checkpoint.h"

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
    numbers_.insert(numbers_.end(), numbers.begin(), numbers.end());
  }
  const std::vector<float>& numbers() const { return numbers_; }

 private:
  std::size_t rank_, size_, next_ = 0;
  std::vector<float> numbers_;
};

// Reads numbers from the process whose turn a batch was.
class ComputedBatches final : public tasks::BatchSource {
 public:
  explicit ComputedBatches(std::vector<std::vector<float>> numbers)
      : numbers_(std::move(numbers)), read_(numbers_.size()) {}
  void fill(std::span<float> numbers, const std::function<void()>& /*compute*/) override {
    const std::size_t rank = next_++ % numbers_.size();
    QALOF_CHECK(read_[rank] + numbers.size() <= numbers_[rank].size(), ErrorKind::kInternal,
                "rank {} computed {} numbers, more are read", rank, numbers_[rank].size());
    std::copy_n(numbers_[rank].begin() + static_cast<std::ptrdiff_t>(read_[rank]), numbers.size(),
                numbers.begin());
    read_[rank] += numbers.size();
  }

 private:
  std::vector<std::vector<float>> numbers_;  // [rank]
  std::vector<std::size_t> read_;
  std::size_t next_ = 0;
};

}  // namespace

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

// Processes have unequally many numbers: first how many, then all, filled up to the most.
std::vector<std::vector<float>> Processes::gather(const std::vector<float>& numbers) const {
  std::vector<double> counts(count());
  const double own_count = static_cast<double>(numbers.size());
  group_->gather({&own_count, 1}, counts);
  const auto most = static_cast<std::size_t>(*std::ranges::max_element(counts));
  std::vector<double> own(numbers.begin(), numbers.end()), all(most * count());
  own.resize(most);
  group_->gather(own, all);
  std::vector<std::vector<float>> result(count());
  for (std::size_t rank = 0; rank < count(); ++rank) {
    const auto first = all.begin() + static_cast<std::ptrdiff_t>(rank * most);
    std::transform(first, first + static_cast<std::ptrdiff_t>(counts[rank]),
                   std::back_inserter(result[rank]),
                   [](double number) { return static_cast<float>(number); });
  }
  return result;
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
  ComputedBatches computed(gather(own.numbers()));
  tasks::Evaluation second{
      {run.reading.encoder, run.reading.positions, quiet_, run.reading.separator},
      run.executions,
      run.parallel};
  second.label_names = run.label_names;
  second.keep_samples = run.keep_samples;
  second.batches = &computed;
  tasks::Scores scores = task.evaluate(second, data);
  scores.seconds += seconds;
  return scores;
}

void Processes::give_up(const Error& error) const {
  if (group_ == nullptr) throw error;
  if (!group_->report_failure(error.what())) throw Error(error.kind(), "");
  fail(error.kind(), "rank {}: {}", group_->rank(), error.what());
}

}  // namespace qalof::app
