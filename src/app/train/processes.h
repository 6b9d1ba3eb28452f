// A training run among the processes that a launcher started, or alone: who leads, and what the
// others do meanwhile.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "core/progress.h"
#include "tasks/task.h"
#include "train/options.h"
#include "train/process_group.h"

namespace qalof::app {

/// The first process leads: it alone reads checkpoints' lists, writes, scores and reports. The
/// others read the same files and compute their share of every step. Alone, every call is empty.
class Processes {
 public:
  /// Connects to the others where no group is given and a launcher's variables tell of more than
  /// one process. Then shares the machine's threads with them where threads is 0, and counts
  /// micro-batches of all processes in schedule. Error{kUsage} for numbers of them that give no
  /// fixed tree; timeout as connect's.
  Processes(train::ProcessGroup* given, std::chrono::seconds timeout, int& threads,
            train::ScheduleOptions& schedule, Observer& observer);

  /// Null: this process is alone.
  train::ProcessGroup* group() const { return group_; }
  std::size_t count() const { return group_ != nullptr ? group_->size() : 1; }
  bool lead() const { return group_ == nullptr || group_->rank() == 0; }
  std::size_t rank() const { return group_ != nullptr ? group_->rank() : 0; }
  /// Of the process that leads the caller's; of the others one that shows nothing.
  Observer& observer() const { return *observer_; }
  /// Error{kUsage} names the first difference where this process was started for another run than
  /// the one that leads.
  void check_same_run(const Json& identity) const;
  /// What `make` returns on the process that leads, on every process.
  std::string of_leader(const std::function<std::string()>& make) const;
  /// Returns when every process is here, however long one takes.
  void wait_for_all() const;
  /// The task's scores on every process, equal to those of one process alone. Each process computes
  /// its share of the batches. Then the results are exchanged, and every process scores all of
  /// them.
  tasks::Scores evaluate(const tasks::Task& task, const tasks::Evaluation& run,
                         const tasks::DataOptions& data) const;
  /// Throws what this process's user should see of an error that ends the run: the first error of
  /// any process with its rank, of the others Error without text.
  [[noreturn]] void give_up(const Error& error) const;

 private:
  std::vector<std::vector<float>> gather(const std::vector<float>& numbers) const;

  std::unique_ptr<train::ProcessGroup> own_;
  train::ProcessGroup* group_ = nullptr;  // null: alone
  mutable Observer quiet_;
  Observer* observer_;
};

}  // namespace qalof::app
