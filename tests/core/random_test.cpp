// Random streams: known answers of the block function, and that numbers depend on what they should
// and nothing else.
#include "core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

namespace qalof {
namespace random_test {

using Words = std::array<std::uint32_t, 4>;

TEST(Philox, GivesThePublishedKnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomStream, DiffersBySeedNameStepAndIndex) {
  const RandomStream stream(1, "dropout");
  std::set<Words> seen = {stream.words(0, 0),
                          stream.words(0, 1),
                          stream.words(1, 0),
                          stream.words(std::uint64_t{1} << 32, 0),
                          stream.words(0, std::uint64_t{1} << 32),
                          RandomStream(2, "dropout").words(0, 0),
                          RandomStream(1, "order").words(0, 0)};
  EXPECT_EQ(seen.size(), 7U);
  EXPECT_EQ(stream.words(3, 4), RandomStream(1, "dropout").words(3, 4));
}

TEST(RandomStream, UniformFillsTheUnitIntervalEvenly) {
  const RandomStream stream(7, "u");
  constexpr int kCount = 100000;
  double sum = 0, squares = 0;
  for (int i = 0; i < kCount; ++i) {
    const float u = stream.uniform(0, static_cast<std::uint64_t>(i));
    ASSERT_TRUE(u >= 0.0F && u < 1.0F);
    sum += u;
    squares += static_cast<double>(u) * u;
  }
  EXPECT_LE(std::abs(sum / kCount - 0.5), 0.005);  // five standard errors
  EXPECT_LE(std::abs(squares / kCount - 1.0 / 3), 0.005);
}

TEST(RandomStream, NormalHasMeanZeroVarianceOneAndLightTails) {
  const RandomStream stream(7, "n");
  constexpr int kCount = 100000;
  double sum = 0, squares = 0, fourth = 0;
  for (int i = 0; i < kCount; ++i) {
    const double x = stream.normal(5, static_cast<std::uint64_t>(i));
    ASSERT_TRUE(std::isfinite(x));
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
  }
  EXPECT_LE(std::abs(sum / kCount), 0.016);
  EXPECT_LE(std::abs(squares / kCount - 1), 0.023);
  EXPECT_LE(std::abs(fourth / kCount - 3), 0.16);
}

TEST(RandomStream, BelowStaysInBoundAndReachesEveryValueEvenly) {
  const RandomStream stream(3, "b");
  for (const std::uint64_t bound : {1U, 2U, 3U, 7U, 10U}) {
    std::vector<int> counts(bound);
    const int draws = 6000;
    for (int i = 0; i < draws; ++i) {
      const std::uint64_t value = stream.below(bound, bound, static_cast<std::uint64_t>(i));
      ASSERT_LT(value, bound);
      ++counts[value];
    }
    const double expected = draws / static_cast<double>(bound);
    for (const int count : counts) EXPECT_LE(std::abs(count - expected), 6 * std::sqrt(expected));
  }
  // A bound just above half of the range rejects nearly every second draw.
  const std::uint64_t big = (std::uint64_t{1} << 63) + 1;
  for (std::uint64_t i = 0; i < 200; ++i) EXPECT_LT(stream.below(big, 0, i), big);
}

TEST(RandomStream, PermutationHoldsEveryNumberOnceAndChangesWithTheStep) {
  const RandomStream stream(11, "order");
  for (const std::size_t n : {0U, 1U, 2U, 17U, 1000U}) {
    std::vector<std::uint32_t> order(n), sorted(n);
    stream.permutation(4, order);
    sorted = order;
    std::sort(sorted.begin(), sorted.end());
    std::vector<std::uint32_t> identity(n);
    std::iota(identity.begin(), identity.end(), 0U);
    EXPECT_EQ(sorted, identity);
    if (n < 17) continue;
    EXPECT_NE(order, identity);
    std::vector<std::uint32_t> next(n), again(n);
    stream.permutation(5, next);
    stream.permutation(4, again);
    EXPECT_NE(order, next);
    EXPECT_EQ(order, again);
  }
}

TEST(RandomStream, PermutedHoldsEveryNumberOnceAndChangesWithTheStep) {
  const RandomStream stream(11, "order");
  for (const std::uint32_t n : {1U, 2U, 3U, 17U, 1000U, 70'000U}) {
    std::set<std::uint32_t> seen;
    std::size_t as_before = 0, in_place = 0;
    for (std::uint32_t i = 0; i < n; ++i) {
      const std::uint32_t number = stream.permuted(4, n, i);
      ASSERT_LT(number, n);
      seen.insert(number);
      as_before += number == stream.permuted(5, n, i) ? 1 : 0;
      in_place += number == i ? 1 : 0;
    }
    EXPECT_EQ(seen.size(), n);
    // A random permutation keeps one number in place on average, whatever n is.
    if (n < 1000) continue;
    EXPECT_LT(as_before + in_place, 12U);
  }
  // The largest counts end, too.
  for (const std::uint32_t count : {0x80000001U, 0xFFFFFFFFU})
    EXPECT_LT(stream.permuted(0, count, count - 1), count);
  // Over many steps every place is reached alike: 4,000 draws of 8 places, 500 each but for chance
  // (a standard deviation of 21).
  std::array<int, 8> reached{};
  for (std::uint64_t step = 0; step < 4'000; ++step) ++reached[stream.permuted(step, 8, 3)];
  for (const int count : reached) EXPECT_NEAR(count, 500, 110);
}

}  // namespace random_test
}  // namespace qalof
