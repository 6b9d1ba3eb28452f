// Strict JSON: what is accepted, what is refused and in which words, and what a parse may cost.
#include "core/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "core/json_stream.h"
#include "support/count_allocations.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace qalof {
namespace json_test {

using testing::error_of;
using ::testing::HasSubstr;

std::string repeated(const std::string& text, std::size_t count) {
  std::string all;
  all.reserve(text.size() * count);
  for (std::size_t i = 0; i < count; ++i) all += text;
  return all;
}

TEST(ParseJson, ReadsEveryKindOfValue) {
  const Json json = parse_json(
      R"( {"a": [1, -2, 2.5, 1e3, true, false, null, "é\n\ud83d\ude00"], "b": {}, "": []} )", "x");
  EXPECT_EQ(json["a"][0].get<std::int64_t>(), 1);
  EXPECT_EQ(json["a"][1].get<std::int64_t>(), -2);
  EXPECT_EQ(json["a"][2].get<double>(), 2.5);
  EXPECT_TRUE(json["a"][3].is_number_float());
  EXPECT_EQ(json["a"][4], true);
  EXPECT_TRUE(json["a"][6].is_null());
  EXPECT_EQ(json["a"][7].get<std::string>(), "\xc3\xa9\n\xf0\x9f\x98\x80");
  EXPECT_TRUE(json["b"].is_object() && json["b"].empty());
  EXPECT_TRUE(json[""].is_array());
  EXPECT_EQ(parse_json("3", "x"), Json(3));
  EXPECT_EQ(parse_json("[9223372036854775807, -9223372036854775808]", "x")[0].get<std::int64_t>(),
            INT64_MAX);
}

TEST(ParseJson, AgreesWithTheLibraryOnWhatBothAccept) {
  const std::string text =
      R"({"k": [[], {}, [{"a": [1, [2, [3]]]}, "x"], -0.0, 1e-320], "z": {"y": {"x": [null]}}})";
  EXPECT_EQ(parse_json(text, "x"), Json::parse(text));
}

struct BadJson {
  const char* name;
  std::string text;
  const char* message;
};

class RefusedJson : public ::testing::TestWithParam<BadJson> {};

TEST_P(RefusedJson, IsACorruptFileWithAReason) {
  const auto error = error_of([&] { parse_json(GetParam().text, "some/file.json"); });
  EXPECT_EQ(error.kind, ErrorKind::kCorruptFile);
  EXPECT_THAT(error.message, HasSubstr("some/file.json"));
  EXPECT_THAT(error.message, HasSubstr(GetParam().message));
  EXPECT_LT(error.message.size(), 600U);
}

INSTANTIATE_TEST_SUITE_P(
    Json, RefusedJson,
    ::testing::Values(
        BadJson{"Empty", "", "not valid JSON"}, BadJson{"Spaces", "  \n", "not valid JSON"},
        BadJson{"Trailing", "{} x", "not valid JSON"},
        BadJson{"TwoDocuments", "{}{}", "not valid JSON"},
        BadJson{"TrailingNul", std::string("{}\0x", 4), "a NUL byte at 2"},
        BadJson{"TrailingComma", "[1,]", "not valid JSON"},
        BadJson{"Comment", "{} // no", "not valid JSON"},
        BadJson{"SingleQuotes", "{'a': 1}", "not valid JSON"},
        BadJson{"Unclosed", "{\"a\": [1", "not valid JSON"},
        BadJson{"UnclosedString", "\"abc", "not valid JSON"},
        BadJson{"LeadingZero", "[01]", "not valid JSON"},
        BadJson{"NotANumber", "[NaN]", "not valid JSON"},
        BadJson{"Infinity", "[-Infinity]", "not valid JSON"},
        BadJson{"HugeFloat", "[1e999]", "not valid JSON"},
        BadJson{"HugeNegative", "[-1e999]", "not valid JSON"},
        BadJson{"BadEscape", R"(["\x41"])", "not valid JSON"},
        BadJson{"LoneSurrogate", R"(["\ud800"])", "not valid JSON"},
        BadJson{"ControlByte", "[\"\x01\"]", "not valid JSON"},
        BadJson{"BadUtf8", "[\"\xff\"]", "not valid JSON"},
        BadJson{"OverlongUtf8", "[\"\xc0\xaf\"]", "not valid JSON"},
        BadJson{"Utf8Surrogate", "[\"\xed\xa0\x80\"]", "not valid JSON"},
        BadJson{"CutUtf8", "[\"\xe2\x82\"]", "not valid JSON"},
        BadJson{"Utf16", std::string("\xff\xfe{\0}\0", 6), "byte order mark of UTF-16"},
        BadJson{"IntegerBeyond64Bits", "[18446744073709551616]",
                "an integer beyond 64 signed bits"},
        BadJson{"IntegerBeyondSigned", "[9223372036854775808]", "an integer beyond 64 signed bits"},
        BadJson{"IntegerBelow64Bits", "[-9223372036854775809]", "an integer beyond 64 signed bits"},
        BadJson{"DuplicateKey", R"({"a": 1, "a": 2})", "the key \"a\" twice"},
        BadJson{"DuplicateKeyInside", R"([{"b": {"c": 1, "d": 2, "c": 1}}])",
                "the key \"c\" twice"},
        BadJson{"DuplicateKeyEscaped", R"({"a": 1, "\u0061": 2})", "the key \"a\" twice"},
        BadJson{"DepthOfLists", repeated("[", 65) + repeated("]", 65), "more than 64 levels"},
        BadJson{"DepthBomb", repeated("[", 1'000'000), "more than 64 levels"},
        BadJson{"DepthOfObjects", repeated("{\"a\":", 100'000), "more than 64 levels"},
        BadJson{"LongString", "[\"" + std::string(5'000'000, 'a') + "\"]",
                "over 4194304 bytes in one value"},
        BadJson{"LongNumber", "[" + std::string(5'000'000, '1') + "]",
                "over 4194304 bytes in one value"},
        BadJson{"LongGap", "[" + std::string(1'100'000, ' ') + "]",
                "over 1048576 bytes without a value"}),
    [](const auto& test) { return test.param.name; });

TEST(ParseJson, AllowsExactlyTheDepthOfItsLimit) {
  EXPECT_NO_THROW(parse_json(repeated("[", 64) + repeated("]", 64), "x"));
  EXPECT_NO_THROW(parse_json("[[1]]", "x", {.max_depth = 2}));
  EXPECT_EQ(error_of([] { parse_json("[[[1]]]", "x", {.max_depth = 2}); }).kind,
            ErrorKind::kCorruptFile);
}

TEST(ParseJson, RefusesEveryTruncation) {
  const std::string text = R"({"a": [1, -2.5, "x\u00e9\n"], "b": {"c": null, "d": true}})";
  for (std::size_t size = 0; size < text.size(); ++size) {
    EXPECT_EQ(error_of([&] { parse_json(text.substr(0, size), "x"); }).kind,
              ErrorKind::kCorruptFile)
        << size;
  }
}

// Many small values, small objects, short and long strings: what parsing allocates at its peak
// stays within the text and the limit, whether the text is accepted or refused.
TEST(ParseJson, AllocatesNoMoreThanTheTextAndTheLimit) {
  const std::size_t count = 400'000;
  std::string keys = "{";
  for (std::size_t i = 0; i < count; ++i) keys += fmt::format("\"{}\":0,", i);
  keys += "\"x\":0}";
  const std::string texts[] = {
      "[" + repeated("0,", 4 * count) + "0]",
      "[" + repeated("[],", count / 3) + "0]",
      "[" + repeated("[0],", count) + "0]",
      "[" + repeated("{},", count / 3) + "0]",
      "[" + repeated("{\"a\":0},", count) + "0]",
      "[" + repeated("\"\",", count) + "0]",
      "[" + repeated("\"sixteen bytes...\",", count) + "0]",
      "[" + repeated("\"a string of thirty-one bytes...\",", count) + "0]",
      "[\"" + std::string(4'000'000, 'a') + "\"]",
      "[\"" + std::string(4'000'000, 'a'),
      "[" + std::string(1'000'000, '\n') + "x",
      keys,
  };
  for (const std::string& text : texts) {
    bool refused = false;
    const std::size_t peak = testing::peak_of([&] {
      try {
        parse_json(text, "x");
      } catch (const Error&) {
        refused = true;
      }
    });
    // The parser's own buffers come on top, at most 16 MiB.
    EXPECT_LE(peak, text.size() + (std::size_t{64} << 20))
        << text.substr(0, 40) << (refused ? " refused" : "");
  }
  EXPECT_THAT(error_of([&] { parse_json(texts[0], "x"); }).message,
              HasSubstr("more values than its size allows"));
}

TEST(ReadJsonFile, NamesTheFile) {
  const testing::TempDir dir;
  std::ofstream(dir.file("a.json")) << "{\"a\": 1}";
  EXPECT_EQ(read_json_file(dir.file("a.json"))["a"], 1);
  EXPECT_EQ(error_of([&] { read_json_file(dir.file("b.json")); }).kind, ErrorKind::kNotFound);
  EXPECT_EQ(error_of([&] { read_json_file(dir.file("a.json"), 5); }).kind, ErrorKind::kBadInput);
}

TEST(JsonAccess, ChecksTypeAndRangeInOneSentence) {
  const Json json = parse_json(
      R"({"i": 5, "f": 2.5, "b": true, "s": "text", "n": null, "o": {"x": 1}})", "f.json");
  EXPECT_EQ(json_int(json, "i", "f.json", 0, 5), 5);
  EXPECT_EQ(json_number(json, "f", "f.json"), 2.5);
  EXPECT_EQ(json_number(json, "i", "f.json"), 5.0);
  EXPECT_TRUE(json_bool(json, "b", "f.json"));
  EXPECT_EQ(json_string(json, "s", "f.json"), "text");
  const auto message = [&](const auto& access) {
    const auto error = error_of(access);
    EXPECT_EQ(error.kind, ErrorKind::kBadInput);
    return error.message;
  };
  EXPECT_EQ(message([&] { json_int(json, "i", "f.json", 6, 9); }), "f.json: i is 5, expected 6..9");
  EXPECT_EQ(message([&] { json_int(json, "f", "f.json", 0, 9); }),
            "f.json: f is 2.5, expected an integer in 0..9");
  EXPECT_EQ(message([&] { json_int(json, "b", "f.json", 0, 9); }),
            "f.json: b is true, expected an integer in 0..9");
  EXPECT_EQ(message([&] { json_number(json, "s", "f.json"); }),
            "f.json: s is \"text\", expected a number");
  EXPECT_EQ(message([&] { json_bool(json, "i", "f.json"); }),
            "f.json: i is 5, expected true or false");
  EXPECT_EQ(message([&] { json_string(json, "o", "f.json"); }),
            "f.json: o is an object, expected a string");
  EXPECT_EQ(message([&] { json_string(json, "missing", "f.json"); }), "f.json: missing is missing");
  EXPECT_EQ(message([&] { json_string(Json::array(), "a", "f.json"); }),
            "f.json: found array, expected an object");
}

TEST(DumpJson, RefusesTextThatIsNotUtf8) {
  EXPECT_EQ(dump_json({{"a", "\xc3\xa9"}}, "x"), "{\"a\":\"\xc3\xa9\"}");
  const auto error = error_of([] { dump_json({{"a", "\xff"}}, "out.json"); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message, HasSubstr("out.json"));
}

TEST(JsonParts, AreToldPieceByPieceAndStandAsNullInTheTree) {
  std::string told;
  const JsonPart part{{"a", "b"}, [&](JsonEvent event, std::string_view text, std::int64_t number) {
                        told += fmt::format("{}:{}:{} ", static_cast<int>(event), text, number);
                      }};
  const std::string text =
      R"({"b": {"a": 1}, "a": {"c": [2], "b": {"k": [3, -4, "s"], "x": {}, "n": 1.5, "z": null}},
          "l": [{"b": 1}]})";
  const Json json = parse_json_parts(text, "parts", {&part, 1});
  EXPECT_EQ(json, (Json{{"b", {{"a", 1}}},
                        {"a", {{"c", Json::array({2})}, {"b", nullptr}}},
                        {"l", Json::array({{{"b", 1}}})}}));
  EXPECT_EQ(told,
            "0::0 4:k:0 2::0 6::3 6::-4 5:s:0 3::0 4:x:0 0::0 1::0 4:n:0 7:1.5:0 4:z:0 7:null:0 "
            "1::0 ");
  // A scalar, the whole document, and what is still refused.
  told.clear();
  parse_json_parts(R"({"a": {"b": 7}})", "parts", {&part, 1});
  EXPECT_EQ(told, "6::7 ");
  told.clear();
  const JsonPart all{{}, part.take};
  EXPECT_EQ(parse_json_parts("[1]", "parts", {&all, 1}), Json());
  EXPECT_EQ(told, "2::0 6::1 3::0 ");
  EXPECT_THROW(parse_json_parts(R"({"a": {"b": 1, "b": 2}})", "parts", {&part, 1}), Error);
  EXPECT_THROW(parse_json_parts(R"({"a": {"b": [1, 2})", "parts", {&part, 1}), Error);
  EXPECT_THROW(parse_json_parts("{\"a\": {\"b\": " + std::string(100, '['), "parts", {&part, 1}),
               Error);
}

}  // namespace json_test
}  // namespace qalof
