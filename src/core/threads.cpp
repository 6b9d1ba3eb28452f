#include "core/threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"

namespace qalof {

namespace {

// A decoder starts a parallel loop every few tens of microseconds; waking a sleeping thread costs
// about as much. Workers therefore look for work this many times before they sleep (about 20 us).
constexpr int kSpins = 2000;

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// CPUs' worth of time that a cgroup directory grants, from "quota period" of version 2 or two files
// of version 1; 0 = no limit.
double granted_cpus(const std::string& directory) {
  std::string quota;
  double period = 0;
  if (std::ifstream v2(directory + "/cpu.max"); v2 >> quota >> period) {
    return quota == "max" || period <= 0 ? 0 : std::strtod(quota.c_str(), nullptr) / period;
  }
  double v1_quota = 0;
  std::ifstream quota_file(directory + "/cpu.cfs_quota_us"),
      period_file(directory + "/cpu.cfs_period_us");
  if (quota_file >> v1_quota && period_file >> period && v1_quota > 0 && period > 0)
    return v1_quota / period;
  return 0;
}

// The least that this process's cgroup or one above it grants; 0 = no limit. A container sees its
// own at the root.
double cgroup_cpus() {
  double limit = 0;
  const auto consider = [&](const std::string& directory) {
    const double granted = granted_cpus(directory);
    if (granted > 0 && (limit == 0 || granted < limit)) limit = granted;
  };
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (!line.starts_with("0::/")) continue;
    for (std::string path = line.substr(3); path.size() > 1; path.erase(path.rfind('/'))) {
      consider("/sys/fs/cgroup" + path);
    }
  }
  consider("/sys/fs/cgroup");
  consider("/sys/fs/cgroup/cpu");
  return limit;
}

}  // namespace

struct ThreadPool::State {
  explicit State(int count) {
    for (int i = 1; i < count; ++i) workers.emplace_back([this] { work(); });
  }
  ~State() {
    {
      const std::lock_guard lock(mutex);
      stopping.store(true, std::memory_order_release);
    }
    wake.notify_all();
    for (std::thread& worker : workers) worker.join();
  }

  void work() {
    std::uint64_t seen = 0;
    while (true) {
      for (int spin = 0; spin < kSpins && generation.load(std::memory_order_acquire) == seen;
           ++spin) {
        if (stopping.load(std::memory_order_acquire)) return;
        pause_cpu();
      }
      {
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] {
          return stopping.load(std::memory_order_acquire) ||
                 generation.load(std::memory_order_acquire) != seen;
        });
        if (stopping.load(std::memory_order_acquire)) return;
        seen = generation.load(std::memory_order_acquire);
      }
      take_tasks();
      running.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  void take_tasks() {
    for (std::size_t i = next.fetch_add(1); i < num_tasks; i = next.fetch_add(1)) {
      try {
        (*task)(i);
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
      }
    }
  }

  std::vector<std::thread> workers;
  std::mutex run_mutex;  // one run at a time
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<std::uint64_t> generation{0};
  std::atomic<bool> stopping{false};
  std::atomic<std::size_t> next{0};
  std::atomic<int> running{0};  // workers that have not finished the current generation
  std::size_t num_tasks = 0;
  const std::function<void(std::size_t)>* task = nullptr;
  std::mutex error_mutex;
  std::exception_ptr error;
};

ThreadPool::ThreadPool(int num_threads) {
  QALOF_CHECK(num_threads >= 1, ErrorKind::kUsage, "threads: found {}, expected at least 1",
              num_threads);
  state_ = std::make_unique<State>(num_threads);
}

ThreadPool::~ThreadPool() = default;

int ThreadPool::num_threads() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::run(std::size_t num_tasks, const std::function<void(std::size_t)>& task) {
  State& state = *state_;
  const std::lock_guard run_lock(state.run_mutex);
  if (state.workers.empty() || num_tasks <= 1) {
    for (std::size_t i = 0; i < num_tasks; ++i) task(i);
    return;
  }
  {
    const std::lock_guard lock(state.mutex);
    state.num_tasks = num_tasks;
    state.task = &task;
    state.next.store(0);
    state.running.store(static_cast<int>(state.workers.size()));
    state.generation.fetch_add(1, std::memory_order_acq_rel);
  }
  state.wake.notify_all();
  state.take_tasks();
  for (int spin = 0; state.running.load(std::memory_order_acquire) > 0; ++spin) {
    if (spin < kSpins) {
      pause_cpu();
    } else {
      std::this_thread::yield();
    }
  }
  if (state.error) {
    const std::exception_ptr error = std::exchange(state.error, nullptr);
    std::rethrow_exception(error);
  }
}

int available_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int count = sched_getaffinity(0, sizeof(set), &set) == 0
                  ? CPU_COUNT(&set)
                  : static_cast<int>(std::thread::hardware_concurrency());
  const double limit = cgroup_cpus();
  if (limit > 0) count = std::min(count, std::max(1, static_cast<int>(limit + 0.5)));
  return std::max(1, count);
}

}  // namespace qalof
