// Drafts change how fast a text comes, never the text: greedy or drawn, across families, windows,
// scaled positions, plans and adapters; and draft lengths follow what pays.
#include "runtime/drafting.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "core/file.h"
#include "runtime/generator.h"
#include "support/error_of.h"
#include "support/tiny_runtime.h"

namespace qalof::runtime {
namespace drafting_test {

using qalof::testing::error_of;
using qalof::testing::tiny_config;
using qalof::testing::tiny_llama_config;
using qalof::testing::TinyRuntime;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::size_t kVocabulary = 800;

struct Family {
  const char* name;
  Json config;
};

Json with(Json config, const Json& members) {
  config.update(members);
  config["vocab_size"] = kVocabulary;
  return config;
}

std::vector<Family> families() {
  return {{"gpt2", with(tiny_config(), Json::object())},
          {"llama", with(tiny_llama_config(), Json::object())},
          {"window", with(tiny_llama_config(), {{"model_type", "mistral"}, {"sliding_window", 7}})},
          {"scaled",
           with(tiny_llama_config(), {{"max_position_embeddings", 24},
                                      {"rope_scaling", {{"type", "dynamic"}, {"factor", 2.5}}}})}};
}

// An execution of a plan that stores K and V as another does.
std::shared_ptr<const Execution> drafting(const TinyRuntime& tiny, const std::string& plan,
                                          const Execution& drafted_for,
                                          std::shared_ptr<const weights::AdapterSet> adapters,
                                          int head = 8) {
  SerialFor serial;
  quant::PrecisionPlan resolved = quant::resolve(quant::parse_plan(plan), tiny.base()->target());
  resolved.k = drafted_for.plan().k;
  resolved.v = drafted_for.plan().v;
  return Execution::create(tiny.base(), std::move(resolved), std::move(adapters), serial,
                           {.lm_head = {{head}}});
}

class DraftingTest : public ::testing::Test {
 protected:
  Generation run(const Execution& execution, const TinyRuntime& tiny,
                 const GenerateOptions& options) {
    return generate(execution, tokenizer_, tiny.ids(11), options, serial_);
  }

  SerialFor serial_;
  text::BpeTokenizer tokenizer_ = text::BpeTokenizer::from_files(
      {{"tokenizer.json",
        read_file(QALOF_SOURCE_DIR "/tests/text/data/tiny/tokenizer.json", 1 << 20)}},
      "tiny");
};

TEST_F(DraftingTest, TextIsThatWithoutDraftsInEveryFamilyPlanAndSampling) {
  std::uint64_t accepted = 0, refused = 0;
  for (const Family& family : families()) {
    const TinyRuntime tiny(family.config);
    for (const char* plan : {"32", "16", "8", "w8a8kv8", "w4a8k8v4"}) {
      const auto execution = tiny.execution(plan);
      const auto network = drafting(tiny, "4", *execution, nullptr);
      for (const double temperature : {0.0, 1.2}) {
        GenerateOptions options{.max_new_tokens = 40,
                                .sampling = {.temperature = temperature, .top_k = 40, .seed = 5}};
        const Generation expected = run(*execution, tiny, options);
        for (const std::size_t longest : {1, 3, 8}) {
          for (const bool adapts : {false, true}) {
            options.drafts = {network.get(), longest == 3, longest, adapts};
            const Generation found = run(*execution, tiny, options);
            const std::string where = fmt::format("{} {} temperature {} longest {}", family.name,
                                                  plan, temperature, longest);
            ASSERT_EQ(found.ids, expected.ids) << where;
            EXPECT_EQ(found.text, expected.text) << where;
            EXPECT_EQ(found.reason, expected.reason) << where;
            EXPECT_LE(found.passes, expected.passes) << where;
            const DraftCounts& counts = found.network_drafts;
            accepted += counts.accepted;
            refused += counts.tokens - counts.accepted;
          }
        }
      }
    }
  }
  EXPECT_GT(accepted, 500U) << "drafts that are right";
  EXPECT_GT(refused, 500U) << "drafts that are wrong and are taken back";
}

TEST_F(DraftingTest, TextIsThatWithoutDraftsWithAdaptersOfBothWidths) {
  const TinyRuntime tiny(with(tiny_llama_config(), Json::object()));
  const auto adapters = qalof::testing::random_adapters(tiny.config(), {8, 4});
  const auto execution = tiny.execution("8", adapters);
  const auto network = drafting(tiny, "4", *execution, adapters);
  ThreadPool two(2);
  for (const double temperature : {0.0, 0.9}) {
    GenerateOptions options{.max_new_tokens = 40,
                            .sampling = {.temperature = temperature, .seed = 9}};
    const Generation expected = run(*execution, tiny, options);
    options.drafts = {network.get(), true, 4, false};
    EXPECT_EQ(run(*execution, tiny, options).ids, expected.ids);
    EXPECT_EQ(generate(*execution, tokenizer_, tiny.ids(11), options, two).ids, expected.ids);
  }
}

// The network that drafts is the one that checks, so that every draft is right.
TEST_F(DraftingTest, RightDraftsSavePasses) {
  const TinyRuntime tiny(with(tiny_config(), Json::object()));
  const auto execution = tiny.execution("8");
  for (const double temperature : {0.0, 1.0}) {
    const Generation found = run(*execution, tiny,
                                 {.max_new_tokens = 41,
                                  .sampling = {.temperature = temperature, .seed = 2},
                                  .drafts = {execution.get(), false, 4, false}});
    EXPECT_EQ(found.ids.size(), 41U);
    EXPECT_EQ(found.passes, 8U);
    EXPECT_EQ(found.network_drafts.tokens, 32U);
    EXPECT_EQ(found.network_drafts.accepted, 32U);
    EXPECT_EQ(found.network_drafts.acceptance(), 1.0);
  }
}

TEST_F(DraftingTest, MemoryHoldsWhatItHoldsWithoutDrafts) {
  const TinyRuntime tiny(with(tiny_llama_config(), Json::object()));
  const auto execution = tiny.execution("w8a8kv8");
  const auto network = drafting(tiny, "2", *execution, nullptr);
  KvMemory plain, drafted;
  std::vector<std::int32_t> prompt = tiny.ids(6);
  for (int turn = 0; turn < 3; ++turn) {
    GenerateOptions options{.max_new_tokens = 12, .memory = &plain};
    const Generation expected = generate(*execution, tokenizer_, prompt, options, serial_);
    options.memory = &drafted;
    options.drafts = {network.get(), true, 5, false};
    const Generation found = generate(*execution, tokenizer_, prompt, options, serial_);
    ASSERT_EQ(found.ids, expected.ids) << turn;
    EXPECT_EQ(found.kept_tokens, expected.kept_tokens) << turn;
    prompt.insert(prompt.end(), found.ids.begin(), found.ids.end());
    prompt.push_back(3);
  }
}

TEST_F(DraftingTest, StopsInsideADraftEndTheSameText) {
  const TinyRuntime tiny(with(tiny_config(), Json::object()));
  const auto execution = tiny.execution("8");
  GenerateOptions options{.max_new_tokens = 40, .sampling = {.temperature = 1, .seed = 3}};
  const Generation all = run(*execution, tiny, options);
  for (std::size_t stop = 1; stop < 12; ++stop) {
    options.stop_ids = {all.ids[stop]};
    options.drafts = {};
    const Generation expected = run(*execution, tiny, options);
    options.drafts = {execution.get(), false, 5, false};
    const Generation found = run(*execution, tiny, options);
    EXPECT_EQ(found.ids, expected.ids);
    EXPECT_EQ(found.reason, StopReason::kStopToken);
  }
  options.stop_ids.clear();
  int left = 6;
  const Generation cancelled = generate(*execution, tokenizer_, tiny.ids(11), options, serial_,
                                        [&](std::string_view) { return --left > 0; });
  EXPECT_EQ(cancelled.reason, StopReason::kCancelled);
  EXPECT_TRUE(all.text.starts_with(cancelled.text));
}

// The distribution of two drawn tokens, enumerated exactly, against 4,000 drawn with drafts of
// another network: chi-square with 8 degrees of freedom exceeds 26.1 in one of a thousand cases.
TEST_F(DraftingTest, DrawnTokensHaveTheDistributionOfTheNetworkThatChecks) {
  constexpr std::size_t kLikely = 3, kSeeds = 4000;
  const TinyRuntime tiny(with(tiny_config(), Json::object()));
  const auto execution = tiny.execution("8");
  const auto network = drafting(tiny, "3", *execution, nullptr);
  const std::vector<std::int32_t> prompt = tiny.ids(5);
  using Likely = std::array<std::pair<double, std::int32_t>, kLikely>;  // probability, id
  const auto likely = [&](const std::vector<std::int32_t>& ids) {
    const std::vector<float> hidden = tiny.run(*execution, ids, 0, serial_);
    std::vector<float> logits(kVocabulary);
    lm_logits(*execution, hidden.data() + (ids.size() - 1) * tiny.config().hidden, 1, logits.data(),
              serial_);
    std::vector<std::pair<double, std::int32_t>> all;
    for (std::size_t id = 0; id < kVocabulary; ++id)
      all.emplace_back(-static_cast<double>(logits[id]), static_cast<std::int32_t>(id));
    std::sort(all.begin(), all.end());
    Likely result;
    double total = 0;
    for (std::size_t i = 0; i < kLikely; ++i) {
      result[i] = {std::exp(all[0].first - all[i].first), all[i].second};
      total += result[i].first;
    }
    for (auto& [probability, id] : result) probability /= total;
    return result;
  };
  std::map<std::vector<std::int32_t>, double> expected;
  for (const auto& [p_first, first] : likely(prompt)) {
    std::vector<std::int32_t> longer = prompt;
    longer.push_back(first);
    for (const auto& [p_second, second] : likely(longer))
      expected[{first, second}] = p_first * p_second;
  }
  std::map<std::vector<std::int32_t>, double> drawn;
  std::uint64_t refused = 0;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    // A third token, so that the second is drafted and checked.
    const Generation found =
        generate(*execution, tokenizer_, prompt,
                 {.max_new_tokens = 3,
                  .sampling = {.temperature = 1, .top_k = kLikely, .seed = seed},
                  .drafts = {network.get(), false, 2, false}},
                 serial_);
    ++drawn[{found.ids[0], found.ids[1]}];
    refused += found.network_drafts.tokens - found.network_drafts.accepted;
  }
  EXPECT_GT(refused, kSeeds / 50) << "the networks differ";
  double chi_square = 0;
  for (const auto& [ids, probability] : expected) {
    const double mean = probability * kSeeds;
    ASSERT_GT(mean, 5.0);
    chi_square += (drawn[ids] - mean) * (drawn[ids] - mean) / mean;
  }
  EXPECT_EQ(drawn.size(), expected.size()) << "no other tokens";
  EXPECT_LT(chi_square, 26.1);
}

TEST_F(DraftingTest, DraftsThatCannotBeCheckedAreRefused) {
  const TinyRuntime tiny(with(tiny_config(), Json::object())),
      other(with(tiny_config(), Json::object()));
  const auto execution = tiny.execution("8");
  const auto kind = [&](const DraftOptions& drafts,
                        const std::function<const Execution&(std::size_t)>& at = nullptr) {
    return error_of([&] { run(*execution, tiny, {.execution_at = at, .drafts = drafts}); }).kind;
  };
  EXPECT_EQ(kind({.network = tiny.execution("w8a8kv4").get()}), ErrorKind::kUsage);
  EXPECT_EQ(kind({.network = other.execution("8").get()}), ErrorKind::kUsage);
  EXPECT_EQ(kind({.network = execution.get(), .longest = 0}), ErrorKind::kUsage);
  EXPECT_EQ(kind({.network = execution.get(), .longest = 65}), ErrorKind::kUsage);
  EXPECT_EQ(kind({.lookup = true}, [&](std::size_t) -> const Execution& { return *execution; }),
            ErrorKind::kUsage);
}

TEST(LookUp, ContinuesTheLongestRunThatStoodBefore) {
  const auto found = [](const std::vector<std::int32_t>& text, std::size_t count) {
    const std::span<const std::int32_t> ids = look_up(text, count);
    return std::vector<std::int32_t>(ids.begin(), ids.end());
  };
  EXPECT_THAT(found({1, 2, 3, 4, 1, 2}, 8), ElementsAre(3, 4, 1, 2));
  EXPECT_THAT(found({1, 2, 3, 4, 1, 2}, 2), ElementsAre(3, 4));
  EXPECT_THAT(found({5, 1, 2, 7, 9, 1, 2, 8, 5, 1, 2}, 1), ElementsAre(7)) << "three tokens";
  EXPECT_THAT(found({1, 2, 7, 9, 1, 2, 8, 5, 1, 2}, 1), ElementsAre(8)) << "the latest of equals";
  EXPECT_THAT(found({1, 1, 1}, 8), ElementsAre(1));
  EXPECT_THAT(found({1, 2, 3, 2}, 8), IsEmpty()) << "one token alone";
  EXPECT_THAT(found({1}, 8), IsEmpty());
  EXPECT_THAT(found({}, 8), IsEmpty());
}

// Feeds lengths with what a machine of given costs and a network of a given acceptance would show:
// each pass accepts a draft's tokens by turns, so that a share of them is right.
std::size_t settled_length(double share, double token_seconds, double row_seconds) {
  const Execution* some = reinterpret_cast<const Execution*>(&share);  // never read
  DraftLengths lengths({.network = some, .longest = 8});
  double rate = 0, owed = 0;
  std::vector<std::size_t> last;
  for (int pass = 0; pass < 400; ++pass) {
    const std::size_t length = lengths.choose(DraftLengths::kNetwork, 8, &rate);
    std::size_t compared = 0, accepted = 0;
    while (compared < length) {
      ++compared;
      owed += share;
      if (owed < 1) break;
      owed -= 1;
      ++accepted;
    }
    lengths.record_pass(length, 1 + row_seconds * static_cast<double>(length));
    if (length > 0)
      lengths.record(DraftLengths::kNetwork, length, compared, accepted,
                     token_seconds * static_cast<double>(length));
    if (pass >= 300) last.push_back(length);
  }
  std::sort(last.begin(), last.end());
  return last[last.size() / 2];
}

TEST(DraftLengthsTest, FollowAcceptanceAndCosts) {
  EXPECT_EQ(settled_length(0.95, 0.05, 0.02), 8U) << "cheap and right";
  EXPECT_EQ(settled_length(0.65, 0.7, 0.2), 0U) << "they cost more than they save";
  EXPECT_EQ(settled_length(0.0, 0.05, 0.02), 0U) << "never right";
  const std::size_t middling = settled_length(0.7, 0.2, 0.05);
  EXPECT_GT(middling, 0U);
  EXPECT_LT(middling, 5U);
}

TEST(DraftLengthsTest, DraftsThatDoNotPayAreTriedSeldom) {
  const int unused = 0;
  DraftLengths lengths({.network = reinterpret_cast<const Execution*>(&unused), .longest = 8});
  std::size_t drafted = 0;
  double rate = 0;
  for (int pass = 0; pass < 500; ++pass) {
    const std::size_t length = lengths.choose(DraftLengths::kNetwork, 8, &rate);
    drafted += length;
    lengths.record_pass(length, 1 + 0.3 * static_cast<double>(length));
    if (length > 0)
      lengths.record(DraftLengths::kNetwork, length, 1, 0, 0.9 * static_cast<double>(length));
  }
  EXPECT_GT(drafted, 5U);
  EXPECT_LT(drafted, 30U);
}

}  // namespace drafting_test
}  // namespace qalof::runtime
