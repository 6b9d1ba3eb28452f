// Plan files: forms and paths, round trips, and every way a file can be wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "quant/plan.h"
#include "quant/plan_test_util.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace qalof::quant {
namespace plan_file_test {

using ::qalof::testing::error_of;
using ::qalof::testing::TempDir;
using ::qalof::testing::two_layers;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr const char* kFull = R"({"format_version": 1, "scheme": "seed", "default": "w8a8kv8",
    "head": 8, "rules": [{"match": "h\\.0\\..*", "set": "w4a4"}],
    "modules": {"h.1.mlp.c_fc": "w4a8"}, "kv": {"0": {"k": 4, "v": [4, 8]}}})";

void write(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

TEST(PlanFile, ReadsEveryMember) {
  const TempDir dir;
  const std::string path = dir.file("plan.json");
  write(path, kFull);
  const PlanSpec spec = parse_plan(path);
  EXPECT_TRUE(spec.is_file);
  EXPECT_FALSE(spec.covers_every_module);
  EXPECT_EQ(spec.source, path);
  EXPECT_EQ(spec.scheme, QuantScheme{});
  EXPECT_EQ(to_string(spec.default_precision), "w8a8kv8");
  EXPECT_EQ(spec.head, 8);
  ASSERT_EQ(spec.rules.size(), 1U);
  EXPECT_EQ(spec.rules[0].match, "h\\.0\\..*");
  EXPECT_EQ(to_string(spec.rules[0].set), "w4a4");
  EXPECT_EQ(to_string(spec.modules.at("h.1.mlp.c_fc")), "w4a8");
  EXPECT_EQ(spec.kv.at(0).k, std::vector<BitWidth>{BitWidth{4}});
  EXPECT_EQ(spec.kv.at(0).v, (std::vector<BitWidth>{BitWidth{4}, BitWidth{8}}));
}

TEST(PlanFile, WrittenPlanReadsBackTheSame) {
  const PlanSpec spec = plan_from_json(Json::parse(kFull), "plan.json");
  const Json json = to_json(spec);
  EXPECT_EQ(to_json(plan_from_json(json, "again")), json);
  EXPECT_EQ(resolve(plan_from_json(json, "again"), two_layers()), resolve(spec, two_layers()));
  const PlanSpec text = parse_plan("w4a8k8v4");
  EXPECT_FALSE(text.is_file);
  EXPECT_EQ(resolve(plan_from_json(to_json(text), "again"), two_layers()),
            resolve(text, two_layers()));
  EXPECT_FALSE(to_json(text).contains("scheme"));
}

TEST(PlanFile, FlatMapWrittenAsPlanResolvesTheSame) {
  Json flat;
  for (const std::string& name : two_layers().linear_names) flat["transformer." + name] = 8;
  flat["transformer.h.0.mlp.c_fc"] = 4;
  const PlanSpec spec = plan_from_json(flat, "plan.json");
  const PlanSpec again = plan_from_json(to_json(spec), "again");
  EXPECT_EQ(resolve(again, two_layers()), resolve(spec, two_layers()));
}

TEST(PlanFile, TextFormBeatsAFileOfThatName) {
  const TempDir dir;
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(dir.path());
  write("8", R"({"format_version": 1, "default": 4})");
  write("half", R"({"format_version": 1, "default": 4})");
  const PlanSpec form = parse_plan("8");
  const PlanSpec file = parse_plan("half");
  std::filesystem::current_path(before);
  EXPECT_EQ(to_string(form.default_precision), "w8a8kv8");
  EXPECT_EQ(to_string(file.default_precision), "w4a4kv4");
}

TEST(PlanFile, NeitherFormNorFileSaysBoth) {
  const auto error = error_of([] { parse_plan("w4a9"); });
  EXPECT_EQ(error.kind, ErrorKind::kUsage);
  EXPECT_THAT(error.message, HasSubstr("precision \"w4a9\": expected N, wNaN"));
  EXPECT_THAT(error.message, HasSubstr("or the path of a plan file"));
  EXPECT_EQ(error_of([] { parse_plan(""); }).kind, ErrorKind::kUsage);
  EXPECT_EQ(error_of([] { parse_plan(std::string(100'000, 'x')); }).kind, ErrorKind::kUsage);
  EXPECT_EQ(error_of([] { parse_plan("f16"); }).kind, ErrorKind::kUnsupported);
  EXPECT_EQ(error_of([] { parse_plan("random:4,8"); }).kind, ErrorKind::kUnsupported);
}

TEST(PlanFile, WhatLooksLikeAPathIsAMissingFile) {
  for (const char* path : {"absent.json", "absent/plan", "./w4a4x"}) {
    const auto error = error_of([&] { parse_plan(path); });
    EXPECT_EQ(error.kind, ErrorKind::kNotFound) << path;
    EXPECT_EQ(error.message, std::string(path) + ": no such plan file");
  }
}

TEST(PlanFile, DirectoryAndTooLargeFileAreRefused) {
  const TempDir dir;
  EXPECT_EQ(error_of([&] { parse_plan(dir.path()); }).kind, ErrorKind::kBadInput);
  write(dir.file("large.json"), std::string((std::size_t{4} << 20) + 1, ' '));
  const auto error = error_of([&] { parse_plan(dir.file("large.json")); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message, HasSubstr("at most 4194304"));
}

TEST(PlanFile, EveryPrefixOfAFileIsRefused) {
  const TempDir dir;
  const std::string path = dir.file("plan.json");
  const std::string text = R"({"format_version":1,"default":"8","kv":{"0":{"k":4}}})";
  for (std::size_t size = 0; size < text.size(); ++size) {
    write(path, text.substr(0, size));
    const auto error = error_of([&] { parse_plan(path); });
    EXPECT_EQ(error.kind, ErrorKind::kCorruptFile) << size;
    EXPECT_THAT(error.message, StartsWith(path)) << size;
  }
  write(path, text);
  EXPECT_EQ(to_string(parse_plan(path).default_precision), "w8a8kv8");
}

// One bit of a file flipped either leaves a plan or is an Error; nothing else is thrown.
TEST(PlanFile, EveryFlippedBitIsAPlanOrAnError) {
  const TempDir dir;
  const std::string path = dir.file("plan.json");
  const std::string text = kFull;
  std::size_t num_refused = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = text;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      write(path, damaged);
      try {
        resolve(parse_plan(path), two_layers());
      } catch (const Error& error) {
        EXPECT_NE(error.kind(), ErrorKind::kInternal);
        ++num_refused;
      }
    }
  }
  EXPECT_GT(num_refused, text.size());
}

struct BadPlan {
  const char* name;
  const char* text;
  ErrorKind kind;
  const char* words;
};

class PlanFileRefuses : public ::testing::TestWithParam<BadPlan> {};

TEST_P(PlanFileRefuses, WithKindAndWords) {
  const TempDir dir;
  const std::string path = dir.file("plan.json");
  write(path, GetParam().text);
  const auto error = error_of([&] { parse_plan(path); });
  EXPECT_EQ(error.kind, GetParam().kind) << error.message;
  EXPECT_THAT(error.message, HasSubstr(GetParam().words));
  EXPECT_THAT(error.message, StartsWith(path + ": "));
}

constexpr ErrorKind kBad = ErrorKind::kBadInput;
constexpr ErrorKind kCorrupt = ErrorKind::kCorruptFile;
constexpr ErrorKind kNotHere = ErrorKind::kUnsupported;

const BadPlan kBadPlans[] = {
    {"Empty", "", kCorrupt, "not valid JSON"},
    {"NotJson", "w4a4", kCorrupt, "not valid JSON"},
    {"TrailingBytes", R"({"format_version": 1, "default": 8} x)", kCorrupt, "not valid JSON"},
    {"DuplicateKey", R"({"format_version": 1, "default": 8, "default": 4})", kCorrupt, "twice"},
    {"DuplicateModule",
     R"({"format_version": 1, "default": 8, "modules": {"h.0.a": 4, "h.0.a": 4}})", kCorrupt,
     "twice"},
    {"InvalidUtf8", "{\"format_version\": 1, \"default\": \"\xff\"}", kCorrupt, "not valid JSON"},
    {"List", "[1]", kBad, "found array"},
    {"Null", "null", kBad, "found null"},
    {"EmptyObject", "{}", kBad, "an empty object"},
    {"NoVersion", R"({"default": "w8a8kv8"})", kBad, "format_version is missing"},
    {"MisspeltVersion", R"({"format_verison": 1})", kBad, "format_version is missing"},
    {"NewerVersion", R"({"format_version": 2, "default": 8})", kNotHere, "format_version 2"},
    {"NewerVersionWithNewKeys", R"({"format_version": 7, "groups": 64})", kNotHere,
     "this program reads 1"},
    {"VersionZero", R"({"format_version": 0, "default": 8})", kNotHere, "format_version 0"},
    {"NegativeVersion", R"({"format_version": -1, "default": 8})", kBad, "format_version"},
    {"VersionAsText", R"({"format_version": "1", "default": 8})", kBad, "expected an integer"},
    {"VersionAsFloat", R"({"format_version": 1.0, "default": 8})", kBad, "expected an integer"},
    {"HugeVersion", R"({"format_version": 99999999999999999999, "default": 8})", kCorrupt,
     "64 signed bits"},
    {"NoDefault", R"({"format_version": 1, "head": 8})", kBad, "default is missing"},
    {"DefaultNull", R"({"format_version": 1, "default": null})", kBad, "found null"},
    {"DefaultObject", R"({"format_version": 1, "default": {"w": 8}})", kBad,
     "expected a precision"},
    {"DefaultForm", R"({"format_version": 1, "default": "w9a8"})", kBad, "default: precision"},
    {"DefaultIllegalPair", R"({"format_version": 1, "default": "w16a8"})", kBad,
     "need activations of 16"},
    {"DefaultFloat", R"({"format_version": 1, "default": 8.0})", kBad, "found 8.0"},
    {"DefaultNegative", R"({"format_version": 1, "default": -8})", kBad, "2..8, 16 or 32"},
    {"DefaultRandom", R"({"format_version": 1, "default": "random:4,8"})", kNotHere,
     "here one precision is needed"},
    {"UnknownKey", R"({"format_version": 1, "default": 8, "rule": []})", kBad,
     "unknown key rule, nearest known key rules"},
    {"OtherScheme", R"({"format_version": 1, "default": 8, "scheme": "ag64"})", kBad,
     "scheme: found ag64, expected groups of activations"},
    {"SchemeType", R"({"format_version": 1, "default": 8, "scheme": 1})", kBad,
     "expected a string"},
    {"HeadIllegal", R"({"format_version": 1, "default": 8, "head": 9})", kBad, "head: found 9"},
    {"HeadText", R"({"format_version": 1, "default": 8, "head": "8"})", kBad, "head: found \"8\""},
    {"RulesObject", R"({"format_version": 1, "default": 8, "rules": {}})", kBad, "expected a list"},
    {"RuleNotObject", R"({"format_version": 1, "default": 8, "rules": ["h.*"]})", kBad,
     "rules[0]: found string, expected an object"},
    {"RuleWithoutMatch", R"({"format_version": 1, "default": 8, "rules": [{"set": 4}]})", kBad,
     "rules[0]: match is missing"},
    {"RuleWithoutSet", R"({"format_version": 1, "default": 8, "rules": [{"match": ".*"}]})", kBad,
     "rules[0]: set is missing"},
    {"RuleWithMore",
     R"({"format_version": 1, "default": 8, "rules": [{"match": ".*", "set": 4, "sets": 4}]})",
     kBad, "rules[0]: unknown key sets, nearest known key set"},
    {"RuleMatchType", R"({"format_version": 1, "default": 8, "rules": [{"match": 1, "set": 4}]})",
     kBad, "expected a string"},
    {"RuleBadPattern",
     R"({"format_version": 1, "default": 8, "rules": [{"match": "(", "set": 4}]})", kBad,
     "rules[0]: pattern \"(\" is not a regular expression of RE2: missing ): ("},
    {"RuleSetsKv",
     R"({"format_version": 1, "default": 8, "rules": [{"match": ".*", "set": "w4a4kv4"}]})", kBad,
     "rules[0].set: \"w4a4kv4\""},
    {"RuleSetFloat",
     R"({"format_version": 1, "default": 8, "rules": [{"match": ".*", "set": 4.5}]})", kBad,
     "found 4.5"},
    {"ModulesList", R"({"format_version": 1, "default": 8, "modules": []})", kBad,
     "expected an object"},
    {"ModuleWidth", R"({"format_version": 1, "default": 8, "modules": {"h.3.mlp.c_fc": 9}})", kBad,
     "modules[\"h.3.mlp.c_fc\"]: \"9\", expected"},
    {"ModuleType", R"({"format_version": 1, "default": 8, "modules": {"h.0": [4]}})", kBad,
     "found [4]"},
    {"ModuleTwice",
     R"({"format_version": 1, "default": 8, "modules": {"h.0.x": 4, "transformer.h.0.x": 8}})",
     kBad, "appears twice, with and without prefix"},
    {"KvList", R"({"format_version": 1, "default": 8, "kv": [4]})", kBad, "expected an object"},
    {"KvLayerName", R"({"format_version": 1, "default": 8, "kv": {"h.0": {"k": 4}}})", kBad,
     "expected a layer number"},
    {"KvLayerLeadingZero", R"({"format_version": 1, "default": 8, "kv": {"00": {"k": 4}}})", kBad,
     "expected a layer number"},
    {"KvLayerNegative", R"({"format_version": 1, "default": 8, "kv": {"-1": {"k": 4}}})", kBad,
     "expected a layer number"},
    {"KvLayerHuge",
     R"({"format_version": 1, "default": 8, "kv": {"99999999999999999999": {"k": 4}}})", kBad,
     "expected a layer number"},
    {"KvEmpty", R"({"format_version": 1, "default": 8, "kv": {"0": {}}})", kBad, "k, v or both"},
    {"KvNumber", R"({"format_version": 1, "default": 8, "kv": {"0": 4}})", kBad, "k, v or both"},
    {"KvUnknownKey", R"({"format_version": 1, "default": 8, "kv": {"0": {"q": 4}}})", kBad,
     "unknown key q"},
    {"KvWidth", R"({"format_version": 1, "default": 8, "kv": {"0": {"k": 1}}})", kBad,
     "kv[\"0\"].k: found 1"},
    {"KvEmptyHeads", R"({"format_version": 1, "default": 8, "kv": {"0": {"v": []}}})", kBad,
     "an empty list"},
    {"KvHeadWidth", R"({"format_version": 1, "default": 8, "kv": {"0": {"v": [4, 12]}}})", kBad,
     "found 12"},
    {"FlatWidth", R"({"transformer.h.0.attn.c_attn": 12})", kBad,
     "\"transformer.h.0.attn.c_attn\": found 12"},
    {"FlatText", R"({"h.0.attn.c_attn": "8"})", kBad, "found \"8\""},
    {"FlatFloat", R"({"h.0.attn.c_attn": 8.0})", kBad, "found 8.0"},
    {"FlatTwice", R"({"h.0.x": 8, "transformer.h.0.x": 8})", kBad, "appears twice"},
};

INSTANTIATE_TEST_SUITE_P(, PlanFileRefuses, ::testing::ValuesIn(kBadPlans),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(PlanFile, PatternsWithTooManyStepsTogetherAreRefused) {
  Json json = {{"format_version", 1}, {"default", 8}};
  for (int i = 0; i < 512; ++i) json["rules"].push_back({{"match", "[ab]{500}"}, {"set", 4}});
  const auto error = error_of([&] { plan_from_json(json, "here"); });
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_THAT(error.message, HasSubstr("the patterns up to here have"));
}

TEST(PlanFile, TooManyRulesAreRefused) {
  Json json = {{"format_version", 1}, {"default", 8}};
  for (int i = 0; i < 513; ++i) json["rules"].push_back({{"match", ".*"}, {"set", 4}});
  EXPECT_THAT(error_of([&] { plan_from_json(json, "here"); }).message,
              HasSubstr("513 rules, expected at most 512"));
  json["rules"].erase(0);
  EXPECT_EQ(plan_from_json(json, "here").rules.size(), 512U);
}

}  // namespace plan_file_test
}  // namespace qalof::quant
