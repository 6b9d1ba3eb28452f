// Plans against a small model: what rules, names, K/V entries and defaults resolve to.
#include "quant/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quant/plan_test_util.h"
#include "support/error_of.h"

namespace qalof::quant {
namespace plan_test {

using ::qalof::testing::error_of;
using ::qalof::testing::two_layers;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr Precision kW4{BitWidth{4}, BitWidth{4}};
constexpr Precision kW8{BitWidth{8}, BitWidth{8}};

PrecisionPlan resolved(const std::string& text) {
  return resolve(plan_from_json(Json::parse(text), "plan.json"), two_layers());
}

std::string refusal(const std::string& text) {
  const auto error = error_of([&] { resolved(text); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput) << error.message;
  EXPECT_THAT(error.message, StartsWith("plan.json: "));
  return error.message;
}

TEST(Plan, DefaultFillsEveryLinearAndHead) {
  const PrecisionPlan plan = resolved(R"({"format_version": 1, "default": "w4a8k8v3"})");
  const PlanTarget target = two_layers();
  EXPECT_EQ(plan.linears,
            std::vector<Precision>(target.linear_names.size(), {BitWidth{4}, BitWidth{8}}));
  EXPECT_EQ(plan.k, std::vector(2, std::vector<BitWidth>(2, BitWidth{8})));
  EXPECT_EQ(plan.v, std::vector(2, std::vector<BitWidth>(2, BitWidth{3})));
  EXPECT_EQ(plan.default_width, BitWidth{4});
  EXPECT_EQ(plan.head, std::nullopt);
}

TEST(Plan, TextFormAndFileOfTheSameWidthResolveEqual) {
  EXPECT_EQ(resolve(parse_plan("w8a8kv8"), two_layers()),
            resolved(R"({"format_version": 1, "default": 8})"));
  EXPECT_EQ(resolve(parse_plan("8"), two_layers()),
            resolved(R"({"format_version": 1, "default": "8"})"));
}

TEST(Plan, LastMatchingRuleWinsAndExactNameBeatsRules) {
  const PrecisionPlan plan = resolved(R"({"format_version": 1, "default": 8,
      "rules": [{"match": "h\\.0\\..*", "set": 4}, {"match": "h\\.0\\.mlp\\..*", "set": "w3a8"}],
      "modules": {"h.0.mlp.c_proj": "w2a2", "h.1.attn.c_attn": "5"}})");
  EXPECT_EQ(plan.linears[0], kW4);
  EXPECT_EQ(plan.linears[1], kW4);
  EXPECT_EQ(plan.linears[2], (Precision{BitWidth{3}, BitWidth{8}}));
  EXPECT_EQ(plan.linears[3], (Precision{BitWidth{2}, BitWidth{2}}));
  EXPECT_EQ(plan.linears[4], (Precision{BitWidth{5}, BitWidth{5}}));
  for (std::size_t i = 5; i < 8; ++i) EXPECT_EQ(plan.linears[i], kW8) << i;
}

TEST(Plan, OrderOfRulesDecidesNotTheirLength) {
  const PrecisionPlan plan = resolved(R"({"format_version": 1, "default": 8, "rules": [
      {"match": "h\\.0\\.mlp\\.c_fc", "set": 4}, {"match": ".*", "set": 6}]})");
  EXPECT_EQ(plan.linears, std::vector<Precision>(8, {BitWidth{6}, BitWidth{6}}));
}

TEST(Plan, RuleMatchesTheWholeNameWithoutPrefix) {
  EXPECT_THAT(refusal(R"({"format_version": 1, "default": 8,
                          "rules": [{"match": "attn", "set": 4}]})"),
              HasSubstr("rule \"attn\" matches no module"));
  const std::string prefixed = refusal(R"({"format_version": 1, "default": 8,
      "rules": [{"match": "transformer\\.h\\.1\\.mlp\\.c_fc", "set": 4}]})");
  EXPECT_THAT(prefixed, HasSubstr("without transformer. or model."));
  EXPECT_THAT(prefixed, HasSubstr("nearest module h.1.mlp.c_fc"));
}

TEST(Plan, PrefixOfAModuleMeansNothing) {
  const PrecisionPlan plain =
      resolved(R"({"format_version": 1, "default": 8, "modules": {"h.1.mlp.c_fc": 4}})");
  for (const char* prefix : {"transformer.", "model."}) {
    EXPECT_EQ(resolved(fmt::format(
                  R"({{"format_version": 1, "default": 8, "modules": {{"{}h.1.mlp.c_fc": 4}}}})",
                  prefix)),
              plain);
  }
  EXPECT_EQ(plain.linears[6], kW4);
  PlanSpec spec = parse_plan("8");
  spec.modules["transformer.h.1.mlp.c_fc"] = kW4;
  EXPECT_EQ(resolve(spec, two_layers()), plain);
}

TEST(Plan, UnknownModuleNamesTheNearest) {
  EXPECT_THAT(refusal(R"({"format_version": 1, "default": 8, "modules": {"h.1.mlp.c_fz": 4}})"),
              HasSubstr("module h.1.mlp.c_fz is not in this model, nearest module h.1.mlp.c_fc"));
}

TEST(Plan, KvSetsLayersAndHeads) {
  const PrecisionPlan plan = resolved(R"({"format_version": 1, "default": "w8a8kv8",
      "kv": {"1": {"k": 4, "v": [2, 16]}, "0": {"v": 32}}})");
  const BitWidth w8{8};
  EXPECT_EQ(plan.k[0], (std::vector<BitWidth>{w8, w8}));
  EXPECT_EQ(plan.v[0], (std::vector<BitWidth>{BitWidth{32}, BitWidth{32}}));
  EXPECT_EQ(plan.k[1], (std::vector<BitWidth>{BitWidth{4}, BitWidth{4}}));
  EXPECT_EQ(plan.v[1], (std::vector<BitWidth>{BitWidth{2}, BitWidth{16}}));
}

TEST(Plan, KvOfAnAbsentLayerOrWrongNumberOfHeadsIsRefused) {
  EXPECT_THAT(refusal(R"({"format_version": 1, "default": 8, "kv": {"2": {"k": 4}}})"),
              HasSubstr("kv[\"2\"]: the model has 2 layers"));
  EXPECT_THAT(refusal(R"({"format_version": 1, "default": 8, "kv": {"0": {"k": [4, 4, 4]}}})"),
              HasSubstr("kv[\"0\"].k: 3 widths, the model has 2 key/value heads"));
}

TEST(Plan, FlatMapCoversEveryModuleWithKvAt16) {
  Json flat;
  for (const std::string& name : two_layers().linear_names) flat["transformer." + name] = 8;
  flat["transformer.h.1.mlp.c_fc"] = 4;
  const PrecisionPlan plan = resolve(plan_from_json(flat, "plan.json"), two_layers());
  EXPECT_EQ(plan.linears[6], kW4);
  EXPECT_EQ(plan.linears[5], kW8);
  EXPECT_EQ(plan.default_width, BitWidth{8});
  EXPECT_EQ(plan.k, std::vector(2, std::vector<BitWidth>(2, BitWidth{16})));
  EXPECT_EQ(plan.v, plan.k);
  flat.erase("transformer.h.0.mlp.c_proj");
  flat.erase("transformer.h.1.attn.c_attn");
  EXPECT_THAT(refusal(flat.dump()),
              HasSubstr("module h.0.mlp.c_proj has no width (6 of 8 modules are named)"));
}

TEST(Plan, FlatMapIsReadWithoutPrefixAndTiesGoToTheHigherWidth) {
  Json flat;
  for (const std::string& name : two_layers().linear_names) flat[name] = name[2] == '0' ? 4 : 8;
  const PlanSpec spec = plan_from_json(flat, "plan.json");
  EXPECT_EQ(to_string(spec.default_precision), "w8a8kv16");
  EXPECT_TRUE(spec.covers_every_module);
}

// Layer by layer: 48, 16, 64 and 64 weights.
TEST(Plan, HeadIsTheExplicitOneElseTheDefaultElseTheHeaviest) {
  const PlanTarget target = two_layers();
  EXPECT_EQ(resolved(R"({"format_version": 1, "default": 8, "head": 3})").head_width(target),
            BitWidth{3});
  const std::string one_left = R"({"format_version": 1, "default": 8,
      "rules": [{"match": ".*", "set": 4}], "modules": {"h.0.attn.c_proj": 8}})";
  EXPECT_EQ(resolved(one_left).head_width(target), BitWidth{8});
  // The default is nowhere: 5 has four linears of 128 weights in all, 6 has four of 256.
  const std::string none_left = R"({"format_version": 1, "default": 8, "rules": [
      {"match": ".*\\.attn\\..*", "set": 5}, {"match": ".*\\.mlp\\..*", "set": "w6a8"}]})";
  EXPECT_EQ(resolved(none_left).head_width(target), BitWidth{6});
  const std::string tie = R"({"format_version": 1, "default": 8, "rules": [
      {"match": "h\\.0\\..*", "set": 4}, {"match": "h\\.1\\..*", "set": 3}]})";
  EXPECT_EQ(resolved(tie).head_width(target), BitWidth{4});
}

TEST(Plan, MeanBitsAreWeightedByElements) {
  const PrecisionPlan plan = resolved(R"({"format_version": 1, "default": 8,
      "rules": [{"match": ".*\\.mlp\\..*", "set": "w4a6"}]})");
  EXPECT_DOUBLE_EQ(plan.mean_weight_bits(two_layers()), (128.0 * 8 + 256.0 * 4) / 384.0);
  EXPECT_DOUBLE_EQ(plan.mean_activation_bits(two_layers()), (128.0 * 8 + 256.0 * 6) / 384.0);
}

TEST(Plan, DescriptionTellsUniformFromMixed) {
  auto text = [](const std::string& json) { return describe(resolved(json), two_layers()); };
  EXPECT_EQ(describe(resolve(parse_plan("8"), two_layers()), two_layers()), "w8a8kv8");
  EXPECT_EQ(describe(resolve(parse_plan("w4a8k8v4"), two_layers()), two_layers()), "w4a8k8v4");
  EXPECT_EQ(text(R"({"format_version": 1, "default": 4, "kv": {"0": {"k": 8}}})"), "w4a4 kv mixed");
  EXPECT_EQ(text(R"({"format_version": 1, "default": 8,
                     "rules": [{"match": ".*mlp.*", "set": 4}]})"),
            "mixed (w4a4 x4, w8a8 x4; kv8), 5.33 weight bits");
}

TEST(Plan, NearestNameIsByEditDistance) {
  EXPECT_EQ(nearest_name("kat", {"dog", "cat", "cattle"}), "cat");
  EXPECT_EQ(nearest_name("", {"ab", "a"}), "a");
  EXPECT_EQ(nearest_name("anything", {}), "");
  EXPECT_EQ(nearest_name("same", {"same", "sane"}), "same");
  EXPECT_EQ(nearest_name(std::string(1'000'000, 'x'), {"a", "xx"}), "xx");
}

TEST(Plan, MostFrequentWidthPrefersTheHigherOfEquals) {
  EXPECT_EQ(most_frequent_width({{4, 2}, {8, 2}, {3, 1}}), BitWidth{8});
  EXPECT_EQ(most_frequent_width({{4, 3}, {8, 2}}), BitWidth{4});
  EXPECT_EQ(most_frequent_width({}), BitWidth{32});
}

}  // namespace plan_test
}  // namespace qalof::quant
