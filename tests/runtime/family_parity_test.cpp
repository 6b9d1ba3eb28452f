// Tiny models of every family give what transformers computes: losses, logits, greedy tokens; and
// decoding with a cache gives the bits of reading the text at once, past windows and past the
// lengths at which rotary positions change.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "runtime/fixture_model.h"
#include "support/family_model.h"

namespace qalof::runtime {
namespace family_parity_test {

using qalof::testing::execution_of;
using qalof::testing::family_base;
using qalof::testing::family_cases;
using qalof::testing::family_tokens;
using qalof::testing::hidden_of;

class FamilyParity : public ::testing::TestWithParam<std::string> {
 protected:
  const Json& expected() const { return family_cases().at(GetParam()); }
  std::vector<float> last_logits(const Execution& execution, const std::vector<float>& hidden) {
    const model::ModelConfig& config = execution.base().config();
    std::vector<float> logits(config.vocab_size);
    lm_logits(execution, hidden.data() + hidden.size() - config.hidden, 1, logits.data(), serial_);
    return logits;
  }
  SerialFor serial_;
};

TEST_P(FamilyParity, LossesAndLogitsAreThoseOfTransformers) {
  const auto execution = execution_of(family_base(GetParam()), "32");
  for (const Json& run : expected()["runs"]) {
    const std::vector<std::int32_t> ids = family_tokens(run["length"]);
    SCOPED_TRACE(ids.size());
    const std::vector<float> hidden = hidden_of(*execution, ids);
    const std::vector<float> losses =
        lm_token_losses(*execution, hidden.data(), std::span(ids).subspan(1), serial_);
    ASSERT_EQ(losses.size(), run["losses"].size());
    double sum = 0, wanted = 0;
    for (std::size_t t = 0; t < losses.size(); ++t) {
      const double loss = run["losses"][t];
      sum += static_cast<double>(losses[t]);
      wanted += loss;
      // A token's loss adds up the roundings of its logits.
      EXPECT_LE(std::abs(static_cast<double>(losses[t]) - loss), 3e-5 * std::max(1.0, loss)) << t;
    }
    EXPECT_LE(std::abs(sum - wanted), 2e-6 * wanted);
    const std::vector<float> logits = last_logits(*execution, hidden);
    for (std::size_t i = 0; i < logits.size(); ++i)
      EXPECT_LE(std::abs(static_cast<double>(logits[i]) - run["last_logits"][i].get<double>()),
                1e-4)
          << i;
  }
}

TEST_P(FamilyParity, GreedyTokensAreThoseOfTransformers) {
  const auto execution = execution_of(family_base(GetParam()), "32");
  const auto wanted = expected()["greedy"].get<std::vector<std::int32_t>>();
  std::vector<std::int32_t> ids = family_tokens(13);
  const model::ModelConfig& config = execution->base().config();
  KvCache cache(config, execution->kv(), ids.size() + wanted.size());
  DecoderWorkspace workspace;
  std::vector<float> hidden(ids.size() * config.hidden);
  for (std::size_t step = 0; step < wanted.size(); ++step) {
    const std::span<const std::int32_t> fed = step == 0 ? std::span(ids) : std::span(ids).last(1);
    const Sequence sequence{fed, &cache};
    forward(*execution, {&sequence, 1}, workspace, hidden.data(), serial_);
    hidden.resize(fed.size() * config.hidden);
    const std::vector<float> logits = last_logits(*execution, hidden);
    ids.push_back(
        static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    EXPECT_EQ(ids.back(), wanted[step]) << step;
  }
}

TEST_P(FamilyParity, CachedChunksGiveTheBitsOfTheWhole) {
  const auto base = family_base(GetParam());
  const std::vector<std::int32_t> ids = family_tokens(45);
  for (const char* plan : {"32", "w8a8kv8"}) {
    SCOPED_TRACE(plan);
    const auto execution = execution_of(base, plan);
    const std::size_t width = base->config().hidden;
    KvCache cache(base->config(), execution->kv(), ids.size());
    DecoderWorkspace workspace;
    std::size_t done = 0;
    for (const std::size_t count : {5, 1, 14, 1, 1, 17, 1, 1, 3, 1}) {
      const Sequence sequence{std::span(ids).subspan(done, count), &cache};
      std::vector<float> hidden(count * width);
      forward(*execution, {&sequence, 1}, workspace, hidden.data(), serial_);
      done += count;
      const std::vector<float> whole =
          hidden_of(*execution, {ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(done)});
      EXPECT_TRUE(std::equal(hidden.begin(), hidden.end(),
                             whole.end() - static_cast<std::ptrdiff_t>(hidden.size())))
          << done;
    }
  }
}

// Sequences of other lengths beside it change nothing.
TEST_P(FamilyParity, BatchesGiveTheBitsOfEachAlone) {
  const auto execution = execution_of(family_base(GetParam()), "w8a8kv8");
  const std::size_t width = execution->base().config().hidden;
  const std::vector<std::vector<std::int32_t>> texts = {family_tokens(45), family_tokens(7),
                                                        family_tokens(30)};
  std::vector<Sequence> sequences;
  for (const auto& ids : texts) sequences.push_back({ids});
  DecoderWorkspace workspace;
  std::vector<float> hidden((45 + 7 + 30) * width);
  forward(*execution, sequences, workspace, hidden.data(), serial_);
  auto from = hidden.begin();
  for (const auto& ids : texts) {
    const std::vector<float> alone = hidden_of(*execution, ids);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), from)) << ids.size();
    from += static_cast<std::ptrdiff_t>(alone.size());
  }
}

INSTANTIATE_TEST_SUITE_P(, FamilyParity, ::testing::ValuesIn(qalof::testing::family_case_names()),
                         [](const auto& test) { return test.param; });

}  // namespace family_parity_test
}  // namespace qalof::runtime
