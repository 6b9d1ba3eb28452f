// Random precision: parsing of sets, and draws that are uniform functions of seed, request and
// layer.
#include "quant/random_precision.h"

#include <gmock/gmock.h>

#include <array>

#include "core/error.h"
#include "support/error_of.h"

namespace qalof::quant {
namespace random_precision_test {

using qalof::testing::error_of;
using ::testing::HasSubstr;

// Pearson's statistic of counts that should be equal.
double chi_square(const std::vector<std::uint64_t>& counts) {
  double total = 0, sum = 0;
  for (const std::uint64_t count : counts) total += static_cast<double>(count);
  const double expected = total / static_cast<double>(counts.size());
  for (const std::uint64_t count : counts) {
    const double off = static_cast<double>(count) - expected;
    sum += off * off / expected;
  }
  return sum;
}

// Upper 0.001 quantiles of chi-square with 4 and 24 degrees of freedom.
constexpr double kFour = 18.467, kTwentyFour = 51.179;

TEST(RandomPrecision, SetIsReadInOrderAndWrittenBack) {
  const RandomPrecision random = parse_random_precision("random:4,w4a8kv8,8");
  ASSERT_EQ(random.set.size(), 3U);
  EXPECT_EQ(to_string(random.set[0]), "w4a4kv4");
  EXPECT_EQ(to_string(random), "random:w4a4kv4,w4a8kv8,w8a8kv8");
  EXPECT_EQ(parse_random_precision(to_string(random)).set, random.set);
  const std::vector<PlanSpec> plans = list_plans(random);
  ASSERT_EQ(plans.size(), 3U);
  EXPECT_EQ(plans[1].default_precision, random.set[1]);
  EXPECT_TRUE(is_random_precision("random:"));
  EXPECT_FALSE(is_random_precision("8"));
  EXPECT_FALSE(is_random_precision("plans/random:4.json"));
}

TEST(RandomPrecision, BadSetsAreRefusedByASentence) {
  struct Case {
    const char* text;
    const char* says;
  };
  for (const Case& bad : {Case{"random:", "a width is missing"},
                          {"random:4,,8", "a width is missing"},
                          {"random:4,8,", "a width is missing"},
                          {"random:8", "one width leaves nothing to draw"},
                          {"random:4,8,w4a4kv4", "w4a4kv4 appears twice"},
                          {"random:4,9", "precision \"9\": expected N"},
                          {"random:4 8", "precision \"4 8\""},
                          {"random:4,w8a4x", "precision \"w8a4x\""},
                          {"random:4,w16a8", "need activations of 16"}}) {
    const auto error = error_of([&] { parse_random_precision(bad.text); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage) << bad.text;
    EXPECT_THAT(error.message, HasSubstr(bad.says)) << bad.text;
  }
  EXPECT_EQ(error_of([] { parse_random_precision("random:4,random:8"); }).kind,
            ErrorKind::kUnsupported);
  EXPECT_EQ(error_of([] { parse_random_precision("random:4,plan.json"); }).kind, ErrorKind::kUsage);
  EXPECT_EQ(error_of([] { parse_drawn_widths("linear"); }).message,
            "--random_widths: found linear, expected request or layer");
}

TEST(RandomPrecision, DrawsAreUniformAndThoseOfNeighboursIndependent) {
  constexpr std::size_t kChoices = 5, kRequests = 20'000;
  const PrecisionDraws draws(7, kChoices), other(8, kChoices);
  std::vector<std::uint64_t> requests(kChoices), layers(kChoices), pairs(kChoices * kChoices),
      seeds(kChoices * kChoices), nested(kChoices * kChoices);
  for (std::uint64_t i = 0; i < kRequests; ++i) {
    const std::size_t drawn = draws.of_request(i);
    ++requests[drawn];
    ++layers[draws.of_layer(i, 3)];
    ++pairs[drawn * kChoices + draws.of_request(i + 1)];
    ++seeds[drawn * kChoices + other.of_request(i)];
    ++nested[draws.of_layer(i, 0) * kChoices + draws.of_layer(i, 1)];
  }
  EXPECT_LT(chi_square(requests), kFour);
  EXPECT_LT(chi_square(layers), kFour);
  EXPECT_LT(chi_square(pairs), kTwentyFour);
  EXPECT_LT(chi_square(seeds), kTwentyFour);
  EXPECT_LT(chi_square(nested), kTwentyFour);
}

TEST(RandomPrecision, DrawsAreFunctionsOfSeedRequestAndLayer) {
  const PrecisionDraws one(3, 4), again(3, 4), other(4, 4);
  std::size_t differ = 0;
  for (std::uint64_t i = 100; i-- > 0;) {  // any order
    EXPECT_EQ(one.of_request(i), again.of_request(i));
    EXPECT_EQ(one.of_layer(i, 5), again.of_layer(i, 5));
    EXPECT_LT(one.of_request(i), 4U);
    differ += one.of_request(i) != other.of_request(i) ? 1 : 0;
  }
  EXPECT_GT(differ, 50U);
  EXPECT_NE(system_seed(), system_seed()) << "64 bits: never equal by chance";
}

}  // namespace random_precision_test
}  // namespace qalof::quant
