// What peft makes of its settings for modules: expected values are those of peft 0.21.
#include "io/peft_modules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace qalof::io {
namespace peft_modules_test {

using ::testing::ElementsAre;

const std::vector<std::string>& names() {
  static const std::vector<std::string> all = {
      "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj",
      "model.layers.1.mlp.up_proj", "model.layers.10.mlp.up_proj"};
  return all;
}

std::vector<PeftModule> modules(const std::string& settings) {
  std::vector<std::string> warnings;
  const PeftConfig config = parse_peft_config(
      R"({"peft_type": "LORA", "r": 8, "lora_alpha": 16, )" + settings + "}", "c.json", &warnings);
  return peft_modules(config, names(), "c.json");
}

std::vector<std::string> left_out(const std::string& settings) {
  std::vector<std::string> reasons;
  for (const PeftModule& module : modules(settings)) reasons.push_back(module.left_out_by);
  return reasons;
}
std::vector<double> alphas(const std::string& pattern) {
  std::vector<double> values;
  for (const PeftModule& module :
       modules(R"("target_modules": "all-linear", "alpha_pattern": )" + pattern))
    values.push_back(module.alpha);
  return values;
}

constexpr const char* kTargets = "target_modules";
constexpr const char* kLayers = "layers_to_transform";
constexpr const char* kExclude = "exclude_modules";
constexpr const char* kSave = "modules_to_save";

TEST(PeftModules, TargetsAreSuffixesAPatternOrEverything) {
  EXPECT_THAT(left_out(R"("target_modules": ["q_proj"])"), ElementsAre("", "", kTargets, kTargets));
  EXPECT_THAT(left_out(R"("target_modules": ["1.self_attn.q_proj", "p_proj"])"),
              ElementsAre(kTargets, "", kTargets, kTargets));
  EXPECT_THAT(left_out(R"("target_modules": ["model.layers.0.self_attn.q_proj"])"),
              ElementsAre("", kTargets, kTargets, kTargets));
  // The whole name, from its first byte on.
  EXPECT_THAT(left_out(R"("target_modules": ".*\\.1\\..*")"),
              ElementsAre(kTargets, "", "", kTargets));
  EXPECT_THAT(left_out(R"("target_modules": "q_proj")"),
              ElementsAre(kTargets, kTargets, kTargets, kTargets));
  EXPECT_THAT(left_out(R"("target_modules": "All-Linear")"), ElementsAre("", "", "", ""));
}

TEST(PeftModules, ExcludedAndSavedModulesAreLeftOut) {
  EXPECT_THAT(left_out(R"("target_modules": "all-linear", "exclude_modules": ["mlp.up_proj"])"),
              ElementsAre("", "", kExclude, kExclude));
  EXPECT_THAT(left_out(R"("target_modules": ["q_proj"], "exclude_modules": ".*\\.0\\..*")"),
              ElementsAre(kExclude, "", kTargets, kTargets));
  EXPECT_THAT(left_out(R"("target_modules": "all-linear", "modules_to_save": ["mlp"])"),
              ElementsAre("", "", kSave, kSave));
  EXPECT_THAT(left_out(R"("target_modules": "all-linear", "modules_to_save": ["score", "up"])"),
              ElementsAre("", "", "", ""));
}

TEST(PeftModules, LayersAreTheFirstNumberOrWhatAPatternSays) {
  const std::string targets = R"("target_modules": ["q_proj", "up_proj"], )";
  EXPECT_THAT(left_out(targets + R"("layers_to_transform": 1)"),
              ElementsAre(kLayers, "", "", kLayers));
  EXPECT_THAT(left_out(targets + R"("layers_to_transform": 0)"),
              ElementsAre("", kLayers, kLayers, kLayers));
  EXPECT_THAT(left_out(targets + R"("layers_to_transform": [0, 10, -1])"),
              ElementsAre("", kLayers, kLayers, ""));
  EXPECT_THAT(left_out(targets + R"("layers_to_transform": [])"), ElementsAre("", "", "", ""));
  EXPECT_THAT(left_out(targets + R"("layers_to_transform": 1, "layers_pattern": ["h", "layers"])"),
              ElementsAre(kLayers, "", "", kLayers));
  EXPECT_THAT(left_out(targets + R"("layers_to_transform": 1, "layers_pattern": "h")"),
              ElementsAre(kLayers, kLayers, kLayers, kLayers));
  // An alternative that is not in a group ends before the number.
  EXPECT_THAT(left_out(targets + R"("layers_to_transform": 1, "layers_pattern": "model|layers")"),
              ElementsAre(kLayers, kLayers, kLayers, kLayers));
  // Modules by their whole names are not asked for a layer.
  EXPECT_THAT(left_out(R"("target_modules": ["model.layers.0.self_attn.q_proj", "up_proj"],
                          "layers_to_transform": 1)"),
              ElementsAre("", kTargets, "", kLayers));
}

TEST(PeftModules, TheFirstPatternOfTheFileCounts) {
  EXPECT_THAT(alphas(R"({"q_proj": 1, ".*\\.1\\..*": 2})"), ElementsAre(1, 1, 2, 16));
  EXPECT_THAT(alphas(R"({".*\\.1\\..*": 2, "q_proj": 1})"), ElementsAre(1, 2, 2, 16));
  EXPECT_THAT(alphas(R"({"zz": 3, "up_proj": 4, "aa": 5, "10.mlp.up_proj": 6})"),
              ElementsAre(16, 16, 4, 4));
  // A name, or the part of it after a dot.
  EXPECT_THAT(alphas(R"({"proj": 1, "layers.1.mlp.up_proj": 2})"), ElementsAre(16, 16, 2, 16));
  EXPECT_THAT(alphas(R"({"^model.layers.1.*": 3, "^layers.0.*": 4})"), ElementsAre(16, 3, 3, 3));
  EXPECT_THAT(alphas(R"({"layers\\.(0|10)\\..*": 0.5})"), ElementsAre(0.5, 16, 16, 0.5));
  // A dot is any byte, as in peft.
  EXPECT_THAT(alphas(R"({"self.attn.q.proj": 7})"), ElementsAre(7, 7, 16, 16));
  // Other members with the same keys say nothing about the order.
  EXPECT_THAT(alphas(R"({"q_proj": 1, ".*\\.1\\..*": 2}, "loftq_config":
                        {"alpha_pattern": {".*\\.1\\..*": 2, "q_proj": 1}})"),
              ElementsAre(1, 1, 2, 16));
}

TEST(PeftModules, RanksFollowTheirPatterns) {
  const auto found = modules(
      R"("target_modules": "all-linear", "rank_pattern": {".*\\.mlp\\..*": 2, "1.self_attn.q_proj": 3})");
  EXPECT_EQ(found[0].rank, 8U);
  EXPECT_EQ(found[1].rank, 3U);
  EXPECT_EQ(found[2].rank, 2U);
  EXPECT_EQ(found[3].rank, 2U);
}

}  // namespace peft_modules_test
}  // namespace qalof::io
