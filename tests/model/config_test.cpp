// GPT-2 configurations: aliases, defaults, what is refused and in which words.
#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "support/error_of.h"

namespace qalof::model {
namespace config_test {

using ::qalof::testing::error_of;
using ::testing::HasSubstr;
using ::testing::StartsWith;

ModelConfig parsed(const std::string& text) {
  return parse_model_config(parse_json(text, "config.json"), "config.json");
}

TEST(ModelConfig, MissingValuesAreThoseOfGpt2) {
  const ModelConfig config = parsed(R"({"model_type": "gpt2"})");
  EXPECT_EQ(config.vocab_size, 50257U);
  EXPECT_EQ(config.max_positions, 1024U);
  EXPECT_EQ(config.hidden, 768U);
  EXPECT_EQ(config.num_layers, 12U);
  EXPECT_EQ(config.num_heads, 12U);
  EXPECT_EQ(config.num_kv_heads, 12U);
  EXPECT_EQ(config.inner, 3072U);
  EXPECT_EQ(config.head_dim(), 64U);
  EXPECT_EQ(config.norm_epsilon, 1e-5F);
  EXPECT_EQ(config.initializer_range, 0.02F);
  EXPECT_EQ(config.bos_token_id, 50256);
  EXPECT_EQ(config.eos_token_ids, std::vector<std::int64_t>{50256});
  EXPECT_EQ(config.lm_head, LmHead::kTied);
  EXPECT_FALSE(config.has_dropout);
}

TEST(ModelConfig, EveryValueIsRead) {
  const ModelConfig config = parsed(R"({"model_type": "gpt2", "vocab_size": 97, "n_positions": 64,
      "n_ctx": 32, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_inner": 100, "layer_norm_epsilon": 1e-6,
      "initializer_range": 0.5, "bos_token_id": 7, "eos_token_id": 9, "tie_word_embeddings": false,
      "activation_function": "gelu_pytorch_tanh"})");
  EXPECT_EQ(config.vocab_size, 97U);
  EXPECT_EQ(config.max_positions, 64U) << "n_ctx is a legacy key without meaning";
  EXPECT_EQ(config.hidden, 48U);
  EXPECT_EQ(config.num_layers, 3U);
  EXPECT_EQ(config.num_heads, 6U);
  EXPECT_EQ(config.num_kv_heads, 6U);
  EXPECT_EQ(config.inner, 100U);
  EXPECT_EQ(config.head_dim(), 8U);
  EXPECT_EQ(config.norm_epsilon, 1e-6F);
  EXPECT_EQ(config.initializer_range, 0.5F);
  EXPECT_EQ(config.bos_token_id, 7);
  EXPECT_EQ(config.eos_token_ids, std::vector<std::int64_t>{9});
  EXPECT_EQ(config.lm_head, LmHead::kOwn);
}

TEST(ModelConfig, AliasesMeanTheSame) {
  const ModelConfig config = parsed(R"({"model_type": "gpt2", "hidden_size": 64,
      "max_position_embeddings": 20, "num_attention_heads": 4, "num_hidden_layers": 5})");
  EXPECT_EQ(config.hidden, 64U);
  EXPECT_EQ(config.max_positions, 20U);
  EXPECT_EQ(config.num_heads, 4U);
  EXPECT_EQ(config.num_layers, 5U);
  EXPECT_EQ(config.inner, 256U);
  EXPECT_EQ(parsed(R"({"model_type": "gpt2", "n_embd": 24, "hidden_size": 24})").hidden, 24U);
}

TEST(ModelConfig, NullIsAsIfAbsent) {
  const ModelConfig config = parsed(R"({"model_type": "gpt2", "n_embd": 120, "n_inner": null,
      "n_layer": null, "num_hidden_layers": 2, "activation_function": null, "attn_pdrop": null,
      "quantization_config": null, "bos_token_id": null})");
  EXPECT_EQ(config.inner, 480U);
  EXPECT_EQ(config.num_layers, 2U);
  EXPECT_EQ(config.bos_token_id, 50256);
}

TEST(ModelConfig, UnknownKeysAreKept) {
  const ModelConfig config = parsed(
      R"({"model_type": "gpt2", "summary_type": "cls_index", "task_specific_params": {"a": [1]}})");
  EXPECT_EQ(config.raw["summary_type"], "cls_index");
  EXPECT_EQ(config.raw["task_specific_params"]["a"][0], 1);
}

TEST(ModelConfig, DropoutIsNoted) {
  for (const char* key : {"resid_pdrop", "embd_pdrop", "attn_pdrop"}) {
    EXPECT_TRUE(parsed(fmt::format(R"({{"model_type": "gpt2", "{}": 0.1}})", key)).has_dropout);
    EXPECT_FALSE(parsed(fmt::format(R"({{"model_type": "gpt2", "{}": 0.0}})", key)).has_dropout);
    EXPECT_FALSE(parsed(fmt::format(R"({{"model_type": "gpt2", "{}": 0}})", key)).has_dropout);
  }
}

TEST(ModelConfig, ValuesThatChangeNothingAreAccepted) {
  EXPECT_NO_THROW(parsed(R"({"model_type": "gpt2", "scale_attn_weights": true, "is_decoder": true,
      "scale_attn_by_inverse_layer_idx": false, "reorder_and_upcast_attn": true,
      "add_cross_attention": false, "is_encoder_decoder": false, "activation_function": "gelu_new",
      "use_cache": true})"));
  // A small vocabulary with GPT-2's own token ids is common in test models.
  EXPECT_NO_THROW(parsed(R"({"model_type": "gpt2", "vocab_size": 100, "eos_token_id": 50256})"));
}

TEST(ModelConfig, BothGelusHaveSeveralNames) {
  const auto activation = [](const char* name) {
    return parsed(fmt::format(R"({{"model_type": "gpt2", "activation_function": "{}"}})", name))
        .activation;
  };
  for (const char* name :
       {"gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"})
    EXPECT_EQ(activation(name), Activation::kGeluTanh) << name;
  for (const char* name : {"gelu", "gelu_python"})
    EXPECT_EQ(activation(name), Activation::kGeluErf) << name;
  EXPECT_EQ(parsed(R"({"model_type": "gpt2"})").activation, Activation::kGeluTanh);
}

struct BadConfig {
  const char* name;
  const char* members;  // after model_type
  ErrorKind kind;
  const char* words;
};

class ModelConfigRefuses : public ::testing::TestWithParam<BadConfig> {};

TEST_P(ModelConfigRefuses, WithKindAndWords) {
  const std::string text = fmt::format(R"({{"model_type": "gpt2", {}}})", GetParam().members);
  const auto error = error_of([&] { parsed(text); });
  EXPECT_EQ(error.kind, GetParam().kind) << error.message;
  EXPECT_THAT(error.message, HasSubstr(GetParam().words));
  EXPECT_THAT(error.message, StartsWith("config.json: "));
}

constexpr ErrorKind kBad = ErrorKind::kBadInput;
constexpr ErrorKind kNotHere = ErrorKind::kUnsupported;

const BadConfig kBadConfigs[] = {
    {"Activation", R"("activation_function": "relu")", kNotHere,
     "activation_function is relu, implemented are gelu_new and gelu"},
    {"QuickGelu", R"("activation_function": "quick_gelu")", kNotHere,
     "activation_function is quick_gelu"},
    {"ClippedGelu", R"("activation_function": "gelu_10")", kNotHere,
     "activation_function is gelu_10"},
    {"ActivationType", R"("activation_function": 3)", kBad, "expected a string"},
    {"UpcastAttention", R"("reorder_and_upcast_attn": 1)", kBad, "reorder_and_upcast_attn"},
    {"CrossAttention", R"("add_cross_attention": true)", kNotHere, "add_cross_attention"},
    {"EncoderDecoder", R"("is_encoder_decoder": true)", kNotHere, "is_encoder_decoder"},
    {"BoolAsNumber", R"("add_cross_attention": 1)", kBad, "expected true or false"},
    {"Quantized", R"("quantization_config": {"quant_method": "gptq"})", kNotHere,
     "quantization_config"},
    {"QuantizedEmpty", R"("quantization_config": {})", kNotHere, "quantization_config"},
    {"VocabZero", R"("vocab_size": 0)", kBad, "vocab_size is 0, expected 1..16777216"},
    {"VocabHuge", R"("vocab_size": 16777217)", kBad, "vocab_size"},
    {"VocabNegative", R"("vocab_size": -1)", kBad, "vocab_size is -1"},
    {"VocabFloat", R"("vocab_size": 50257.0)", kBad, "expected an integer"},
    {"VocabText", R"("vocab_size": "50257")", kBad, "expected an integer"},
    {"VocabList", R"("vocab_size": [1])", kBad, "expected an integer"},
    {"LayersZero", R"("n_layer": 0)", kBad, "n_layer is 0, expected 1..1024"},
    {"LayersMany", R"("num_hidden_layers": 1025)", kBad, "num_hidden_layers is 1025"},
    {"HiddenHuge", R"("n_embd": 65537)", kBad, "n_embd is 65537"},
    {"HiddenZero", R"("hidden_size": 0)", kBad, "hidden_size is 0"},
    {"HeadsZero", R"("n_head": 0)", kBad, "n_head is 0"},
    {"HeadsDoNotDivide", R"("n_head": 7)", kBad, "n_embd 768 is not divisible by n_head 7"},
    {"MoreHeadsThanHidden", R"("n_head": 1536)", kBad, "not divisible"},
    {"PositionsHuge", R"("n_positions": 16777217)", kBad, "n_positions"},
    {"InnerZero", R"("n_inner": 0)", kBad, "n_inner is 0"},
    {"InnerHuge", R"("n_inner": 262145)", kBad, "n_inner is 262145"},
    {"AliasContradicts", R"("n_embd": 768, "hidden_size": 1024)", kBad,
     "n_embd is 768 but its alias hidden_size is 1024"},
    {"AliasType", R"("n_embd": 768, "hidden_size": "big")", kBad, "hidden_size"},
    {"EpsilonZero", R"("layer_norm_epsilon": 0)", kBad, "layer_norm_epsilon is 0"},
    {"EpsilonNegative", R"("layer_norm_epsilon": -1e-5)", kBad, "layer_norm_epsilon"},
    {"EpsilonVanishesAsFloat", R"("layer_norm_epsilon": 1e-60)", kBad, "layer_norm_epsilon"},
    {"EpsilonHuge", R"("layer_norm_epsilon": 1e300)", kBad, "layer_norm_epsilon"},
    {"EpsilonText", R"("layer_norm_epsilon": "1e-5")", kBad, "expected a number"},
    {"InitializerNegative", R"("initializer_range": -0.02)", kBad, "initializer_range"},
    {"DropoutOne", R"("attn_pdrop": 1.0)", kBad, "attn_pdrop"},
    {"DropoutNegative", R"("resid_pdrop": -0.1)", kBad, "resid_pdrop"},
    {"DropoutBool", R"("embd_pdrop": true)", kBad, "embd_pdrop"},
    {"BosNegative", R"("bos_token_id": -1)", kBad, "bos_token_id"},
    {"EosNone", R"("eos_token_id": [])", kBad, "eos_token_id has 0 tokens"},
    {"EosText", R"("eos_token_id": [1, "a"])", kBad, "eos_token_id"},
    {"TieText", R"("tie_word_embeddings": "yes")", kBad, "tie_word_embeddings"},
};

INSTANTIATE_TEST_SUITE_P(, ModelConfigRefuses, ::testing::ValuesIn(kBadConfigs),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(ModelConfig, OtherFamiliesAreNamedWithWhatIsImplemented) {
  const auto error = error_of([] { parsed(R"({"model_type": "mamba"})"); });
  EXPECT_EQ(error.kind, kNotHere);
  EXPECT_EQ(error.message,
            "config.json: model_type is mamba, implemented are gpt2, llama, mistral, qwen2, "
            "qwen3, gemma2, gemma3_text, gemma3, phi3, smollm3");
}

TEST(ModelConfig, DocumentWithoutATypeIsRefused) {
  EXPECT_THAT(error_of([] { parsed("{}"); }).message, HasSubstr("model_type is missing"));
  EXPECT_THAT(error_of([] { parsed(R"({"model_type": 2})"); }).message,
              HasSubstr("expected a string"));
  EXPECT_EQ(error_of([] { parsed("[]"); }).kind, kBad);
  EXPECT_EQ(error_of([] { parsed("null"); }).kind, kBad);
}

TEST(ModelConfig, NotANumberIsRefused) {
  const Json json = {{"model_type", "gpt2"}, {"layer_norm_epsilon", std::nan("")}};
  EXPECT_EQ(error_of([&] { parse_model_config(json, "here"); }).kind, kBad);
}

TEST(NamedModelConfig, SizesAreThoseOfGpt2) {
  const struct {
    const char* size;
    std::size_t layers, heads, hidden, parameters;
  } kSizes[] = {{"124M", 12, 12, 768, 124'439'808},
                {"355M", 24, 16, 1024, 354'823'168},
                {"774M", 36, 20, 1280, 774'030'080},
                {"1.5B", 48, 25, 1600, 1'557'611'200}};
  for (const auto& expected : kSizes) {
    const ModelConfig config =
        parse_model_config(named_model_config("gpt2", expected.size), "named");
    EXPECT_EQ(config.num_layers, expected.layers);
    EXPECT_EQ(config.num_heads, expected.heads);
    EXPECT_EQ(config.hidden, expected.hidden);
    EXPECT_EQ(config.max_positions, 1024U);
    EXPECT_EQ(config.vocab_size, 50257U);
    EXPECT_EQ(parameter_count(config), expected.parameters) << expected.size;
    EXPECT_FALSE(config.has_dropout);
  }
  const ModelConfig nano = parse_model_config(named_model_config("gpt2", "nano"), "named");
  EXPECT_EQ(nano.hidden, 128U);
  EXPECT_EQ(nano.num_layers, 4U);
  EXPECT_EQ(nano.num_heads, 4U);
  EXPECT_EQ(nano.max_positions, 256U);
  EXPECT_EQ(nano.vocab_size, 1024U);
  EXPECT_EQ(nano.eos_token_ids, std::vector<std::int64_t>{1023});
}

TEST(NamedModelConfig, UnknownSizeOrTypeListsWhatThereIs) {
  const auto size = error_of([] { named_model_config("gpt2", "125M"); });
  EXPECT_EQ(size.kind, ErrorKind::kUsage);
  EXPECT_THAT(size.message, HasSubstr("124M, 355M, 774M, 1.5B, nano"));
  const auto llama = error_of([] { named_model_config("llama", "124M"); });
  EXPECT_THAT(llama.message, HasSubstr("135M, 1B, nano"));
  const auto type = error_of([] { named_model_config("mamba", "124M"); });
  EXPECT_EQ(type.kind, ErrorKind::kUsage);
  EXPECT_THAT(type.message, HasSubstr("expected gpt2"));
}

}  // namespace config_test
}  // namespace qalof::model
