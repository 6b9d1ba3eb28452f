// The thread pool: every task once, exceptions, callers from several threads, sleeping and waking.
#include "core/threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/error.h"
#include "support/error_of.h"

namespace qalof {
namespace threads_test {

class ThreadPoolSizes : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolSizes, RunsEveryTaskExactlyOnceAndSeesItsWrites) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.num_threads(), GetParam());
  for (const std::size_t num_tasks : {0U, 1U, 2U, 3U, 7U, 64U, 1000U}) {
    for (int repeat = 0; repeat < 50; ++repeat) {
      std::vector<int> calls(num_tasks, 0);  // not atomic: run must publish what tasks wrote
      pool.run(num_tasks, [&](std::size_t i) { ++calls[i]; });
      ASSERT_EQ(calls, std::vector<int>(num_tasks, 1));
    }
  }
}

TEST_P(ThreadPoolSizes, RethrowsATasksExceptionAndStaysUsable) {
  ThreadPool pool(GetParam());
  for (int repeat = 0; repeat < 20; ++repeat) {
    EXPECT_THROW(pool.run(10,
                          [](std::size_t i) {
                            if (i == 3) throw std::runtime_error("task");
                          }),
                 std::runtime_error);
    std::atomic<int> calls{0};
    pool.run(10, [&](std::size_t) { ++calls; });
    EXPECT_EQ(calls, 10);
  }
}

TEST_P(ThreadPoolSizes, WakesWorkersThatFellAsleep) {
  ThreadPool pool(GetParam());
  for (int repeat = 0; repeat < 10; ++repeat) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::vector<int> calls(9, 0);
    pool.run(9, [&](std::size_t i) { ++calls[i]; });
    ASSERT_EQ(calls, std::vector<int>(9, 1));
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolSizes, ::testing::Values(1, 2, 3, 8));

TEST(ThreadPool, ServesConcurrentCallersOneAfterTheOther) {
  ThreadPool pool(3);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 100; ++repeat) {
        std::vector<int> calls(13, 0);
        pool.run(13, [&](std::size_t i) { ++calls[i]; });
        if (calls != std::vector<int>(13, 1)) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
}

TEST(ThreadPool, TwoTasksRunAtTheSameTime) {
  ThreadPool pool(2);
  std::atomic<int> arrived{0};
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  pool.run(2, [&](std::size_t) {
    ++arrived;
    while (arrived < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  });
  EXPECT_LT(std::chrono::steady_clock::now(), deadline);
}

TEST(ThreadPool, RefusesFewerThanOneThread) {
  for (const int count : {0, -1}) {
    const auto error = testing::error_of([&] { ThreadPool pool(count); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage);
    EXPECT_NE(error.message.find("expected at least 1"), std::string::npos);
  }
}

TEST(ThreadPool, StartsAndStopsWithoutWork) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(4);
}

TEST(AvailableThreads, IsAtLeastOneAndAtMostWhatTheMachineHas) {
  EXPECT_GE(available_threads(), 1);
  EXPECT_LE(available_threads(), static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace threads_test
}  // namespace qalof
