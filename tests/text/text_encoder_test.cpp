// What is put around texts and pairs equals `transformers` for every form of a directory's files
// (tools/fixtures/make_special_token_fixtures.py); what is not understood is refused by name.
#include "text/text_encoder.h"

#include <gmock/gmock.h>

#include "support/error_of.h"
#include "text/fixtures.h"
#include "text/span_features.h"

namespace qalof::text {
namespace text_encoder_test {

using qalof::testing::error_of;
using qalof::testing::text_data;
using qalof::testing::tiny_json;
using qalof::testing::tokenizer_of;
using ::testing::HasSubstr;

Json end_template() {
  return {{"type", "TemplateProcessing"},
          {"single",
           {{{"SpecialToken", {{"id", "<|endoftext|>"}, {"type_id", 0}}}},
            {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
          {"pair",
           {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
            {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}}},
          {"special_tokens",
           {{"<|endoftext|>",
             {{"id", "<|endoftext|>"}, {"ids", {0}}, {"tokens", {"<|endoftext|>"}}}}}}};
}

Json with_post_processor(const Json& post) {
  Json json = parse_json(tiny_json(), "tiny");
  json["post_processor"] = post;
  return json;
}

TextEncoder encoder_with(const Json& post, bool parse_special = false) {
  return TextEncoder(tokenizer_of(with_post_processor(post)), parse_special);
}

std::map<std::string, std::string> pair_files() {
  std::map<std::string, std::string> files;
  for (const char* name : {"vocab.json", "merges.txt"})
    files[name] = read_file(text_data(std::string("tiny_pairs/") + name), 1U << 20);
  return files;
}

BpeTokenizer tokenizer_of_case(const Json& one) {
  std::map<std::string, std::string> files;
  if (one.contains("post_processor")) {
    files["tokenizer.json"] = with_post_processor(one["post_processor"]).dump();
  } else {
    files = pair_files();
  }
  for (const auto& [name, text] : one["files"].items()) files[name] = text;
  return BpeTokenizer::from_files(files, "dir");
}

void expect_encoding(const Encoding& encoding, const Json& expected, const std::string& what) {
  EXPECT_EQ(Json(encoding.ids), expected["ids"]) << what;
  EXPECT_EQ(Json(encoding.offsets), expected["offsets"]) << what;
}

TEST(TextEncoder, TextsAndWindowsEqualTransformers) {
  const Json cases = parse_json(read_file(text_data("special_tokens.json"), 1U << 20), "cases");
  EXPECT_GT(cases.size(), 20U);
  for (const Json& one : cases) {
    const std::string name = one["name"];
    const TextEncoder plain(tokenizer_of_case(one)), parsing(tokenizer_of_case(one), true);
    for (const Json& text : one["texts"]) {
      const std::string string = text["string"];
      expect_encoding(plain.encode(string), text["text"], name + ": " + string);
      expect_encoding(parsing.encode(string), text["parsed"], name + ", parsed: " + string);
    }
    SpanFeatureOptions options;
    options.max_seq_length = one["max_seq_length"];
    options.doc_stride = one["doc_stride"];
    Json windows = Json::array();
    const EncodedContext context = encode_context(plain, one["context"]);
    for (const SpanWindow& window : make_windows(plain, one["question"], context, options)) {
      windows.push_back(window.ids);
      const std::size_t end = window.context_start + window.offsets.size();
      EXPECT_EQ(end + plain.text_template().pair_after.size(), window.ids.size()) << name;
    }
    EXPECT_EQ(windows, one["windows"]) << name;
  }
}

TEST(TextEncoder, ACutTakesFromTheTextNotFromWhatStandsAroundIt) {
  const TextEncoder encoder =
      encoder_with({{"type", "BertProcessing"}, {"cls", {"<|endoftext|>", 0}}, {"sep", {"b", 66}}});
  const std::vector<std::int32_t> whole = encoder.encode("The king.").ids;  // 3 and 2 around
  ASSERT_EQ(whole.size(), 5U);
  bool was_cut = true;
  EXPECT_EQ(encoder.encode_cut("The king.", 5, &was_cut), whole);
  EXPECT_FALSE(was_cut);
  EXPECT_EQ(encoder.encode_cut("The king.", 4, &was_cut),
            (std::vector<std::int32_t>{0, whole[1], whole[2], 66}));
  EXPECT_TRUE(was_cut);
  EXPECT_TRUE(encoder.encode_cut("", 5).empty());
  const auto error = error_of([&] { encoder.encode_cut("The king.", 2); });
  EXPECT_EQ(error.kind, ErrorKind::kUsage);
  EXPECT_THAT(error.message, HasSubstr("expected at least 3"));
}

TEST(TextEncoder, SaysWhatItAddsAndWhetherItStandsTwice) {
  const TextEncoder encoder = encoder_with(end_template(), /*parse_special=*/true);
  EXPECT_EQ(encoder.description(),
            (Json{{"before", {0}}, {"after", Json::array()}, {"parse_special", true}}));
  EXPECT_EQ(encoder.description(/*pairs=*/true), (Json{{"before", Json::array()},
                                                       {"between", Json::array()},
                                                       {"after", Json::array()},
                                                       {"parse_special", true}}));
  EXPECT_TRUE(encoder.begins_twice(encoder.encode("<|endoftext|>The king.").ids));
  EXPECT_FALSE(encoder.begins_twice(encoder.encode("The king.").ids));
  EXPECT_FALSE(encoder.begins_twice(encoder.encode("").ids));
  EXPECT_FALSE(encoder.is_plain());
  const TextEncoder plain(BpeTokenizer::load(text_data("tiny")));
  EXPECT_TRUE(plain.is_plain());
  EXPECT_FALSE(plain.begins_twice({0, 0}));
}

TEST(TextEncoder, WhatIsNotUnderstoodIsRefusedByName) {
  const Json token = {{"SpecialToken", {{"id", "<|endoftext|>"}, {"type_id", 0}}}};
  const auto text = [](const char* id) { return Json{{"Sequence", {{"id", id}, {"type_id", 0}}}}; };
  const auto with = [&](const char* key, const Json& value) {
    Json post = end_template();
    post[key] = value;
    return post;
  };
  const auto sequence = [](const Json& steps) {
    return Json{{"type", "Sequence"}, {"processors", steps}};
  };
  Json many = Json::array({text("A")});
  for (int i = 0; i < 1001; ++i) many.push_back(token);
  constexpr ErrorKind kNotHere = ErrorKind::kUnsupported, kBad = ErrorKind::kBadInput;
  const std::vector<std::tuple<Json, ErrorKind, std::string>> cases = {
      {{{"type", "Magic"}}, kNotHere, "is Magic, implemented are ByteLevel, TemplateProcessing"},
      {sequence({end_template(), end_template()}), kNotHere, "processors[1]: is a second step"},
      {sequence(Json::array({sequence(Json::array())})), kNotHere, "processors[0]: is Sequence"},
      {sequence("x"), kBad, "processors: is missing or no list"},
      {"x", kBad, "found \"x\", expected an object"},
      {{{"type", 3}}, kBad, "type"},
      {with("single", Json::array({token})), kNotHere, "single: holds 0 texts"},
      {with("single", {text("A"), text("A")}), kNotHere, "found text A at place 2"},
      {with("single", Json::array({text("B")})), kNotHere, "found text B at place 1"},
      {with("pair", {text("B"), text("A")}), kNotHere, "found text B at place 1"},
      {with("pair", Json::array({text("A")})), kNotHere, "pair: holds 1 texts"},
      {with("pair", nullptr), kBad, "pair: is missing or no list"},
      {with("single", {"$A"}), kNotHere, "implemented are Sequence and SpecialToken"},
      {with("single", {{{"Pad", {{"id", "A"}}}}}), kNotHere, "found {\"Pad\""},
      {with("special_tokens", Json::object()), kBad, "does not stand in special_tokens"},
      {with("special_tokens", {{"<|endoftext|>", {{"ids", {1 << 20}}}}}), kBad, "has id 1048576"},
      {with("special_tokens", {{"<|endoftext|>", {{"ids", {-1}}}}}), kBad, "has id -1"},
      {with("special_tokens", {{"<|endoftext|>", {{"ids", {"a"}}}}}), kBad, "has id \"a\""},
      {with("special_tokens", {{"<|endoftext|>", 3}}), kBad, "has no list of ids"},
      {with("single", many), kBad, "over 1000 tokens"},
      {{{"type", "BertProcessing"}, {"cls", {"a", 65}}}, kBad, "post_processor.sep: expected"},
      {{{"type", "RobertaProcessing"}, {"cls", {"a", 1 << 20}}, {"sep", {"a", 65}}},
       kBad,
       "post_processor.cls: expected"}};
  for (const auto& [post, kind, part] : cases) {
    const auto error = error_of([&] { tokenizer_of(with_post_processor(post)); });
    EXPECT_EQ(error.kind, kind) << post.dump().substr(0, 200) << error.message;
    EXPECT_THAT(error.message, HasSubstr(part));
    EXPECT_THAT(error.message, HasSubstr("post_processor"));
  }
}

TEST(TextEncoder, ConfigFilesThatContradictTheVocabularyAreRefused) {
  const auto error_with = [](const char* name, const std::string& text) {
    std::map<std::string, std::string> files = pair_files();
    files["tokenizer_config.json"] = R"({"add_bos_token": true})";
    files[name] = text;
    return error_of([&] { BpeTokenizer::from_files(files, "dir"); });
  };
  auto error = error_with("special_tokens_map.json", R"({"bos_token": "<s>"})");
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message, HasSubstr("special_tokens_map.json: bos_token is \"<s>\", which the "
                                       "vocabulary lacks"));
  error = error_with("tokenizer_config.json", R"({"add_bos_token": 1})");
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message, HasSubstr("add_bos_token is 1, expected true or false"));
  EXPECT_EQ(error_with("tokenizer_config.json", R"({"add_bos_token": true, "bos_token": 3})").kind,
            ErrorKind::kBadInput);
  EXPECT_EQ(error_with("tokenizer_config.json", "[]").kind, ErrorKind::kBadInput);
  EXPECT_EQ(error_with("tokenizer_config.json", "{").kind, ErrorKind::kCorruptFile);
}

}  // namespace text_encoder_test
}  // namespace qalof::text
