// config.json of every family: sizes of public models, which layers have windows and positions, old
// and new forms of rotary positions, and what is refused by name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/json.h"
#include "model/config.h"
#include "support/error_of.h"

namespace qalof::model {
namespace family_config_test {

using qalof::testing::error_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig parsed(const std::string& type, const std::string& members) {
  return parse_model_config(Json::parse(R"({"model_type": ")" + type + "\"" + members + "}"),
                            "config.json");
}
std::vector<std::size_t> windows(const ModelConfig& config) {
  std::vector<std::size_t> all;
  for (std::size_t layer = 0; layer < config.num_layers; ++layer)
    all.push_back(config.window(layer));
  return all;
}

TEST(FamilyConfig, NamedSizesHaveTheParametersOfThePublicModels) {
  const struct {
    const char *type, *size;
    std::size_t parameters;
  } kSizes[] = {{"mistral", "7B", 7'241'732'096},   {"qwen2", "0.5B", 494'032'768},
                {"qwen3", "0.6B", 596'049'920},     {"qwen3", "1.7B", 1'720'574'976},
                {"gemma2", "2B", 2'614'341'888},    {"gemma3_text", "270M", 268'098'176},
                {"gemma3_text", "1B", 999'885'952}, {"gemma3", "4B", 3'880'263'168},
                {"phi3", "mini", 3'821'079'552},    {"smollm3", "3B", 3'075'098'624}};
  for (const auto& known : kSizes) {
    const ModelConfig config =
        parse_model_config(named_model_config(known.type, known.size), "named");
    EXPECT_EQ(parameter_count(config), known.parameters) << known.type << " " << known.size;
    EXPECT_EQ(config.model_type, known.type);
  }
  for (const std::string& type : model_types()) {
    const ModelConfig nano = parse_model_config(named_model_config(type, "nano"), "named");
    EXPECT_EQ(nano.vocab_size, 1024U) << type;
    EXPECT_THAT(named_sizes_text(), HasSubstr(type + ": "));
  }
}

TEST(FamilyConfig, FusedLinearsAreOneEach) {
  const ModelConfig config = parsed("phi3", R"(, "hidden_size": 16, "num_attention_heads": 4,
      "num_key_value_heads": 2, "intermediate_size": 24, "num_hidden_layers": 1)");
  const std::vector<LinearSpec> specs = linears(config);
  ASSERT_EQ(specs.size(), 4U);
  EXPECT_EQ(specs[0].name, "layers.0.self_attn.qkv_proj");
  EXPECT_EQ(specs[0].out, 32U);
  EXPECT_EQ(specs[2].name, "layers.0.mlp.gate_up_proj");
  EXPECT_EQ(specs[2].out, 48U);
  EXPECT_TRUE(reads_mlp_norm(specs[2].role));
  EXPECT_THAT(layer_steps(config).front().mlp_in, ElementsAre(2));
}

TEST(FamilyConfig, TextPartOfALargerModelIsRead) {
  const ModelConfig config = parsed("gemma3", R"(, "eos_token_id": [1, 106], "vision_config": {},
      "text_config": {"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 6,
                      "sliding_window": 8, "eos_token_id": 1, "final_logit_softcapping": 30.0})");
  // As transformers: its class for text alone caps logits, that with pictures does not.
  EXPECT_EQ(config.logit_cap, 0.0F);
  EXPECT_EQ(parsed("gemma3_text", R"(, "final_logit_softcapping": 30.0)").logit_cap, 30.0F);
  EXPECT_EQ(config.hidden, 64U);
  EXPECT_EQ(config.model_type, "gemma3");
  EXPECT_EQ(config.eos_token_ids, (std::vector<std::int64_t>{1, 106}));
  EXPECT_THAT(windows(config), ElementsAre(8, 8, 8, 8, 8, 0));
  EXPECT_EQ(decoder_prefix(config, ModelClass::kCausalLm), "model.language_model.");
  EXPECT_TRUE(config.raw.contains("vision_config"));
}

TEST(FamilyConfig, WindowsFollowTheRuleOfTheFamily) {
  const std::string four = R"(, "num_hidden_layers": 4)";
  EXPECT_THAT(windows(parsed("mistral", four + R"(, "sliding_window": 5)")),
              ElementsAre(5, 5, 5, 5));
  EXPECT_THAT(windows(parsed("mistral", four + R"(, "sliding_window": null)")),
              ElementsAre(0, 0, 0, 0));
  EXPECT_THAT(windows(parsed("qwen2", four + R"(, "sliding_window": 5, "max_window_layers": 3)")),
              ElementsAre(0, 0, 0, 0))
      << "use_sliding_window is false";
  EXPECT_THAT(windows(parsed("qwen2", four + R"(, "use_sliding_window": true, "sliding_window": 5,
                                               "max_window_layers": 3)")),
              ElementsAre(0, 0, 0, 5));
  EXPECT_THAT(windows(parsed("gemma2", four + R"(, "sliding_window": 6)")),
              ElementsAre(6, 0, 6, 0));
  EXPECT_THAT(windows(parsed("gemma3_text",
                             four + R"(, "sliding_window": 6, "sliding_window_pattern": 3)")),
              ElementsAre(6, 6, 0, 6));
  EXPECT_THAT(windows(parsed("gemma3_text", R"(, "num_hidden_layers": 2, "sliding_window": 6,
                                      "layer_types": ["full_attention", "sliding_attention"])")),
              ElementsAre(0, 6));
  EXPECT_THAT(windows(parsed("smollm3", four + R"(, "use_sliding_window": true,
                             "sliding_window": 6, "no_rope_layers": [1, 0, 0, 1])")),
              ElementsAre(0, 6, 6, 0));
}

TEST(FamilyConfig, LayersHaveTheirOwnPositions) {
  const ModelConfig smol = parsed("smollm3", R"(, "num_hidden_layers": 4)");
  EXPECT_NE(smol.rotary_at(2), nullptr);
  EXPECT_EQ(smol.rotary_at(3), nullptr);
  EXPECT_EQ(smol.rotary->theta, 2e6F);
  for (const char* form : {R"(, "rope_theta": 7e5, "rope_local_base_freq": 2e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0})",
                           R"(, "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 7e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4}})"}) {
    const ModelConfig gemma =
        parsed("gemma3_text", R"(, "num_hidden_layers": 6)" + std::string(form));
    EXPECT_EQ(gemma.rotary_at(5)->theta, 7e5F);
    EXPECT_EQ(gemma.rotary_at(5)->factor, 8.0F);
    EXPECT_EQ(gemma.rotary_at(0)->theta, 2e4F);
    EXPECT_EQ(gemma.rotary_at(0)->factor, 1.0F);
    EXPECT_TRUE(gemma.uses_sliding_rotary(0));
    EXPECT_FALSE(gemma.uses_sliding_rotary(5));
  }
}

TEST(FamilyConfig, EmbeddingScaleIsRoundedToTheDtype) {
  const auto scale = [](const char* dtype) {
    return parsed("gemma2", fmt::format(R"(, "hidden_size": 3072, "num_attention_heads": 16,
                                          {})",
                                        dtype))
        .embedding_scale;
  };
  EXPECT_EQ(scale(R"("dtype": "bfloat16")"), 55.5F);
  EXPECT_EQ(scale(R"("torch_dtype": "float16")"), 55.4375F);
  EXPECT_EQ(scale(R"("dtype": "float32")"), std::sqrt(3072.0F));
}

TEST(FamilyConfig, FrequenciesOfLongSequencesAreTheLongOnes) {
  const ModelConfig config = parsed("phi3", R"(, "hidden_size": 16, "num_attention_heads": 2,
      "max_position_embeddings": 64, "original_max_position_embeddings": 16,
      "partial_rotary_factor": 0.5,
      "rope_scaling": {"type": "su", "short_factor": [1, 2], "long_factor": [4, 8]})");
  EXPECT_EQ(config.rotary->dims, 4U);
  EXPECT_EQ(config.scaling_length(16), 0U);
  EXPECT_EQ(config.scaling_length(17), config.scaling_length(64));
  const auto at = [&](std::size_t length) {
    return rotary_frequencies(*config.rotary, config.head_dim(), length);
  };
  EXPECT_THAT(at(16), ElementsAre(1.0F, 0.005F));
  EXPECT_THAT(at(17), ElementsAre(0.25F, 0.00125F));
  EXPECT_DOUBLE_EQ(config.rotary->table_scale, std::sqrt(1.5));
}

TEST(FamilyConfig, DynamicScalingContinuesPositions) {
  const ModelConfig config = parsed("llama", R"(, "max_position_embeddings": 100,
      "rope_scaling": {"type": "dynamic", "factor": 2.5})");
  EXPECT_EQ(config.max_positions, 100U);
  EXPECT_EQ(config.max_length(), 250U);
  EXPECT_EQ(config.scaling_length(100), 0U);
  EXPECT_NE(config.scaling_length(101), config.scaling_length(102));
}

struct Refused {
  const char *name, *type, *members;
  ErrorKind kind;
  const char* words;
};
class FamilyConfigRefuses : public ::testing::TestWithParam<Refused> {};

TEST_P(FamilyConfigRefuses, WithKindAndWords) {
  const auto error =
      error_of([] { parsed(GetParam().type, std::string(", ") + GetParam().members); });
  EXPECT_EQ(error.kind, GetParam().kind) << error.message;
  EXPECT_THAT(error.message, HasSubstr(GetParam().words));
  EXPECT_THAT(error.message, ::testing::StartsWith("config.json: "));
}

constexpr ErrorKind kBad = ErrorKind::kBadInput;
constexpr ErrorKind kNotHere = ErrorKind::kUnsupported;
const Refused kRefused[] = {
    {"MlpBias", "qwen3", R"("mlp_bias": true)", kNotHere, "mlp_bias is true"},
    {"AttentionBias", "mistral", R"("attention_bias": true)", kNotHere, "attention_bias is true"},
    {"LayerTypes", "qwen3", R"("num_hidden_layers": 1, "layer_types": ["linear_attention"])",
     kNotHere, "layer_types[0] is \"linear_attention\""},
    {"LayerTypesShort", "qwen3", R"("num_hidden_layers": 2, "layer_types": ["full_attention"])",
     kBad, "layer_types is no list of 2 names"},
    {"ListOfMistral", "mistral",
     R"("num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"])", kNotHere,
     "layer_types differs from what mistral has"},
    {"NoTextPart", "gemma3", R"("hidden_size": 64)", kBad, "text_config is missing"},
    {"InTextPart", "gemma3", R"("text_config": {"hidden_activation": "relu"})", kNotHere,
     "text_config: hidden_activation is relu"},
    {"NoWindow", "gemma2", R"("sliding_window": null)", kBad, "sliding_window is null"},
    {"WindowOff", "qwen2", R"("num_hidden_layers": 1, "layer_types": ["sliding_attention"])", kBad,
     "use_sliding_window is false"},
    {"Bidirectional", "gemma3_text", R"("use_bidirectional_attention": true)", kNotHere,
     "use_bidirectional_attention is true"},
    {"Activation", "gemma2", R"("hidden_activation": "relu")", kNotHere,
     "hidden_activation is relu"},
    {"PhiLinear", "phi3", R"("rope_scaling": {"type": "linear", "factor": 2})", kNotHere,
     "type is linear, implemented are default and longrope"},
    {"PhiFactors", "phi3",
     R"("rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]})", kBad,
     "short_factor is no list of 48 numbers"},
    {"PhiPart", "phi3", R"("partial_rotary_factor": 1.5)", kBad, "partial_rotary_factor is 1.5"},
    {"FlatGemma3", "gemma3_text", R"("rope_parameters": {"rope_type": "default"})", kBad,
     "full_attention and sliding_attention are missing"},
    {"NestedQwen", "qwen3", R"("rope_parameters": {"full_attention": {}})", kNotHere,
     "has values per layer type"},
    {"YarnTheta", "qwen2", R"("rope_theta": 0.5, "rope_scaling": {"type": "yarn", "factor": 2})",
     kBad, "rope_theta is 0.5"},
    {"NoRopeShort", "smollm3", R"("num_hidden_layers": 3, "no_rope_layers": [1, 0])", kBad,
     "no_rope_layers is no list of at least 3 numbers"},
    {"NoRopeValue", "smollm3", R"("num_hidden_layers": 2, "no_rope_layers": [1, 2])", kBad,
     "no_rope_layers[1] is 2"},
    {"CapZero", "gemma2", R"("final_logit_softcapping": 0)", kBad, "final_logit_softcapping is 0"},
    {"Scalar", "gemma2", R"("query_pre_attn_scalar": -1)", kBad, "query_pre_attn_scalar is -1"},
    {"WideHeads", "qwen3", R"("num_attention_heads": 1024, "num_key_value_heads": 1024,
        "head_dim": 512)",
     kBad, "are 524288 numbers"},
};
INSTANTIATE_TEST_SUITE_P(, FamilyConfigRefuses, ::testing::ValuesIn(kRefused),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace family_config_test
}  // namespace qalof::model
