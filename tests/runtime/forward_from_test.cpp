// Passes that begin in the middle, and executions that take linears from others.
#include <gtest/gtest.h>

#include "support/error_of.h"
#include "support/tiny_runtime.h"

namespace qalof::runtime {
namespace forward_from_test {

using qalof::testing::random_adapters;
using qalof::testing::same_bytes;
using qalof::testing::TinyRuntime;

struct States {
  std::vector<std::vector<float>> before;  // [layer]
  std::vector<float> hidden;
};

States states_of(const TinyRuntime& tiny, const Execution& execution,
                 std::span<const Sequence> sequences, std::size_t tokens) {
  States states;
  states.before.resize(tiny.config().num_layers);
  states.hidden.resize(tokens * tiny.config().hidden);
  DecoderWorkspace workspace;
  workspace.observe_states = [&](std::size_t layer, const float* rows, std::size_t m) {
    states.before[layer].assign(rows, rows + m * tiny.config().hidden);
  };
  SerialFor serial;
  forward(execution, sequences, workspace, states.hidden.data(), serial);
  return states;
}

class ForwardFromTest : public ::testing::TestWithParam<const char*> {};

TEST_P(ForwardFromTest, SecondLayerLoweredHasTheBitsOfTheWholePass) {
  const TinyRuntime tiny(std::string(GetParam()) == "llama" ? qalof::testing::tiny_llama_config()
                                                            : qalof::testing::tiny_config());
  const bool is_rotated = std::string(GetParam()) == "rotated";
  const std::string scheme = is_rotated ? R"("scheme": "rot", )" : "";
  const auto adapters = random_adapters(tiny.config(), {8, 4});
  const auto plan = [&](const std::string& rest) {
    return tiny.execution(
        R"({"format_version": 1, )" + scheme + R"("default": "w8a8kv8")" + rest + "}", adapters);
  };
  const auto high = plan("");
  const std::size_t last = tiny.base()->linears().size() - 1;
  const std::string name = tiny.base()->linears()[last].name;
  const auto whole =
      plan(R"(, "head": 8, "modules": {")" + name + R"(": "w4a4"}, "kv": {"1": {"k": 4, "v": 8}})");
  const auto low = plan(R"(, "rules": [{"match": ".*", "set": "w4a4"}])");
  KvPrecision kv = high->kv();
  kv.k_bits[1].assign(kv.k_bits[1].size(), 4);
  const Execution::Replacement replacement{last, low};
  const auto spliced = Execution::spliced(high, {&replacement, 1}, kv);
  EXPECT_EQ(spliced->plan().linears, whole->plan().linears);
  EXPECT_EQ(spliced->plan().k, whole->plan().k);
  EXPECT_EQ(spliced->kv(), whole->kv());
  EXPECT_EQ(spliced->head(weights::HeadKind::kSpan), high->head(weights::HeadKind::kSpan));
  EXPECT_EQ(spliced->linear(last).weight.panels, low->linear(last).weight.panels);

  const std::vector<std::int32_t> first = tiny.ids(9), second = tiny.ids(5, 11);
  const std::vector<Sequence> sequences = {{first}, {second}};
  const std::size_t tokens = first.size() + second.size();
  const States at_high = states_of(tiny, *high, sequences, tokens);
  const States expected = states_of(tiny, *whole, sequences, tokens);
  ASSERT_FALSE(same_bytes(at_high.hidden, expected.hidden));
  EXPECT_TRUE(same_bytes(at_high.before[1], expected.before[1]));
  for (const std::size_t layer : {0, 1}) {
    DecoderWorkspace workspace;
    std::vector<float> hidden(expected.hidden.size());
    SerialFor serial;
    forward_from(*spliced, sequences, layer, at_high.before[layer].data(), workspace, hidden.data(),
                 serial);
    EXPECT_TRUE(same_bytes(hidden, expected.hidden)) << layer;
  }

  // A part of the layers shows observers what the whole pass does.
  DecoderWorkspace workspace;
  std::vector<std::size_t> seen;
  workspace.observe_states = [&](std::size_t layer, const float* rows, std::size_t m) {
    seen.push_back(layer);
    EXPECT_TRUE(same_bytes(std::vector<float>(rows, rows + m * tiny.config().hidden),
                           at_high.before[layer]));
  };
  SerialFor serial;
  forward_layers(*high, sequences, 0, 1, nullptr, workspace, serial);
  forward_layers(*high, sequences, 1, 2, at_high.before[1].data(), workspace, serial);
  EXPECT_EQ(seen, (std::vector<std::size_t>{0, 1}));
}

INSTANTIATE_TEST_SUITE_P(Models, ForwardFromTest, ::testing::Values("gpt2", "llama", "rotated"),
                         [](const auto& test) { return std::string(test.param); });

TEST(ForwardFrom, LayersThatAreNotThereAndCachesAreRefused) {
  const TinyRuntime tiny;
  const auto execution = tiny.execution("8");
  const std::vector<std::int32_t> ids = tiny.ids(3);
  std::vector<float> states(3 * tiny.config().hidden), hidden(states.size());
  DecoderWorkspace workspace;
  SerialFor serial;
  Sequence sequence{ids};
  EXPECT_EQ(qalof::testing::error_of([&] {
              forward_from(*execution, {&sequence, 1}, 2, states.data(), workspace, hidden.data(),
                           serial);
            }).message,
            "forward from layer 2 to 2: the model has 2");
  KvCache cache(tiny.config(), execution->kv(), 3);
  sequence.cache = &cache;
  EXPECT_EQ(qalof::testing::error_of([&] {
              forward_from(*execution, {&sequence, 1}, 1, states.data(), workspace, hidden.data(),
                           serial);
            }).message,
            "forward from layer 1: a sequence has a cache or an execution of its own");
}

}  // namespace forward_from_test
}  // namespace qalof::runtime
