// What is shared is made once and the same for all, whoever ends in the middle.
#include "core/shared_memory.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "support/group_of_threads.h"

namespace qalof {
namespace shared_memory_test {

using qalof::testing::GroupOfThreads;

std::vector<std::byte> bytes_of(std::size_t part) {
  std::vector<std::byte> bytes(part * 5000 + 1);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 + part);
  return bytes;
}

bool is_part(std::span<const std::byte> bytes, std::size_t part) {
  const std::vector<std::byte> expected = bytes_of(part);
  return std::equal(bytes.begin(), bytes.end(), expected.begin(), expected.end());
}

TEST(SharedMemory, EveryPartIsMadeOnceAndIsTheSameForAll) {
  constexpr std::size_t kRanks = 3, kParts = 20;
  GroupOfThreads::Meeting meeting(kRanks);
  std::atomic<int> made = 0;
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      GroupOfThreads group(meeting, rank);
      const auto memory = SharedMemory::connect(group);
      ASSERT_NE(memory, nullptr);
      std::vector<std::span<const std::byte>> parts(kParts);
      for (std::size_t i = 0; i < kParts; ++i) {
        const std::size_t part = (i + rank * 7) % kParts;  // each in an order of its own
        parts[part] = memory->get("part " + std::to_string(part), [&] {
          ++made;
          return bytes_of(part);
        });
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(parts[part].data()) % 4096, 0U);
      }
      for (std::size_t part = 0; part < kParts; ++part) EXPECT_TRUE(is_part(parts[part], part));
      group.wait_for_all();  // as long as others may still open it
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(made, static_cast<int>(kParts));
}

TEST(SharedMemory, OneProcessAloneSharesNothing) {
  GroupOfThreads::Meeting meeting(1);
  GroupOfThreads group(meeting, 0);
  EXPECT_EQ(SharedMemory::connect(group), nullptr);
}

TEST(SharedMemory, AProcessKilledWhileItMakesAPartLetsOthersMakeIt) {
  GroupOfThreads::Meeting meeting(2);
  std::shared_ptr<SharedMemory> memories[2];
  std::thread other([&] {
    GroupOfThreads group(meeting, 1);
    memories[1] = SharedMemory::connect(group);
  });
  GroupOfThreads group(meeting, 0);
  memories[0] = SharedMemory::connect(group);
  other.join();
  ASSERT_NE(memories[0], nullptr);
  ASSERT_NE(memories[1], nullptr);
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    memories[1]->get("half", [&]() -> std::vector<std::byte> {
      (void)!::write(ready[1], "x", 1);
      ::pause();
      return {};
    });
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  ::kill(child, SIGKILL);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  memories[1].reset();  // a fork shares opened files, and with them the lock
  EXPECT_TRUE(is_part(memories[0]->get("half", [] { return bytes_of(3); }), 3));
  ::close(ready[0]);
  ::close(ready[1]);
}

}  // namespace shared_memory_test
}  // namespace qalof
