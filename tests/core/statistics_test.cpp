// Rank correlation, bootstrap and Wilson intervals against hand-worked and textbook values.
#include "core/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/random.h"

namespace qalof {
namespace statistics_test {

TEST(Spearman, AveragesRanksOfTies) {
  // Ranks 0, 1.5, 1.5, 3 against 0, 2, 1, 3: 4.5 / sqrt(4.5 * 5).
  const std::vector<double> a = {1, 2, 2, 7}, b = {10, 30, 20, 40};
  EXPECT_NEAR(spearman(a, b), 4.5 / std::sqrt(4.5 * 5.0), 1e-15);
}

TEST(Spearman, SeesOrderAlone) {
  const std::vector<double> a = {-3, 0.1, 5, 1000}, up = {1, 2, 3, 4}, down = {4, 3, 2, 1};
  EXPECT_EQ(spearman(a, up), 1);
  EXPECT_EQ(spearman(a, down), -1);
  EXPECT_TRUE(std::isnan(spearman(a, std::vector<double>{2, 2, 2, 2})));
}

TEST(Bootstrap, HasTheWidthOfTheMeansError) {
  const RandomStream stream(7, "differences");
  std::vector<double> values(400);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = 2 + stream.normal(0, i);
  const MeanAndError found = mean_and_error(values);
  EXPECT_NEAR(found.error, 0.05, 0.005);
  const Interval interval = PairedBootstrap(values.size()).interval(values);
  // Of 2,000 draws a quantile at 2.5 % is known to about a tenth of the error.
  EXPECT_NEAR(interval.low, found.mean - 1.96 * found.error, 0.2 * found.error);
  EXPECT_NEAR(interval.high, found.mean + 1.96 * found.error, 0.2 * found.error);
}

TEST(Bootstrap, EqualDifferencesLeaveNothingOpen) {
  const Interval interval = PairedBootstrap(5).interval(std::vector<double>(5, 3.0));
  EXPECT_EQ(interval.low, 3);
  EXPECT_EQ(interval.high, 3);
}

// Values of R's prop.test without continuity correction.
TEST(WilsonInterval, IsThatOfTheTextbookAndHoldsItsShare) {
  const Interval some = wilson_interval(0.08, 50);
  EXPECT_NEAR(some.low, 0.03155, 5e-5);
  EXPECT_NEAR(some.high, 0.18838, 5e-5);
  const Interval none = wilson_interval(0, 200), all = wilson_interval(1, 200);
  EXPECT_EQ(none.low, 0);
  EXPECT_NEAR(none.high, 0.01885, 5e-5);
  EXPECT_EQ(all.high, 1);
  EXPECT_DOUBLE_EQ(all.low, 1 - none.high);
  EXPECT_EQ(wilson_interval(0, 0).high, 1);
}

TEST(Median, IsTheMiddleValueOrTheMeanOfTwo) {
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 3, 2}), 2.5);
  EXPECT_EQ(median({7}), 7);
  EXPECT_TRUE(std::isnan(median({})));
}

}  // namespace statistics_test
}  // namespace qalof
