// PEFT adapter directories: what peft writes is read, what would change results and is not
// implemented is refused.
#include "io/peft.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "io/io_test_util.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace qalof::io {
namespace peft_test {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TempDir;

// adapter_config.json as peft 0.21 writes it for GPT-2.
Json peft_config() {
  return Json::parse(R"({
    "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null,
    "base_model_name_or_path": "gpt2", "bias": "none", "corda_config": null, "ensure_weight_tying": false,
    "eva_config": null, "exclude_modules": null, "fan_in_fan_out": true, "inference_mode": true,
    "init_lora_weights": true, "kasa_config": null, "layer_replication": null, "layers_pattern": null,
    "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 16, "lora_bias": false, "lora_dropout": 0.0,
    "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core",
    "modules_to_save": ["qa_outputs"], "monteclora_config": null, "peft_type": "LORA", "peft_version": "0.21.2",
    "qalora_group_size": 16, "r": 8, "rank_pattern": {}, "revision": null, "target_modules": ["c_attn", "c_proj"],
    "target_parameters": null, "task_type": "QUESTION_ANS", "trainable_token_indices": null, "use_bdlora": null,
    "use_dora": false, "use_qalora": false, "use_rslora": false, "velora_config": null})");
}

constexpr const char* kA = "transformer.h.0.attn.c_attn.lora_A.weight";

class PeftTest : public ::testing::Test {
 protected:
  PeftTest() {
    const std::vector<float> values(8);
    write_safetensors(
        dir_.file("adapter_model.safetensors"),
        {{std::string("base_model.model.") + kA, DType::kF32, {2, 4}, bytes_of(values)}}, {});
  }
  PeftAdapter read(const Json& config) {
    put_file(dir_.file("adapter_config.json"), config.dump());
    return read_peft(dir_.path());
  }
  PeftAdapter read_with(const std::string& key, const Json& value) {
    Json config = peft_config();
    config[key] = value;
    return read(config);
  }
  TempDir dir_;
};

TEST_F(PeftTest, ReadsWhatPeftWritesWithoutAWarning) {
  const PeftAdapter adapter = read(peft_config());
  EXPECT_THAT(adapter.warnings(), ElementsAre());
  EXPECT_EQ(adapter.config().r, 8U);
  EXPECT_EQ(adapter.config().lora_alpha, 16.0);
  EXPECT_TRUE(adapter.config().fan_in_fan_out);
  EXPECT_EQ(adapter.config().task_type, "QUESTION_ANS");
  EXPECT_THAT(adapter.config().target_modules, ElementsAre("c_attn", "c_proj"));
  EXPECT_THAT(adapter.config().modules_to_save, ElementsAre("qa_outputs"));
  EXPECT_EQ(adapter.config().base_model_name_or_path, "gpt2");
  ASSERT_TRUE(adapter.tensors().contains(kA));
  EXPECT_THAT(adapter.tensors().at(kA).shape, ElementsAre(2, 4));
}

TEST_F(PeftTest, WarnsOfUnknownSettingsThatDoNothing) {
  for (const Json& value : {Json(), Json(false), Json::object(), Json(0), Json("")}) {
    const PeftAdapter adapter = read_with("brand_new", value);
    ASSERT_EQ(adapter.warnings().size(), 1U);
    EXPECT_THAT(adapter.warnings()[0], HasSubstr("brand_new is not known here"));
  }
}

struct BadSetting {
  const char* name;
  const char* key;
  Json value;
  ErrorKind kind;
  const char* message;
};

class RefusedSettings : public PeftTest, public ::testing::WithParamInterface<BadSetting> {};

TEST_P(RefusedSettings, NameTheSetting) {
  const auto error = error_of([&] { read_with(GetParam().key, GetParam().value); });
  EXPECT_EQ(error.kind, GetParam().kind);
  EXPECT_THAT(error.message, HasSubstr(GetParam().message));
  EXPECT_THAT(error.message, HasSubstr(dir_.file("adapter_config.json")));
}

constexpr ErrorKind kUnsupported = ErrorKind::kUnsupported, kBadInput = ErrorKind::kBadInput;
INSTANTIATE_TEST_SUITE_P(
    Cases, RefusedSettings,
    ::testing::Values(
        BadSetting{"OtherMethod", "peft_type", "IA3", kUnsupported, "peft_type is IA3"},
        BadSetting{"MethodNoText", "peft_type", 1, kBadInput, "peft_type is 1, expected a string"},
        BadSetting{"Dora", "use_dora", true, kUnsupported, "use_dora is true"},
        BadSetting{"LoraBias", "lora_bias", true, kUnsupported, "lora_bias is true"},
        BadSetting{"BiasOther", "bias", "some", kUnsupported, "bias is \"some\""},
        BadSetting{"BiasNull", "bias", nullptr, kUnsupported, "bias is null"},
        BadSetting{"Unknown", "brand_new", 3, kUnsupported, "brand_new is 3"},
        BadSetting{"LayerReplication",
                   "layer_replication",
                   {{0, 2}, {1, 3}},
                   kUnsupported,
                   "layer_replication"},
        BadSetting{"LayerText", "layers_to_transform", "1", kBadInput,
                   "layers_to_transform holds \"1\", expected numbers"},
        BadSetting{"LayerFloat", "layers_to_transform", {1, 2.5}, kBadInput, "holds 2.5"},
        BadSetting{"PatternWithoutLayers", "layers_pattern", "h", kBadInput,
                   "layers_pattern is there without layers_to_transform"},
        BadSetting{"ExcludeNumber", "exclude_modules", {3}, kBadInput, "exclude_modules holds 3"},
        BadSetting{"ExcludeBroken", "exclude_modules", "a(", kBadInput,
                   "exclude_modules: pattern \"a(\" is not a regular expression"},
        BadSetting{"SaveLookAround",
                   "modules_to_save",
                   {"a(?=b)"},
                   kUnsupported,
                   "modules_to_save: pattern"},
        BadSetting{"TokenIndices",
                   "trainable_token_indices",
                   {1, 2},
                   kUnsupported,
                   "trainable_token_indices"},
        BadSetting{"Pissa", "init_lora_weights", "pissa", kUnsupported,
                   "init_lora_weights is \"pissa\", with which peft changes the base's weights"},
        BadSetting{"PissaFast", "init_lora_weights", "pissa_niter_16", kUnsupported,
                   "path_initial_model_for_weight_conversion"},
        BadSetting{"Olora", "init_lora_weights", "OLoRA", kUnsupported, "changes the base"},
        BadSetting{"Corda", "init_lora_weights", "corda", kUnsupported, "changes the base"},
        BadSetting{"Loftq", "init_lora_weights", "loftq", kUnsupported, "changes the base"},
        BadSetting{"NewBeginning", "init_lora_weights", "brand_new", kUnsupported,
                   "init_lora_weights is \"brand_new\", expected true"},
        // peft does not know this spelling either.
        BadSetting{"PissaSpelling", "init_lora_weights", "PiSSA", kUnsupported,
                   "init_lora_weights is \"PiSSA\""},
        BadSetting{"BeginningNumber", "init_lora_weights", 1, kUnsupported,
                   "init_lora_weights is 1"},
        BadSetting{"Parameters", "target_parameters", {"w"}, kUnsupported, "target_parameters"},
        BadSetting{"BlockDiagonal", "use_bdlora", Json::object(), kUnsupported, "use_bdlora is {}"},
        BadSetting{"Kasa", "kasa_config", Json::object(), kUnsupported, "kasa_config is {}"},
        BadSetting{"Invocation", "alora_invocation_tokens", {1}, kUnsupported, "alora_invocation"},
        BadSetting{"Arrow", "arrow_config", {{"top_k", 3}}, kUnsupported, "arrow_config"},
        BadSetting{"RankZero", "r", 0, kBadInput, "r is 0, expected 1..65536"},
        BadSetting{"RankNegative", "r", -8, kBadInput, "r is -8"},
        BadSetting{"RankHuge", "r", 1'000'000, kBadInput, "r is 1000000"},
        BadSetting{"RankFloat", "r", 8.0, kBadInput, "r is 8.0, expected an integer"},
        BadSetting{"AlphaText", "lora_alpha", "16", kBadInput,
                   "lora_alpha is \"16\", expected a number"},
        BadSetting{"RsLoraNumber", "use_rslora", 1, kBadInput,
                   "use_rslora is 1, expected true or false"},
        BadSetting{"TaskTypeNumber", "task_type", 1, kBadInput, "task_type is 1"},
        BadSetting{"TargetsNull", "target_modules", nullptr, kBadInput,
                   "target_modules is missing or empty"},
        BadSetting{"TargetsEmpty", "target_modules", Json::array(), kBadInput,
                   "target_modules is missing or empty"},
        BadSetting{"TargetsNumbers", "target_modules", {1}, kBadInput, "target_modules holds 1"},
        BadSetting{
            "TargetsObject", "target_modules", {{"a", 1}}, kBadInput, "target_modules is object"},
        BadSetting{"PatternBroken", "target_modules", "h\\.(0", kBadInput,
                   "is not a regular expression"},
        BadSetting{"SaveText", "modules_to_save", "qa_outputs", kBadInput,
                   "modules_to_save is string"},
        BadSetting{
            "RankPatternList", "rank_pattern", {"x"}, kBadInput, "rank_pattern is not an object"},
        BadSetting{"RankPatternZero",
                   "rank_pattern",
                   {{"c_attn", 0}},
                   kBadInput,
                   "rank_pattern: c_attn is 0"},
        BadSetting{"RankPatternBroken",
                   "rank_pattern",
                   {{"c_attn(", 4}},
                   kBadInput,
                   "rank_pattern: pattern"},
        BadSetting{"AlphaPatternText",
                   "alpha_pattern",
                   {{"c_attn", "x"}},
                   kBadInput,
                   "alpha_pattern: c_attn is \"x\""},
        BadSetting{"AlphaPatternLookAround",
                   "alpha_pattern",
                   {{"(?!h)c_attn", 3}},
                   kUnsupported,
                   "alpha_pattern: pattern \"(.*\\.)?((?!h)c_attn)$\" uses look-around, (?!"}),
    [](const auto& test) { return test.param.name; });

TEST_F(PeftTest, RefusesConfigsThatAreNoObjectOrCut) {
  const std::string text = peft_config().dump();
  for (std::size_t size = 0; size < text.size(); ++size) {
    put_file(dir_.file("adapter_config.json"), text.substr(0, size));
    ASSERT_EQ(error_of([&] { read_peft(dir_.path()); }).kind, ErrorKind::kCorruptFile) << size;
  }
  EXPECT_EQ(error_of([&] { read(Json::array()); }).kind, ErrorKind::kBadInput);
  for (const char* key : {"peft_type", "r", "lora_alpha", "target_modules"}) {
    Json config = peft_config();
    config.erase(key);
    const auto error = error_of([&] { read(config); });
    EXPECT_EQ(error.kind, ErrorKind::kBadInput);
    EXPECT_THAT(error.message, HasSubstr(std::string(key) + " is missing"));
  }
}

TEST_F(PeftTest, RefusesPickledOrMissingWeightsByName) {
  std::filesystem::remove(dir_.file("adapter_model.safetensors"));
  EXPECT_EQ(error_of([&] { read(peft_config()); }).kind, ErrorKind::kNotFound);
  put_file(dir_.file("adapter_model.bin"), "x");
  const auto error = error_of([&] { read(peft_config()); });
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_THAT(error.message, HasSubstr("adapter_model.bin is there, which is not read"));
}

TEST_F(PeftTest, RefusesTensorsWithoutPeftsPrefix) {
  const std::vector<float> values(4);
  write_safetensors(dir_.file("adapter_model.safetensors"),
                    {{kA, DType::kF32, {4}, bytes_of(values)}}, {});
  EXPECT_THAT(error_of([&] { read(peft_config()); }).message,
              HasSubstr("does not begin with base_model.model."));
}

// Settings on which loading does not depend.
TEST_F(PeftTest, PassesOverHowTrainingWent) {
  const std::vector<std::pair<const char*, Json>> settings = {
      {"init_lora_weights", "gaussian"},
      {"init_lora_weights", "eva"},
      {"init_lora_weights", "orthogonal"},
      {"init_lora_weights", "mica"},
      {"init_lora_weights", false},
      {"bias", "lora_only"},
      {"bias", "all"},
      {"use_qalora", true},
      {"ensure_weight_tying", true},
      {"lora_dropout", 0.1},
      {"loftq_config", {{"loftq_bits", 4}}},
      {"eva_config", {{"rho", 2.0}}},
      {"runtime_config", {{"ephemeral_gpu_offload", true}}}};
  for (const auto& [key, value] : settings)
    EXPECT_THAT(read_with(key, value).warnings(), ElementsAre()) << key << " " << value;
  EXPECT_THAT(read_with("init_lora_weights", "lora_ga").warnings(),
              ElementsAre(HasSubstr("init_lora_weights is \"lora_ga\"")));
  EXPECT_TRUE(read_with("init_lora_weights", "orthogonal").config().starts_at_random);
  EXPECT_TRUE(read_with("init_lora_weights", nullptr).config().starts_at_random);
  EXPECT_FALSE(read_with("init_lora_weights", "Gaussian").config().starts_at_random);
}

TEST_F(PeftTest, PatternsThatOnlySayWhatTheTensorsSayMayBeUnreadable) {
  for (const char* key : {"target_modules", "exclude_modules"}) {
    for (const std::string& pattern : {std::string(R"(^(?!.*vision).*c_attn)"),
                                       std::string(70'000, 'a'), std::string(R"(c_attn\Z)")}) {
      const PeftAdapter adapter = read_with(key, pattern);
      EXPECT_FALSE(adapter.config().targets_known);
      ASSERT_EQ(adapter.warnings().size(), 1U);
      EXPECT_THAT(adapter.warnings()[0], HasSubstr(std::string(key) + ": "));
      EXPECT_THAT(adapter.warnings()[0], HasSubstr("the tensors alone say"));
      EXPECT_LT(adapter.warnings()[0].size(), 500U);
    }
  }
  const PeftAdapter adapter = read_with("rank_pattern", {{"(?=c)c_attn", 4}});
  EXPECT_FALSE(adapter.config().ranks_known);
  EXPECT_TRUE(adapter.config().targets_known);
}

TEST_F(PeftTest, LayersGoWithAListOfTargetsAlone) {
  Json config = peft_config();
  config["target_modules"] = ".*c_attn";
  config["layers_to_transform"] = 0;
  EXPECT_THAT(error_of([&] { read(config); }).message,
              HasSubstr("layers_to_transform goes with a list of target_modules alone"));
  config["target_modules"] = {"c_attn"};
  config["layers_pattern"] = {"h", "layers"};
  const PeftConfig read_config = read(config).config();
  EXPECT_THAT(read_config.layers_to_transform, ElementsAre(0));
  EXPECT_THAT(read_config.layers_pattern, ElementsAre("h", "layers"));
}

// A config of few bytes must not keep us busy, or hold much memory.
TEST_F(PeftTest, BoundsItsPatterns) {
  Json many = Json::object();
  for (int i = 0; i < 4097; ++i) many[fmt::format("c{}", i)] = 1;
  EXPECT_THAT(error_of([&] { read_with("rank_pattern", many); }).message,
              HasSubstr("has 4097 keys, at most 4096"));
  Json large = Json::object();
  for (int i = 0; i < 400; ++i) large[fmt::format("c{}.{{1000}}", i)] = 1;
  EXPECT_THAT(error_of([&] { read_with("alpha_pattern", large); }).message,
              HasSubstr("the patterns up to here have"));
  Json config = peft_config();
  config["layers_to_transform"] = {1};
  config["layers_pattern"] = std::string(300, '(');
  EXPECT_THAT(error_of([&] { read(config); }).message, HasSubstr("a pattern of 300 bytes"));
}

TEST_F(PeftTest, ReadsBackWhatItWrote) {
  PeftConfig config;
  config.r = 3;
  config.lora_alpha = 4.5;
  config.use_rslora = config.fan_in_fan_out = true;
  config.task_type = "CAUSAL_LM";
  config.target_modules = {"c_attn", "c_fc"};
  config.modules_to_save = {"score"};
  config.base_model_name_or_path = "some/base";
  config.revision = "main";
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  for (const char* targets : {"list", "pattern", "all"}) {
    if (targets == std::string("pattern")) config.target_pattern = ".*c_attn";
    if (targets == std::string("all")) config.target_pattern.clear(), config.all_linear = true;
    const std::string path = dir_.file(targets);
    write_peft(path, config, {{kA, DType::kF32, {3, 2}, bytes_of(values)}});
    const PeftAdapter adapter = read_peft(path);
    const PeftConfig& back = adapter.config();
    EXPECT_THAT(adapter.warnings(), ElementsAre());
    EXPECT_EQ(back.r, config.r);
    EXPECT_EQ(back.lora_alpha, config.lora_alpha);
    EXPECT_EQ(back.use_rslora, config.use_rslora);
    EXPECT_EQ(back.fan_in_fan_out, config.fan_in_fan_out);
    EXPECT_EQ(back.task_type, config.task_type);
    EXPECT_EQ(back.modules_to_save, config.modules_to_save);
    EXPECT_EQ(back.base_model_name_or_path, config.base_model_name_or_path);
    EXPECT_EQ(back.revision, config.revision);
    EXPECT_EQ(back.all_linear, config.all_linear);
    EXPECT_EQ(back.target_pattern, config.target_pattern);
    EXPECT_TRUE(back.target_modules == config.target_modules || targets != std::string("list"));
    const auto bytes = adapter.tensors().at(kA).bytes;
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), bytes_of(values).begin()));
  }
}

}  // namespace peft_test
}  // namespace qalof::io
