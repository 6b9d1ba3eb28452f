// A run among the processes that a launcher started, or alone: who leads, what they share, and how
// they end.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/error.h"
#include "core/json.h"
#include "core/options.h"
#include "core/process_group.h"
#include "core/progress.h"
#include "core/shared_memory.h"
#include "tasks/task.h"

namespace qalof::app {

struct ModelHandle;

/// How the processes of a run treat each other.
struct ProcessOptions {
  std::uint64_t timeout_seconds = 60;  // until one that does not answer ends the run

  void list(OptionList& list);
};

/// The first process leads: it alone reads checkpoints' lists, writes and reports. The others read
/// the same files and compute their share. Alone, every call is empty.
class Processes {
 public:
  /// This process, alone.
  explicit Processes(Observer& observer) : observer_(&observer) {}
  /// A group that someone else keeps. Null: alone.
  Processes(ProcessGroup* group, Observer& observer);
  /// Keeps the group. Shares this machine's threads with its other processes where threads is 0.
  Processes(std::unique_ptr<ProcessGroup> group, const Launch& launch, int& threads,
            Observer& observer);

  /// Null: this process is alone.
  ProcessGroup* group() const { return group_; }
  std::size_t count() const { return group_ != nullptr ? group_->size() : 1; }
  bool lead() const { return rank() == 0; }
  std::size_t rank() const { return group_ != nullptr ? group_->rank() : 0; }
  /// For packed weights, of the processes of this machine. Null: none.
  const std::shared_ptr<SharedMemory>& shared_memory() const { return shared_memory_; }
  /// Of the process that leads the caller's; of the others one that shows nothing.
  Observer& observer() const { return lead() ? *observer_ : quiet_; }
  /// What `make` returns on the process that leads, on every process.
  std::string of_leader(const std::function<std::string()>& make) const;
  /// Error{kUsage} tells in difference's words where this process was started for another run than
  /// the one that leads; "" are none.
  void check_same(
      const Json& own,
      const std::function<std::string(const Json& first, const Json& own)>& difference) const;
  /// Returns when every process is here, however long one takes.
  void wait_for_all() const;
  /// The task's scores on every process, equal to those of one process alone. Each process computes
  /// its share of the batches. Then the results are exchanged, and every process scores all of
  /// them. The process that leads writes the files of predictions.
  tasks::Scores evaluate(const tasks::Task& task, const tasks::Evaluation& run,
                         const tasks::DataOptions& data) const;
  /// Throws what this process's user should see of an error that ends the run: the first error of
  /// any process with its rank, of the others Error without text.
  [[noreturn]] void give_up(const Error& error) const;

 private:
  std::unique_ptr<ProcessGroup> own_;
  ProcessGroup* group_ = nullptr;  // null: alone
  std::shared_ptr<SharedMemory> shared_memory_;
  mutable Observer quiet_;
  Observer* observer_;
};

/// check_same for the model, its adapters and the file of a flag, which each process reads itself.
void check_same_inputs(const Processes& processes, const ModelHandle& handle,
                       const std::string& flag, const std::string& file);

/// Calls work, and ends all processes together where it throws an Error.
void run_together(const Processes& processes, const std::function<void()>& work);

}  // namespace qalof::app
