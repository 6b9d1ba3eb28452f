// Words are cut where Hugging Face tokenizers cuts them
// (tools/fixtures/make_pre_token_fixtures.py), and tokenizer.json says which way.
#include "text/pre_tokenizer.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "support/error_of.h"
#include "text/fixtures.h"
#include "text/tokenizer_json.h"
#include "text/unicode.h"

namespace qalof::text {
namespace pre_tokenizer_test {

using qalof::testing::error_of;
using qalof::testing::Fnv;
using qalof::testing::read_lines;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> words(const std::string& text, PreTokenizer kind) {
  std::vector<std::string> result;
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t end = next_pre_token(text, start, kind);
    EXPECT_GT(end, start);
    result.push_back(text.substr(start, end - start));
    start = end;
  }
  return result;
}

std::string hash_of_ends(const std::string& text, PreTokenizer kind) {
  Fnv hash;
  std::uint32_t points = 0;
  for (const std::string& word : words(text, kind)) {
    for (std::size_t i = 0; i < word.size(); ++points) next_code_point(word, &i);
    hash.add(points);
  }
  return hash.text();
}

TEST(PreTokenizer, CutsAsHuggingFaceDoes) {
  const std::vector<std::string> strings = read_lines("strings.jsonl");
  std::size_t compared = 0, told_apart = 0;
  for (const std::string& line : read_lines("pre_tokens.txt")) {
    const std::string source = line.substr(18);
    const std::string text =
        Json::parse(source.front() == '"' ? source : strings.at(std::stoul(source)))
            .get<std::string>();
    SCOPED_TRACE(Json(text).dump());
    EXPECT_EQ(hash_of_ends(text, PreTokenizer::kDigits), line.substr(0, 8));
    EXPECT_EQ(hash_of_ends(text, PreTokenizer::kLlama3), line.substr(9, 8));
    told_apart += line.substr(0, 8) != line.substr(9, 8) ? 1 : 0;
    ++compared;
  }
  EXPECT_GT(compared, 2600U);
  EXPECT_GT(told_apart, 500U);
}

TEST(PreTokenizer, WhatTheyDoInWords) {
  EXPECT_THAT(words("it's 12  3", PreTokenizer::kGpt2), ElementsAre("it", "'s", " 12", " ", " 3"));
  EXPECT_THAT(words("it's 12  3", PreTokenizer::kDigits),
              ElementsAre("it", "'s", " ", "1", "2", "  ", "3"));
  EXPECT_THAT(words("IT'S 12345  3\n\n x", PreTokenizer::kLlama3),
              ElementsAre("IT", "'S", " ", "123", "45", " ", " ", "3", "\n\n", " x"));
}

// A vocabulary of bytes and one merge.
BpeParts parts_of(std::vector<std::string>& storage) {
  storage = {"<|end|>"};
  for (std::uint32_t byte = 0, next = 256; byte < 256; ++byte) {
    const bool is_itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    const std::uint32_t point = is_itself ? byte : next++;
    storage.push_back(point < 128 ? std::string(1, static_cast<char>(point))
                                  : std::string{static_cast<char>(0xc0 | point >> 6),
                                                static_cast<char>(0x80 | (point & 0x3f))});
  }
  storage.insert(storage.end(), {"th", "the", "42"});
  BpeParts parts;
  parts.tokens.assign(storage.begin(), storage.end());
  parts.merges = {"t h"};
  parts.added = {{0, true}};
  parts.ignores_merges = true;
  return parts;
}

TEST(TokenizerJson, IsReadBackWithItsPreTokenizer) {
  std::vector<std::string> storage;
  BpeParts parts = parts_of(storage);
  for (const PreTokenizer kind :
       {PreTokenizer::kGpt2, PreTokenizer::kDigits, PreTokenizer::kLlama3}) {
    parts.pre_tokenizer = kind;
    const auto tokenizer =
        BpeTokenizer::from_files({{"tokenizer.json", tokenizer_json(parts, "here")}}, "dir");
    // "42" is a word, and so its token, but where digits stand apart.
    const auto four_two = tokenizer.encode("42").ids;
    if (kind == PreTokenizer::kDigits) {
      EXPECT_THAT(four_two, ElementsAre('4' + 1, '2' + 1));
    } else {
      EXPECT_THAT(four_two, ElementsAre(259));
    }
    // No merge makes "the", but as a word it is a token; in "then" it is none.
    EXPECT_THAT(tokenizer.encode("the").ids, ElementsAre(258));
    EXPECT_THAT(tokenizer.encode("then").ids, ElementsAre(257, 'e' + 1, 'n' + 1));
    EXPECT_THAT(tokenizer.encode("<|end|>", true).ids, ElementsAre(0));
    EXPECT_GT(tokenizer.encode("<|end|>").ids.size(), 1U);
  }
}

TEST(TokenizerJson, BytesWithoutATokenAreLeftOut) {
  std::vector<std::string> storage;
  BpeParts parts = parts_of(storage);
  // 0x04 is written as U+0104; its token becomes another word.
  storage[1 + 4] = "ab";
  parts.tokens.assign(storage.begin(), storage.end());
  const auto tokenizer =
      BpeTokenizer::from_files({{"tokenizer.json", tokenizer_json(parts, "here")}}, "dir");
  const Encoding encoding = tokenizer.encode("x\x04t\x04h\x04");
  // Its neighbours become neighbours, and merge.
  EXPECT_THAT(encoding.ids, ElementsAre('x' + 1, 't' + 1, 'h' + 1));
  ASSERT_EQ(encoding.offsets.size(), 3U);
  EXPECT_EQ(encoding.offsets[2].second, 5U);
}

TEST(TokenizerJson, TokensThatStandTwiceAreRefused) {
  std::vector<std::string> storage;
  BpeParts parts = parts_of(storage);
  parts.tokens.back() = parts.tokens[7];
  const auto error = error_of([&] { tokenizer_json(parts, "here"); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message, HasSubstr("tokens 7 and 259 are the same"));
}

TEST(TokenizerJson, OtherPreTokenizersAreRefusedByName) {
  std::vector<std::string> storage;
  BpeParts parts = parts_of(storage);
  parts.pre_tokenizer = PreTokenizer::kLlama3;
  const Json sound = Json::parse(tokenizer_json(parts, "here"));
  const auto message = [&](const char* pointer, const Json& value) {
    Json json = sound;
    json[Json::json_pointer(pointer)] = value;
    const auto error = error_of([&] { qalof::testing::tokenizer_of(json); });
    EXPECT_EQ(error.kind, ErrorKind::kUnsupported) << error.message;
    return error.message;
  };
  EXPECT_THAT(message("/pre_tokenizer/type", "Whitespace"), HasSubstr("Whitespace"));
  EXPECT_THAT(message("/pre_tokenizer/pretokenizers/0/type", "Punctuation"),
              HasSubstr("pretokenizers[0]: is Punctuation"));
  EXPECT_THAT(message("/pre_tokenizer/pretokenizers/0/pattern/Regex", ".*"),
              HasSubstr("matches the empty text"));
  EXPECT_THAT(message("/pre_tokenizer/pretokenizers/0/behavior", "Doubled"), HasSubstr("Doubled"));
  EXPECT_THAT(message("/pre_tokenizer/pretokenizers/1",
                      {{"type", "Sequence"},
                       {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Digits"}}}}}),
              HasSubstr("Digits after ByteLevel"));
}

}  // namespace pre_tokenizer_test
}  // namespace qalof::text
