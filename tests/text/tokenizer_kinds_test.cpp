// Tokenizers of every kind that is implemented, cut down from real files or varied, against what
// Hugging Face tokenizers made of the same strings (tools/fixtures/make_tokenizer_fixtures.py).
#include <gmock/gmock.h>

#include "support/error_of.h"
#include "support/thread_seconds.h"
#include "text/bpe_tokenizer.h"
#include "text/fixtures.h"
#include "text/split_pattern.h"
#include "text/text_stream.h"
#include "text/unicode.h"

namespace qalof::text {
namespace tokenizer_kinds_test {

using qalof::testing::error_of;
using qalof::testing::Fnv;
using qalof::testing::read_lines;
using qalof::testing::text_data;
using qalof::testing::tokenizer_of;
using ::testing::HasSubstr;

constexpr std::array kKinds = {"llama2", "gemma3", "llama3_1", "qwen3", "deepseek_v3"};

Json kind_json(const std::string& kind) {
  return read_json_file(text_data("kinds/" + kind + ".json"));
}

// A file after a variant's changes; "/added_tokens/-" lists tokens that are added.
Json changed(const Json& file, const Json& changes) {
  Json result = file;
  for (const auto& [pointer, value] : changes.items()) {
    if (pointer != "/added_tokens/-") {
      result[Json::json_pointer(pointer)] = value;
      continue;
    }
    Json known = result["model"]["vocab"];
    for (const Json& token : result["added_tokens"])
      known[token["content"].get<std::string>()] = token["id"];
    for (Json token : value) {
      const auto& content = token["content"].get_ref<const std::string&>();
      if (!known.contains(content)) known[content] = known.size();
      token["id"] = known[content];
      result["added_tokens"].push_back(token);
    }
  }
  return result;
}

struct Named {
  std::string name;
  BpeTokenizer tokenizer;
};

// In the order of the columns.
const std::vector<Named>& all() {
  static const std::vector<Named> tokenizers = [] {
    std::vector<Named> result;
    for (const char* kind : kKinds) result.push_back({kind, tokenizer_of(kind_json(kind))});
    for (const Json& variant : read_json_file(text_data("kinds/variants.json")))
      result.push_back(
          {variant["name"], tokenizer_of(changed(kind_json(variant["file"]), variant["changes"]))});
    return result;
  }();
  return tokenizers;
}

const BpeTokenizer& tokenizer_named(const std::string& name) {
  for (const Named& one : all())
    if (one.name == name) return one.tokenizer;
  throw std::runtime_error(name);
}

// What a stream shows of ids, token by token.
std::string streamed(const BpeTokenizer& tokenizer, const std::vector<std::int32_t>& ids) {
  TextStream stream;
  TokenDecoder decoder(tokenizer);
  std::string text;
  for (const std::int32_t id : ids) {
    const std::string_view more = stream.push(decoder.push(id));
    EXPECT_EQ(find_invalid_utf8(more), std::string_view::npos);
    text += more;
  }
  text += stream.push(decoder.finish());
  text += stream.finish();
  return text;
}

void add_text(const std::string& text, Fnv* hash) {
  for (const std::uint32_t point : to_code_points(text)) hash->add(point);
}

TEST(TokenizerKinds, IdsOffsetsAndDecodedTextEqualTokenizers) {
  const std::vector<std::string> strings = read_lines("kinds/strings.jsonl"),
                                 hashes = read_lines("kinds/hashes.txt");
  ASSERT_EQ(strings.size(), hashes.size());
  ASSERT_GE(strings.size(), 500U);
  for (std::size_t column = 0; column < all().size(); ++column) {
    const auto& [name, tokenizer] = all()[column];
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < strings.size(); ++i) {
      const std::string text = Json::parse(strings[i]).get<std::string>();
      for (const bool special : {false, true}) {
        const Encoding encoding = tokenizer.encode(text, special);
        Fnv hash;
        for (std::size_t k = 0; k < encoding.ids.size(); ++k) {
          hash.add(static_cast<std::uint32_t>(encoding.ids[k]));
          hash.add(encoding.offsets[k].first);
          hash.add(encoding.offsets[k].second);
        }
        add_text(streamed(tokenizer, encoding.ids), &hash);
        const std::size_t place = 9 * (2 * column + (special ? 1 : 0));
        if (hash.text() == hashes[i].substr(place, 8) || ++wrong > 3) continue;
        ADD_FAILURE() << name << (special ? ", special tokens parsed: " : ": ") << strings[i]
                      << " gave " << Json(encoding.ids) << " at " << Json(encoding.offsets)
                      << ", decoded " << Json(streamed(tokenizer, encoding.ids));
      }
    }
    EXPECT_EQ(wrong, 0U) << name;
  }
}

TEST(TokenizerKinds, RandomIdsDecodeAsInTokenizers) {
  std::size_t compared = 0;
  for (const std::string& line : read_lines("kinds/decodings.txt")) {
    std::istringstream words(line);
    std::size_t number = 0;
    std::string expected, rest;
    words >> number >> expected;
    std::getline(words, rest);
    const auto& [name, tokenizer] = all().at(number);
    const std::vector<std::int32_t> ids = Json::parse(rest);
    Fnv hash;
    add_text(streamed(tokenizer, ids), &hash);
    EXPECT_EQ(hash.text(), expected)
        << name << " " << rest << " gave " << Json(streamed(tokenizer, ids));
    ++compared;
  }
  EXPECT_GE(compared, 500U);
}

TEST(TokenizerKinds, LoadWithoutWarnings) {
  for (const char* kind : kKinds)
    EXPECT_THAT(tokenizer_named(kind).warnings(), ::testing::IsEmpty()) << kind;
}

// Llama 2 writes a space before a text, which its decoder takes away again; a text that goes on
// keeps it.
TEST(TokenizerKinds, AContinuedTextKeepsItsFirstSpace) {
  const BpeTokenizer& tokenizer = tokenizer_named("llama2");
  const std::vector<std::int32_t> ids = tokenizer.encode("the").ids;
  const auto text_after = [&](const std::vector<std::int32_t>& prompt) {
    TokenDecoder decoder = TokenDecoder::after_prompt(tokenizer, prompt);
    std::string text;
    for (const std::int32_t id : ids) text += decoder.push(id);
    text += decoder.finish();
    return text;
  };
  EXPECT_EQ(tokenizer.decode(ids), "the");
  EXPECT_EQ(text_after({}), "the");
  EXPECT_EQ(text_after(tokenizer.text_template().before), "the");
  EXPECT_EQ(text_after(tokenizer.encode("a").ids), " the");
}

// A character of several byte tokens appears when its last one is certain.
TEST(TokenizerKinds, ByteTokensBecomeWholeCharacters) {
  const BpeTokenizer& tokenizer = tokenizer_named("gemma3");
  const std::string text = "a\U0001f9ffb";  // beyond the small vocabulary
  const std::vector<std::int32_t> ids = tokenizer.encode(text).ids;
  ASSERT_EQ(ids.size(), 6U);
  TokenDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(ids[0]), "a");
  for (std::size_t i = 1; i <= 4; ++i) EXPECT_EQ(decoder.push(ids[i]), "") << i;
  EXPECT_EQ(decoder.push(ids[5]), "\U0001f9ffb");
  // A run that is no UTF-8 is a mark for each byte, as in `tokenizers`.
  EXPECT_EQ(tokenizer.decode({ids[1], ids[2], ids[0]}), "\ufffd\ufffda");
}

// `tokenizers` gives these ids, but offsets as if the text were shorter.
TEST(TokenizerKinds, CharactersWithoutTokenAreLeftOutWhereNothingStandsForThem) {
  Json json = kind_json("llama2");
  json["model"]["byte_fallback"] = false;
  json["model"]["unk_token"] = nullptr;
  const BpeTokenizer tokenizer = tokenizer_of(json);
  const Encoding encoding = tokenizer.encode("t\U0001f9ffhe");
  EXPECT_EQ(encoding.ids, tokenizer.encode("the").ids);
  ASSERT_EQ(encoding.ids.size(), 1U);
  EXPECT_EQ(encoding.offsets[0], (std::pair<std::uint32_t, std::uint32_t>{0, 4}));
}

TEST(TokenizerKinds, TextsWithoutWordsAreNoQuadraticWork) {
  const double start = testing::thread_seconds();
  for (const char* kind : kKinds) {
    const BpeTokenizer& tokenizer = tokenizer_named(kind);
    for (const char* unit : {"a", " ", "\n", "0", "\u4e2d", "e\u0301", "\u0301", "<", "\u2581"}) {
      std::string text;
      while (text.size() < (std::size_t{1} << 18)) text += unit;
      const Encoding encoding = tokenizer.encode(text);
      EXPECT_FALSE(encoding.ids.empty()) << kind << unit;
    }
  }
  // About 2 s here; quadratic work would be hours.
  EXPECT_LT(testing::thread_seconds_since(start), 60.0);
}

TEST(TokenizerKinds, UnknownPartsAreRefusedByName) {
  struct Case {
    const char* file;
    const char* pointer;
    Json value;
    const char* words;
  };
  const Case cases[] = {
      {"llama2", "/normalizer/normalizers/0", {{"type", "NFKC"}}, "normalizers[0]: is NFKC"},
      {"llama2", "/decoder/decoders/3/stop", 1, "stop: implemented is 0"},
      {"llama2", "/decoder/decoders/3", {{"type", "WordPiece"}}, "WordPiece after Fuse"},
      {"llama2", "/decoder", {{"type", "BPEDecoder"}}, "BPEDecoder"},
      {"llama2", "/decoder", nullptr, "decoder is missing"},
      {"llama2", "/pre_tokenizer", {{"type", "Punctuation"}}, "pre_tokenizer: is Punctuation"},
      {"llama2", "/model/dropout", 0.5, "dropout"},
      {"gemma3", "/pre_tokenizer/behavior", "Twice", "Twice"},
      {"gemma3",
       "/pre_tokenizer",
       {{"type", "Metaspace"}, {"prepend_scheme", "last"}},
       "prepend_scheme: is last"},
      {"qwen3", "/pre_tokenizer/pretokenizers/0/pattern/Regex", "(?<=a)b",
       "pretokenizers[0]: the pattern uses (?<="},
      {"qwen3", "/pre_tokenizer/pretokenizers/0/pattern", {{"String", ""}}, "an empty pattern"},
      {"qwen3", "/pre_tokenizer/pretokenizers/1", {{"type", "UnicodeScripts"}}, "UnicodeScripts"}};
  for (const Case& one : cases) {
    Json json = kind_json(one.file);
    json[Json::json_pointer(one.pointer)] = one.value;
    const auto error = error_of([&] { tokenizer_of(json); });
    EXPECT_EQ(error.kind, ErrorKind::kUnsupported) << error.message;
    EXPECT_THAT(error.message, HasSubstr(one.words));
  }
}

// Where `tokenizers` would cut text at a pattern's matches and between them.
std::string hash_of_pieces(const SplitPattern& pattern, const std::string& text) {
  Fnv hash;
  std::size_t done = 0;
  const auto end_at = [&](std::size_t end) {
    if (end > done) hash.add(static_cast<std::uint32_t>(count_code_points(text.substr(0, end))));
    done = end;
  };
  SplitPattern::Search search(text);
  while (const auto match = pattern.find(search, done)) {
    end_at(match->start);
    end_at(match->end);
  }
  end_at(text.size());
  return hash.text();
}

TEST(SplitPattern, CutsWhereTokenizersDoes) {
  const std::vector<std::string> lines = read_lines("kinds/patterns.jsonl"),
                                 strings = read_lines("kinds/strings.jsonl");
  std::vector<std::string> texts = Json::parse(lines[0]);
  for (std::size_t i = 0; i < strings.size(); i += 6) texts.push_back(Json::parse(strings[i]));
  ASSERT_GE(lines.size(), 30U);
  for (std::size_t i = 1; i < lines.size(); ++i) {
    const Json line = Json::parse(lines[i]);
    const auto pattern = SplitPattern::parse(line[0].get<std::string>(), "here");
    const auto& hashes = line[1].get_ref<const std::string&>();
    for (std::size_t k = 0; k < texts.size(); ++k)
      EXPECT_EQ(hash_of_pieces(pattern, texts[k]), hashes.substr(9 * k, 8))
          << line[0] << " on " << Json(texts[k]);
  }
}

TEST(SplitPattern, WhatIsNotImplementedIsNamed) {
  for (const auto& [pattern, words] : std::initializer_list<std::pair<const char*, const char*>>{
           {"a*", "matches the empty text"},
           {"a|", "matches the empty text"},
           {"(?=a)", "matches the empty text"},
           {"a+?", "lazy repetition"},
           {"a{2}+", "{..}+"},
           {"(?<!a)b", "(?<!"},
           {"(?<name>b)", "(?<n"},
           {"(?m)b", "(?m)"},
           {"(a)\\1", "\\1"},
           {"\\bx", "\\b"},
           {"\\p{Han}", "\\p{Han}"},
           {"\\pL", "\\p without braces"},
           {"[a&&b]", "&&"},
           {"[[:alpha:]]", "[:...:]"},
           {"[]a]", "begins with \"]\""},
           {"(?i:straSSe)", "stand for one letter"},
           {"(?i:\u00e9)", "beyond ASCII"},
           {"(?i:[a-z])", "a range in any case"},
           {"(?:a|b*)+", "repetition of what may be empty"},
           {"a{2000}", "over 1000"},
           {"(?:(?:ab){100}){100}", "too long"}}) {
    const auto error = error_of([&] { SplitPattern::parse(pattern, "here"); });
    EXPECT_EQ(error.kind, ErrorKind::kUnsupported) << pattern << ": " << error.message;
    EXPECT_THAT(error.message, HasSubstr(words)) << pattern;
  }
  const std::string deep(50, '(');
  EXPECT_THAT(error_of([&] { SplitPattern::parse(deep, "here"); }).message, HasSubstr("deeply"));
}

TEST(SplitPattern, DamagedPatternsAreRefused) {
  for (const char* pattern : {"(a", "a)", "[a", "*a", "a\\", "[b-a]", "\\x{110000}", "\\xe9",
                              "\\x{", "\\u12", "a{3,2}", "[a-\\d]", "+", "\xff"}) {
    const auto error = error_of([&] { SplitPattern::parse(pattern, "here"); });
    EXPECT_EQ(error.kind, ErrorKind::kBadInput) << pattern << ": " << error.message;
    EXPECT_THAT(error.message, HasSubstr("here")) << pattern;
  }
}

TEST(SplitPattern, APatternThatBacktracksWithoutEndIsStopped) {
  const auto pattern = SplitPattern::parse("(?:a+)+b|(?:a|aa)+c", "here");
  const std::string text(3000, 'a');
  const double start = testing::thread_seconds();
  const auto error = error_of([&] {
    SplitPattern::Search search(text);
    pattern.find(search, 0);
  });
  EXPECT_LT(testing::thread_seconds_since(start), 20.0);
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message, HasSubstr("too many steps on a text of 3000 bytes"));
}

}  // namespace tokenizer_kinds_test
}  // namespace qalof::text
