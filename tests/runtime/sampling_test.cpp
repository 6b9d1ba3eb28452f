// Token choice: greedy, temperature, top-k and top-p against their definitions, and determinism.
#include "runtime/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "support/error_of.h"

namespace qalof::runtime {
namespace sampling_test {

std::vector<float> some_logits(std::size_t count) {
  const RandomStream random(5, "logits");
  std::vector<float> logits(count);
  for (std::size_t i = 0; i < count; ++i) logits[i] = 2 * random.normal(0, i);
  return logits;
}

std::map<std::int32_t, int> counts(const SamplingOptions& options, std::span<const float> logits,
                                   int draws) {
  Sampler sampler(options);
  std::map<std::int32_t, int> result;
  for (int i = 0; i < draws; ++i) ++result[sampler.sample(logits, static_cast<std::uint64_t>(i))];
  return result;
}

// Ids by falling logit.
std::vector<std::int32_t> ranked(std::span<const float> logits) {
  std::vector<std::int32_t> ids(logits.size());
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i);
  std::stable_sort(ids.begin(), ids.end(), [&](std::int32_t a, std::int32_t b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  return ids;
}

TEST(SamplerTest, GreedyTakesTheFirstOfTheLargest) {
  Sampler sampler({});
  EXPECT_EQ(sampler.sample(std::vector<float>{-3, 1, 7, 7, 2}, 0), 2);
  EXPECT_EQ(sampler.sample(std::vector<float>{-std::numeric_limits<float>::infinity(), -1}, 1), 1);
}

TEST(SamplerTest, GreedyIsTheDefinitionInVocabulariesOfEveryLength) {
  Sampler sampler({});
  for (const std::size_t count : {1, 15, 16, 17, 1023, 1024, 1025, 2047, 5000}) {
    std::vector<float> logits = some_logits(count);
    EXPECT_EQ(sampler.sample(logits, 0), ranked(logits).front()) << count;
    // Equal ones in several blocks and lanes: the first counts.
    for (std::size_t i = count / 3; i < count; i += 7) logits[i] = 100;
    EXPECT_EQ(sampler.sample(logits, 0), static_cast<std::int32_t>(count / 3)) << count;
    for (const std::size_t bad : {std::size_t{0}, count / 2, count - 1}) {
      std::vector<float> with_nan = logits;
      with_nan[bad] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_THROW((void)sampler.sample(with_nan, 0), Error) << count << " at " << bad;
    }
  }
}

TEST(SamplerTest, FrequenciesFollowTheSoftmaxAtATemperature) {
  const std::vector<float> logits = some_logits(12);
  constexpr int kDraws = 40000;
  for (const double temperature : {0.5, 1.0, 2.0}) {
    double total = 0;
    for (const float z : logits) total += std::exp(double{z} / temperature);
    const auto found = counts({.temperature = temperature, .seed = 9}, logits, kDraws);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double p = std::exp(double{logits[i]} / temperature) / total;
      const auto it = found.find(static_cast<std::int32_t>(i));
      const double share = it == found.end() ? 0 : it->second / double{kDraws};
      EXPECT_LE(std::abs(share - p), 4.5 * std::sqrt(p * (1 - p) / kDraws)) << i;
    }
  }
}

TEST(SamplerTest, TopKKeepsTheKMostLikely) {
  const std::vector<float> logits = some_logits(300);
  const std::vector<std::int32_t> order = ranked(logits);
  const auto found = counts({.temperature = 20, .top_k = 5}, logits, 2000);
  ASSERT_EQ(found.size(), 5U);
  for (std::size_t i = 0; i < 5; ++i) EXPECT_TRUE(found.contains(order[i]));
  EXPECT_EQ(counts({.temperature = 20, .top_k = 1}, logits, 50).size(), 1U);
  EXPECT_GT(counts({.temperature = 20, .top_k = 1000}, logits, 2000).size(), 200U);
}

// 300 equal tokens and some better ones: the set grows past what is sorted first.
TEST(SamplerTest, TopPKeepsTheFewestThatReachIt) {
  std::vector<float> logits(300, 0.0F);
  logits[7] = logits[200] = std::log(100.0F);  // weights 100, 100 and 298 x 1
  const auto ids = [&](double p) {
    std::vector<std::int32_t> found;
    for (const auto& [id, count] : counts({.temperature = 1, .top_p = p}, logits, 20000))
      found.push_back(id);
    return found;
  };
  EXPECT_EQ(ids(0.1), std::vector<std::int32_t>{7});
  EXPECT_EQ(ids(0.35), (std::vector<std::int32_t>{7, 200}));
  std::vector<std::int32_t> first100 = ids(299.5 / 498);  // 100 ones more, lowest ids first
  EXPECT_EQ(first100.size(), 102U);
  EXPECT_EQ(first100.front(), 0);
  EXPECT_EQ(first100[first100.size() - 2], 100);
  EXPECT_EQ(ids(1.0).size(), 300U);
}

TEST(SamplerTest, TopPCountsWithinTopK) {
  std::vector<float> logits = {std::log(4.0F), std::log(3.0F), std::log(2.0F), std::log(1.0F)};
  // Of the first two, the first alone has 4/7; of all four it has 4/10.
  EXPECT_EQ(counts({.temperature = 1, .top_k = 2, .top_p = 0.5}, logits, 500).size(), 1U);
  EXPECT_EQ(counts({.temperature = 1, .top_p = 0.5}, logits, 500).size(), 2U);
}

TEST(SamplerTest, ChoiceDependsOnSeedAndStepAlone) {
  const std::vector<float> logits = some_logits(50);
  Sampler a({.temperature = 1, .seed = 3}), b({.temperature = 1, .seed = 3});
  Sampler other({.temperature = 1, .seed = 4});
  std::vector<std::int32_t> forward, backward(100), different;
  for (std::uint64_t i = 0; i < 100; ++i) forward.push_back(a.sample(logits, i));
  for (std::uint64_t i = 100; i-- > 0;) backward[i] = b.sample(logits, i);
  for (std::uint64_t i = 0; i < 100; ++i) different.push_back(other.sample(logits, i));
  EXPECT_EQ(forward, backward);
  EXPECT_NE(forward, different);
}

TEST(SamplerTest, BadOptionsAndLogitsAreRefused) {
  const auto kind = [](const SamplingOptions& options) {
    return qalof::testing::error_of([&] { Sampler sampler(options); }).kind;
  };
  EXPECT_EQ(kind({.temperature = -1}), ErrorKind::kUsage);
  EXPECT_EQ(kind({.temperature = std::nan("")}), ErrorKind::kUsage);
  EXPECT_EQ(kind({.top_p = 0}), ErrorKind::kUsage);
  EXPECT_EQ(kind({.top_p = 1.5}), ErrorKind::kUsage);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const double temperature : {0.0, 1.0}) {
    Sampler sampler({.temperature = temperature});
    for (const std::vector<float>& logits :
         {std::vector<float>{nan, 1}, {1, nan}, {-INFINITY, -INFINITY}, {1, INFINITY}}) {
      const auto error = qalof::testing::error_of([&] { sampler.sample(logits, 6); });
      EXPECT_EQ(error.kind, ErrorKind::kDiverged);
      EXPECT_NE(error.message.find("token 7"), std::string::npos) << error.message;
    }
    EXPECT_EQ(qalof::testing::error_of([&] { sampler.sample({}, 0); }).kind, ErrorKind::kBadInput);
  }
}

}  // namespace sampling_test
}  // namespace qalof::runtime
