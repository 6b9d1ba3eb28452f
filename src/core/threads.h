// Parallel loops. Kernels never own threads: they take a ParallelFor. Inference and training pass a
// ThreadPool; training also sets ATen to one thread, because two pools on one machine halve the
// speed (docs/decisions/0001-foundations.md).
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace qalof {

/// Runs independent tasks. Implementations may run tasks in any order and on any thread; a task
/// must write only what no other task of the same run reads or writes.
class ParallelFor {
 public:
  virtual ~ParallelFor() = default;
  /// Threads that may run at once, the caller's included; at least 1.
  virtual int num_threads() const = 0;
  /// Calls task(0) .. task(num_tasks - 1) and returns when all have returned. The first exception
  /// thrown by a task is rethrown here. Not reentrant: a task must not call run of the same object.
  virtual void run(std::size_t num_tasks, const std::function<void(std::size_t)>& task) = 0;
};

/// Runs every task on the calling thread. Stateless, so threads may share it.
class SerialFor final : public ParallelFor {
 public:
  int num_threads() const override { return 1; }
  void run(std::size_t num_tasks, const std::function<void(std::size_t)>& task) override {
    for (std::size_t i = 0; i < num_tasks; ++i) task(i);
  }
};

/// A fixed pool of num_threads - 1 workers plus the caller. One run at a time: concurrent callers
/// of run are served one after the other.
class ThreadPool final : public ParallelFor {
 public:
  /// num_threads >= 1, else Error{kUsage}.
  explicit ThreadPool(int num_threads);
  ~ThreadPool() override;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const override;
  void run(std::size_t num_tasks, const std::function<void(std::size_t)>& task) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// CPUs this process may use, given affinity and cgroup quota; at least 1.
int available_threads();

}  // namespace qalof
