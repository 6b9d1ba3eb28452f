// A thread pool whose workers spin briefly before they sleep, and the CPU count under affinity and
// cgroup limits.
#include "core/threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <limits>
#include <mutex>
#include <string>
#include <system_error>
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
#elif defined(__aarch64__)
  asm volatile("isb");  // takes about as long as x86's pause, while most processors ignore yield
#endif
}

// CPUs that a cgroup directory grants: from "quota period" of version 2 or the two files of version
// 1; 0 = no limit.
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

// The smallest limit of this process's cgroup and those above it; 0 = no limit. Inside a container
// its own cgroup is the root.
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

// A run ends when its tasks are done, even if some workers have not noticed the run: on a busy
// machine a worker may not get a CPU for milliseconds. A late worker finds no tasks left.
struct ThreadPool::State {
  explicit State(int count) {
    workers.reserve(static_cast<std::size_t>(count));
    try {
      for (int i = 1; i < count; ++i) workers.emplace_back([this] { work(); });
    } catch (const std::system_error&) {  // no more threads to be had: fewer do the same work
    }
  }
  ~State() {
    stopping.store(true);
    wake_all();
    for (std::thread& worker : workers) worker.join();
  }

  static std::uint32_t left_of(std::uint64_t open) { return static_cast<std::uint32_t>(open); }
  static std::uint64_t generation_of(std::uint64_t open) { return open >> 32; }

  void start(std::size_t count, const std::function<void(std::size_t)>& body) {
    num_tasks = count;
    task = &body;
    done.store(0, std::memory_order_relaxed);
    const std::uint64_t generation = generation_of(open.load(std::memory_order_relaxed)) + 1;
    open.store(generation << 32 | count);
    if (sleepers.load() > 0) wake_all();
  }
  void wake_all() {
    { const std::lock_guard lock(mutex); }  // a worker that is about to sleep does so first
    wake.notify_all();
  }

  void work() {
    std::uint64_t seen = 0;
    const auto is_news = [&] { return stopping.load() || generation_of(open.load()) != seen; };
    while (true) {
      for (int spin = 0; spin < kSpins && !is_news(); ++spin) pause_cpu();
      if (!is_news()) {
        std::unique_lock lock(mutex);
        sleepers.fetch_add(1);
        wake.wait(lock, is_news);
        sleepers.fetch_sub(1);
      }
      if (stopping.load()) return;
      seen = generation_of(open.load());
      take_tasks();
    }
  }

  void take_tasks() {
    std::uint64_t now = open.load();
    while (left_of(now) > 0) {
      if (!open.compare_exchange_weak(now, now - 1)) continue;
      // The run cannot end before this task does, so task and num_tasks are those of this run.
      try {
        (*task)(num_tasks - left_of(now));
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
      }
      done.fetch_add(1);
      now = open.load();
    }
  }

  std::vector<std::thread> workers;
  std::mutex run_mutex;  // one run at a time
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<int> sleepers{0};
  std::atomic<bool> stopping{false};
  std::atomic<std::uint64_t> open{0};  // run number << 32 | tasks not yet taken
  std::atomic<std::size_t> done{0};
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
  QALOF_CHECK(num_tasks <= std::numeric_limits<std::uint32_t>::max(), ErrorKind::kInternal,
              "threads: {} tasks in one run", num_tasks);
  state.start(num_tasks, task);
  state.take_tasks();
  for (int spin = 0; state.done.load() < num_tasks; ++spin) {
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
  if (limit > 0) count = std::min(count, std::max(1, static_cast<int>(std::lround(limit))));
  return std::max(1, count);
}

}  // namespace qalof
