// config.json of the Llama family: what is read, what is refused by name, and the layout it gives.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/config.h"
#include "support/error_of.h"

namespace qalof::model {
namespace llama_config_test {

using qalof::testing::error_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig parsed(const std::string& members) {
  return parse_model_config(Json::parse(R"({"model_type": "llama")" + members + "}"),
                            "config.json");
}

TEST(LlamaConfig, MissingValuesAreThoseOfTransformers) {
  const ModelConfig config = parsed("");
  EXPECT_EQ(config.vocab_size, 32000U);
  EXPECT_EQ(config.hidden, 4096U);
  EXPECT_EQ(config.inner, 11008U);
  EXPECT_EQ(config.num_layers, 32U);
  EXPECT_EQ(config.num_kv_heads, 32U);
  EXPECT_EQ(config.max_positions, 2048U);
  EXPECT_EQ(config.norm_epsilon, 1e-6F);
  EXPECT_EQ(config.rotary->theta, 10000.0F);
  EXPECT_EQ(config.lm_head, LmHead::kOwn);
  EXPECT_EQ(config.bos_token_id, 1);
  EXPECT_EQ(config.eos_token_ids, std::vector<std::int64_t>{2});
}

TEST(LlamaConfig, OldAndNewFormsOfRotaryPositionsMeanTheSame) {
  for (const char* form :
       {R"(, "rope_theta": 5e5, "rope_scaling": {"type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192})",
        R"(, "rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192})"}) {
    const ModelConfig config = parsed(form);
    EXPECT_EQ(config.rotary->theta, 5e5F);
    EXPECT_EQ(config.rotary->factor, 8.0F);
    ASSERT_TRUE(config.rotary->by_wavelength.has_value());
    EXPECT_EQ(config.rotary->by_wavelength->original_positions, 8192U);
  }
  EXPECT_FALSE(
      parsed(R"(, "rope_parameters": {"rope_type": "default"})").rotary->by_wavelength.has_value());
  EXPECT_EQ(parsed(R"(, "rope_scaling": {"rope_type": "linear", "factor": 2.0})").rotary->factor,
            2.0F);
}

TEST(LlamaConfig, FirstOfSeveralEndTokensCounts) {
  EXPECT_EQ(parsed(R"(, "eos_token_id": [7, 8])").eos_token_ids, (std::vector<std::int64_t>{7, 8}));
}

struct BadConfig {
  const char* name;
  const char* members;
  ErrorKind kind;
  const char* words;
};
class LlamaConfigRefuses : public ::testing::TestWithParam<BadConfig> {};

TEST_P(LlamaConfigRefuses, WithKindAndWords) {
  const auto error = error_of([] { parsed(std::string(", ") + GetParam().members); });
  EXPECT_EQ(error.kind, GetParam().kind) << error.message;
  EXPECT_THAT(error.message, HasSubstr(GetParam().words));
  EXPECT_THAT(error.message, ::testing::StartsWith("config.json: "));
}

constexpr ErrorKind kBad = ErrorKind::kBadInput;
constexpr ErrorKind kNotHere = ErrorKind::kUnsupported;
const BadConfig kBadConfigs[] = {
    {"Activation", R"("hidden_act": "relu")", kNotHere,
     "hidden_act is relu, implemented are silu, gelu"},
    {"TensorParallel", R"("pretraining_tp": 2)", kNotHere, "pretraining_tp is 2"},
    {"Proportional", R"("rope_scaling": {"rope_type": "proportional", "factor": 4.0})", kNotHere,
     "rope_type is proportional, implemented are default, linear, dynamic, llama3, yarn, longrope"},
    {"LongFactors",
     R"("rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": 2})", kBad,
     "short_factor is no list of 64 numbers"},
    {"NoLongFactors", R"("rope_scaling": {"type": "longrope"})", kBad, "short_factor is missing"},
    {"PartialRotary", R"("rope_parameters": {"partial_rotary_factor": 0.5})", kNotHere,
     "partial_rotary_factor is 0.5"},
    {"ScalingIsNoObject", R"("rope_scaling": 3)", kBad, "rope_scaling: found number"},
    {"NoFactor", R"("rope_scaling": {"type": "linear"})", kBad, "factor is missing"},
    {"NoBound", R"("rope_scaling": {"type": "llama3", "factor": 8.0})", kBad,
     "low_freq_factor is missing"},
    {"BoundsCross",
     R"("rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 4,
        "high_freq_factor": 4, "original_max_position_embeddings": 8192})",
     kBad, "low_freq_factor is 4, expected below high_freq_factor 4"},
    {"Theta", R"("rope_theta": 0)", kBad, "rope_theta is 0"},
    {"OddHeads", R"("hidden_size": 96, "num_attention_heads": 32)", kBad,
     "heads have 3 numbers each"},
    {"HeadsDoNotDivide", R"("num_attention_heads": 33)", kBad, "not divisible"},
    {"KvHeadsDoNotDivide", R"("num_key_value_heads": 3)", kBad,
     "num_attention_heads 32 is not divisible by num_key_value_heads 3"},
    {"MoreKvHeads", R"("num_key_value_heads": 64)", kBad, "not divisible"},
    {"KvHeadsZero", R"("num_key_value_heads": 0)", kBad, "num_key_value_heads is 0"},
    {"InnerHuge", R"("intermediate_size": 262145)", kBad, "intermediate_size"},
    {"EndTokensEmpty", R"("eos_token_id": [])", kBad, "eos_token_id has 0 tokens"},
    {"EndTokensText", R"("eos_token_id": ["a"])", kBad, "eos_token_id"},
    {"Quantized", R"("quantization_config": {})", kNotHere, "quantization_config"},
};
INSTANTIATE_TEST_SUITE_P(, LlamaConfigRefuses, ::testing::ValuesIn(kBadConfigs),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(LlamaConfig, LayoutIsThatOfHuggingFace) {
  const ModelConfig config = parse_model_config(named_model_config("llama", "135M"), "named");
  EXPECT_EQ(parameter_count(config), 134'515'008U);
  const std::vector<LinearSpec> specs = linears(config);
  ASSERT_EQ(specs.size(), 210U);
  const LayerSteps steps = layer_steps(config).at(1);
  EXPECT_THAT(steps.attention_in, ElementsAre(7, 8, 9));
  EXPECT_EQ(steps.attention_out, 10U);
  EXPECT_THAT(steps.mlp_in, ElementsAre(11, 12));
  EXPECT_EQ(steps.mlp_out, 13U);
  EXPECT_EQ(specs[8].name, "layers.1.self_attn.k_proj");
  EXPECT_STREQ(specs[8].name_in_layer(), "self_attn.k_proj");
  EXPECT_EQ(specs[8].in, 576U);
  EXPECT_EQ(specs[8].out, 192U);
  EXPECT_EQ(specs[13].in, 1536U);
  EXPECT_FALSE(specs[8].conv1d);
  EXPECT_FALSE(specs[8].bias);
  EXPECT_EQ(parameter_count(parse_model_config(named_model_config("llama", "1B"), "named")),
            1'235'814'400U);
}

}  // namespace llama_config_test
}  // namespace qalof::model
