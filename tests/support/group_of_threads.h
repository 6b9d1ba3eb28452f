// A group whose processes are threads of this one, for tests.
#pragma once

#include <gtest/gtest.h>

#include <barrier>
#include <cstring>
#include <mutex>
#include <vector>

#include "core/process_group.h"

namespace qalof::testing {

class GroupOfThreads final : public ProcessGroup {
 public:
  struct Meeting {
    explicit Meeting(std::size_t count)
        : size(count), all_here(static_cast<std::ptrdiff_t>(count)) {}
    std::size_t size;
    std::barrier<> all_here;
    std::mutex mutex;
    std::vector<char> bytes;
  };
  GroupOfThreads(Meeting& meeting, std::size_t rank) : meeting_(meeting), rank_(rank) {}
  std::size_t rank() const override { return rank_; }
  std::size_t size() const override { return meeting_.size; }
  std::size_t local_rank() const override { return rank_; }
  void sum(std::span<float> /*values*/, std::size_t /*contributors*/) override { FAIL(); }
  void gather(std::span<const std::byte> own, std::span<std::byte> all) override {
    EXPECT_EQ(all.size(), own.size() * size());
    {
      const std::lock_guard<std::mutex> lock(meeting_.mutex);
      meeting_.bytes.resize(all.size());
      std::memcpy(meeting_.bytes.data() + rank_ * own.size(), own.data(), own.size());
    }
    wait_for_all();
    std::memcpy(all.data(), meeting_.bytes.data(), all.size());
    wait_for_all();
  }
  std::string broadcast(const std::string& text) override { return text; }
  void wait_for_all() override { meeting_.all_here.arrive_and_wait(); }
  bool report_failure(const std::string& /*reason*/) override { return true; }

 private:
  Meeting& meeting_;
  std::size_t rank_;
};

}  // namespace qalof::testing
