// Sums of segments have the same bits, whatever process adds which of them.
#include "core/segment_sums.h"

#include <gtest/gtest.h>

#include <thread>

#include "core/error.h"
#include "support/error_of.h"
#include "support/group_of_threads.h"

namespace qalof {
namespace segment_sums_test {

using qalof::testing::GroupOfThreads;

// Longer than what is exchanged at a time; every order of adding has other last bits.
constexpr std::size_t kSize = (std::size_t{1} << 16) + 5;

std::vector<double> segment(std::size_t index) {
  std::vector<double> values(kSize);
  for (std::size_t i = 0; i < kSize; ++i)
    values[i] = static_cast<double>((i + 3) * (index + 7) % 1009) / 3.0;
  return values;
}

// Halves are added to each other, and each is the sum of its own halves.
std::vector<double> tree(std::size_t first, std::size_t end) {
  if (end - first == 1) return segment(first);
  const std::size_t middle = (first + end) / 2;
  std::vector<double> sum = tree(first, middle);
  const std::vector<double> right = tree(middle, end);
  for (std::size_t i = 0; i < kSize; ++i) sum[i] += right[i];
  return sum;
}

std::vector<double> shared(ProcessGroup* group) {
  SegmentSums sums(kSize);
  const IndexRange own = own_part(kSegments, group);
  for (std::size_t i = own.first; i < own.end; ++i) sums.add(i, segment(i));
  return sums.finish(group);
}

TEST(SegmentSums, AreThoseOfOneTreeOnAnyNumberOfProcesses) {
  const std::vector<double> expected = tree(0, kSegments);
  std::vector<double> in_order = segment(0);
  for (std::size_t s = 1; s < kSegments; ++s) {
    const std::vector<double> next = segment(s);
    for (std::size_t i = 0; i < kSize; ++i) in_order[i] += next[i];
  }
  EXPECT_FALSE(expected == in_order);
  EXPECT_TRUE(shared(nullptr) == expected);
  for (const std::size_t ranks : {1U, 2U, 3U, 5U, 8U, 16U, 18U}) {
    GroupOfThreads::Meeting meeting(ranks);
    std::vector<std::thread> processes;
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      processes.emplace_back([&, rank] {
        GroupOfThreads group(meeting, rank);
        EXPECT_TRUE(shared(&group) == expected) << rank << " of " << ranks;
      });
    }
    for (std::thread& process : processes) process.join();
  }
}

TEST(SegmentSums, AMissingSegmentIsNoticed) {
  SegmentSums sums(1);
  for (std::size_t i = 0; i + 1 < kSegments; ++i) sums.add(i, {1.0});
  EXPECT_EQ(qalof::testing::error_of([&] { sums.finish(nullptr); }).kind, ErrorKind::kInternal);
}

}  // namespace segment_sums_test
}  // namespace qalof
