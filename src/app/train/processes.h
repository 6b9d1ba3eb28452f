// A training run among the processes that a launcher started, or alone: who leads, and what the
// others do meanwhile.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "app/train/run.h"
#include "core/error.h"
#include "train/process_group.h"

namespace qalof::app {

/// The first process leads: it alone reads checkpoints' lists, writes, scores and reports. The
/// others read the same files and compute their share of every step. Alone, every call is empty.
class Processes {
 public:
  /// Connects to the others where options name no group and a launcher's variables tell of more
  /// than one process; shares the machine's threads with them. Counts micro-batches of all
  /// processes in options. Error{kUsage} for numbers of them that give no fixed tree.
  Processes(TrainRunOptions& options, Observer& observer);

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
  /// Throws what this process's user should see of an error that ends the run: the first error of
  /// any process with its rank, of the others Error without text.
  [[noreturn]] void give_up(const Error& error) const;

 private:
  std::unique_ptr<train::ProcessGroup> own_;
  train::ProcessGroup* group_ = nullptr;  // null: alone
  Observer quiet_;
  Observer* observer_;
};

}  // namespace qalof::app
