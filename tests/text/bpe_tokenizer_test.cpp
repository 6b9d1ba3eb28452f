// The BPE tokenizer against Hugging Face's tokenizers on recorded strings, and odd vocabulary
// files.
#include "text/bpe_tokenizer.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <random>
#include <thread>

#include "support/error_of.h"
#include "support/temp_dir.h"
#include "support/thread_seconds.h"
#include "text/fixtures.h"
#include "text/unicode.h"

namespace qalof::text {
namespace bpe_tokenizer_test {

using qalof::testing::error_of;
using qalof::testing::hash_of;
using qalof::testing::read_lines;
using qalof::testing::TempDir;
using qalof::testing::text_data;
using qalof::testing::tiny_json;
using qalof::testing::tokenizer_of;
using ::testing::HasSubstr;

const BpeTokenizer& tiny() {
  static const BpeTokenizer tokenizer = BpeTokenizer::load(text_data("tiny"));
  return tokenizer;
}

std::vector<std::string> fixture_strings() {
  std::vector<std::string> strings;
  for (const std::string& line : read_lines("strings.jsonl")) {
    strings.push_back(parse_json(line, "strings.jsonl").get<std::string>());
  }
  return strings;
}

// Columns of string_hashes.txt: tiny, busy and GPT-2, each without and with special tokens parsed.
void expect_hashes(const BpeTokenizer& tokenizer, std::size_t column) {
  const std::vector<std::string> strings = fixture_strings();
  const std::vector<std::string> hashes = read_lines("string_hashes.txt");
  ASSERT_GE(strings.size(), 10'000U);
  ASSERT_EQ(strings.size(), hashes.size());
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < strings.size(); ++i) {
    for (std::size_t special = 0; special < 2; ++special) {
      const Encoding encoding = tokenizer.encode(strings[i], special == 1);
      if (hash_of(encoding) == hashes[i].substr(9 * (column + special), 8)) continue;
      if (++wrong > 5) continue;
      ADD_FAILURE() << "string " << i << " (special tokens "
                    << (special == 1 ? "parsed" : "as text") << "): " << Json(strings[i]).dump()
                    << " gave " << Json(encoding.ids).dump();
    }
  }
  EXPECT_EQ(wrong, 0U);
}

// The tiny vocabulary with changes; ids are those of `tokenizers` 0.22.
Json changed_tiny(const std::function<void(Json& model)>& change) {
  Json json = parse_json(tiny_json(), "tiny");
  change(json["model"]);
  return json;
}

TEST(BpeTokenizer, TokensThatNoTextBecomesAreAWarning) {
  const std::vector<std::int32_t> ids = tiny().encode("The red boat").ids;
  EXPECT_THAT(tiny().warnings(), ::testing::IsEmpty());
  const BpeTokenizer tokenizer = tokenizer_of(changed_tiny([](Json& model) {
    const auto size = static_cast<std::int64_t>(tiny().vocab_size());
    model["vocab"]["<pad>"] = size;
    model["vocab"]["\u0120zzqq"] = size + 1;
    model["vocab"]["\u4e2d"] = size + 2;
  }));
  EXPECT_EQ(tokenizer.encode("The red boat").ids, ids);
  const auto size = static_cast<std::int32_t>(tiny().vocab_size());
  EXPECT_EQ(tokenizer.decode({size, size + 1, size + 2}), "<pad> zzqq\u4e2d");
  ASSERT_EQ(tokenizer.warnings().size(), 2U);
  EXPECT_THAT(tokenizer.warnings()[0], HasSubstr("no text becomes 1 tokens that are not written"));
  EXPECT_THAT(tokenizer.warnings()[1], HasSubstr("no merge makes 2 of "));
}

TEST(BpeTokenizer, IdsMayLeaveHoles) {
  const std::vector<std::int32_t> ids = tiny().encode("The red boat").ids;
  const BpeTokenizer tokenizer =
      tokenizer_of(changed_tiny([](Json& model) { model["vocab"]["<far>"] = 5000; }));
  EXPECT_EQ(tokenizer.encode("The red boat").ids, ids);
  EXPECT_EQ(tokenizer.vocab_size(), 5001U);
  EXPECT_EQ(tokenizer.decode({4999, 5000}), "<far>");
}

TEST(BpeTokenizer, OfEqualMergesTheLaterCounts) {
  const auto first = [](const Json& model) { return model["merges"][0]; };
  const Json plain = parse_json(tiny_json(), "tiny");
  const BpeTokenizer twice =
      tokenizer_of(changed_tiny([&](Json& model) { model["merges"].push_back(first(model)); }));
  const BpeTokenizer moved = tokenizer_of(changed_tiny([&](Json& model) {
    const Json merge = first(model);
    model["merges"].erase(0);
    model["merges"].push_back(merge);
  }));
  for (const std::string& text : fixture_strings())
    ASSERT_EQ(twice.encode(text).ids, moved.encode(text).ids) << text;
}

TEST(BpeTokenizer, VersionLinesAreNoMergesWhereverTheyStand) {
  const std::map<std::string, std::string> files = {
      {"vocab.json", changed_tiny([](Json&) {})["model"]["vocab"].dump()}};
  std::string merges, with_versions;
  const Json tiny_model = parse_json(tiny_json(), "tiny")["model"];
  for (const Json& merge : tiny_model["merges"]) {
    const std::string line = merge.is_string()
                                 ? merge.get<std::string>()
                                 : merge[0].get<std::string>() + " " + merge[1].get<std::string>();
    merges += line + "\n";
    with_versions += line + "\n#version: 0.2\n";
  }
  auto of = [&](const std::string& text) {
    auto all = files;
    all["merges.txt"] = text;
    return BpeTokenizer::from_files(all, "dir").encode("The red boat").ids;
  };
  EXPECT_EQ(of(merges), of(with_versions));
}

// A vocabulary without line ends: `tokenizers` gives [a, <unk>, <unk>, b] or leaves them out.
TEST(BpeTokenizer, BytesWithoutTokenBecomeTheUnknownToken) {
  const auto size = static_cast<std::int32_t>(tiny().vocab_size());
  const std::int32_t hole = tiny().encode("\n").ids.front();
  const auto without_line_ends = [&](bool unknown, bool fuses) {
    return tokenizer_of(changed_tiny([&](Json& model) {
      Json kept = Json::object();
      for (const auto& [token, id] : model["vocab"].items())
        if (token.find("\u010a") == std::string::npos) kept[token] = id;
      kept["<unk>"] = size;
      model["vocab"] = kept;
      Json merges = Json::array();
      for (const Json& merge : model["merges"])
        if (merge.dump().find("\u010a") == std::string::npos) merges.push_back(merge);
      model["merges"] = merges;
      if (unknown) model["unk_token"] = "<unk>";
      model["fuse_unk"] = fuses;
    }));
  };
  const std::int32_t a = tiny().encode("a").ids.front(), b = tiny().encode("b").ids.front();
  EXPECT_NE(hole, a);
  EXPECT_EQ(without_line_ends(false, false).encode("a\n\nb").ids,
            (std::vector<std::int32_t>{a, b}));
  const Encoding two = without_line_ends(true, false).encode("a\n\nb");
  EXPECT_EQ(two.ids, (std::vector<std::int32_t>{a, size, size, b}));
  EXPECT_EQ(two.offsets[2], (std::pair<std::uint32_t, std::uint32_t>{2, 3}));
  // "\n\n" in front of the end is one word.
  const Encoding fused = without_line_ends(true, true).encode("a\n\n");
  EXPECT_EQ(fused.ids, (std::vector<std::int32_t>{a, size}));
  EXPECT_EQ(fused.offsets[1], (std::pair<std::uint32_t, std::uint32_t>{1, 3}));
  EXPECT_EQ(without_line_ends(true, false).encode(std::string(100, '\n')).ids,
            std::vector<std::int32_t>(100, size));
}

TEST(BpeTokenizer, SamplesEqualTokenizers) {
  for (const std::string& line : read_lines("encodings.jsonl")) {
    const Json expected = parse_json(line, "encodings.jsonl");
    const Encoding encoding = tiny().encode(expected["text"].get<std::string>());
    EXPECT_EQ(Json(encoding.ids), expected["ids"]) << line;
    EXPECT_EQ(Json(encoding.offsets), expected["offsets"]) << line;
  }
}

TEST(BpeTokenizer, TenThousandStringsEqualTokenizers) { expect_hashes(tiny(), 0); }

TEST(BpeTokenizer, TrimmedOffsetsAndAddedTokensEqualTokenizers) {
  Json json = parse_json(tiny_json(), "tiny");
  json["post_processor"] = {
      {"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}};
  std::int64_t id = static_cast<std::int64_t>(tiny().vocab_size());
  const std::vector<std::pair<std::string, bool>> added = {{"<|end", true},    {"ab", false},
                                                           {"\u00e9!", false}, {"the", false},
                                                           {"> <", false},     {"  ", false}};
  for (const auto& [content, special] : added) {
    // An added token that the vocabulary has keeps its id.
    const std::int64_t known = json["model"]["vocab"].value(content, std::int64_t{-1});
    json["added_tokens"].push_back({{"id", known >= 0 ? known : id},
                                    {"content", content},
                                    {"normalized", !special},
                                    {"special", special}});
    if (known < 0) ++id;
  }
  expect_hashes(tokenizer_of(json), 2);
}

TEST(BpeTokenizer, Gpt2VocabularyEqualsTokenizers) {
  const char* directory = std::getenv("QALOF_GPT2_TOKENIZER");
  if (directory == nullptr) {
    GTEST_SKIP()
        << "QALOF_GPT2_TOKENIZER names no directory with GPT-2's vocab.json and merges.txt";
  }
  const BpeTokenizer gpt2 = BpeTokenizer::load(directory);
  EXPECT_EQ(gpt2.vocab_size(), 50257U);
  expect_hashes(gpt2, 4);
}

TEST(BpeTokenizer, EveryFormOfTheFilesGivesTheSame) {
  Json json = parse_json(tiny_json(), "tiny");
  for (Json& merge : json["model"]["merges"]) {
    const std::string pair = merge;
    const std::size_t space = pair.find(' ');
    merge = {pair.substr(0, space), pair.substr(space + 1)};
  }
  const BpeTokenizer pairs = tokenizer_of(json);
  const BpeTokenizer files = BpeTokenizer::load(text_data("tiny_pairs"));
  auto read = [](const char* name) { return read_file(text_data(name), 1U << 20); };
  std::string merges = read("tiny_pairs/merges.txt");
  merges.erase(0, merges.find('\n') + 1);
  const BpeTokenizer bare = BpeTokenizer::from_files(
      {{"vocab.json", read("tiny_pairs/vocab.json")}, {"merges.txt", merges}}, "dir");
  for (const char* text : {"The Norman \U0001f600 king", " caf\u00e9\n\n 1999", "<|endoftext|>"}) {
    for (const bool special : {false, true}) {
      const std::string expected = hash_of(tiny().encode(text, special));
      EXPECT_EQ(hash_of(pairs.encode(text, special)), expected) << text;
      EXPECT_EQ(hash_of(files.encode(text, special)), expected) << text;
      EXPECT_EQ(hash_of(bare.encode(text, special)), expected) << text;
    }
  }
}

// As large as Llama 3's: 128,000 tokens and 237,000 merges in pairs, whose tree would not do.
TEST(BpeTokenizer, ReadsAVocabularyOfLlama3sSize) {
  constexpr std::size_t kTokens = 128'000;
  const Json tiny_vocabulary = parse_json(tiny_json(), "tiny")["model"]["vocab"];
  std::string vocabulary, merges;
  std::size_t id = 0;
  auto add_token = [&](const std::string& token) {
    vocabulary += fmt::format("{}{}:{}", id == 0 ? "" : ",", Json(token).dump(), id);
    return id++;
  };
  auto add_merge = [&](const std::string& left, const std::string& right) {
    merges +=
        fmt::format("{}[{},{}]", merges.empty() ? "" : ",", Json(left).dump(), Json(right).dump());
  };
  for (const auto& [token, unused] : tiny_vocabulary.items()) {
    if (token.size() == 1 || (token.size() == 2 && static_cast<unsigned char>(token[0]) >= 0xc2))
      add_token(token);
  }
  std::vector<std::string> letters;
  for (char c = '!'; c <= '~'; ++c) letters.emplace_back(1, c);
  for (const std::string& a : letters) {
    for (const std::string& b : letters) {
      add_token(a + b);
      add_merge(a, b);
    }
  }
  std::size_t last = 0;
  for (std::size_t i = 0; id < kTokens; ++i) {
    const std::string a = letters[i % 94], b = letters[i / 94 % 94], c = letters[i / 94 / 94 % 94];
    last = add_token(a + b + c);
    add_merge(a + b, c);
    add_merge(a, b + c);
  }
  const std::string head = R"({"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},)";
  const std::string forms[] = {
      head + R"("model":{"type":"BPE","vocab":{)" + vocabulary + R"(},"merges":[)" + merges + "]}}",
      head + R"("model":{"merges":[)" + merges + R"(],"vocab":{)" + vocabulary +
          R"(},"type":"BPE"}})"};
  EXPECT_THROW(parse_json(forms[0], "as a tree"), Error);
  for (const std::string& text : forms) {
    const BpeTokenizer tokenizer = BpeTokenizer::from_files({{"tokenizer.json", text}}, "dir");
    ASSERT_EQ(tokenizer.vocab_size(), kTokens);
    const std::string word = tokenizer.piece(static_cast<std::int32_t>(last));
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(word + "abc").ids), word + "abc");
    EXPECT_EQ(tokenizer.encode("!!!").ids.size(), 1U);
  }
}

TEST(BpeTokenizer, DecodeGivesTheTextBackAndOffsetsCoverIt) {
  for (const std::string& text : fixture_strings()) {
    const Encoding encoding = tiny().encode(text);
    ASSERT_EQ(tiny().decode(encoding.ids), text);
    std::uint32_t covered = 0;
    for (const auto& [start, end] : encoding.offsets) {
      ASSERT_LT(start, end) << text;
      ASSERT_LE(start, covered) << text;
      covered = std::max(covered, end);
    }
    ASSERT_EQ(covered, count_code_points(text)) << text;
  }
}

TEST(BpeTokenizer, SpecialTokensInUserTextAreText) {
  const std::int32_t end = tiny().added_tokens().at("<|endoftext|>");
  EXPECT_THAT(tiny().encode("a<|endoftext|>").ids, ::testing::Not(::testing::Contains(end)));
  EXPECT_THAT(tiny().encode("a<|endoftext|>", true).ids, ::testing::Contains(end));
  EXPECT_EQ(tiny().piece(end), "<|endoftext|>");
}

TEST(BpeTokenizer, TextThatIsNotUtf8IsRefused) {
  for (const std::string bad :
       {"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80", "\x80"}) {
    const auto error = error_of([&] { tiny().encode("ok " + bad); });
    EXPECT_EQ(error.kind, ErrorKind::kBadInput);
    EXPECT_THAT(error.message, ::testing::HasSubstr("not UTF-8"));
  }
}

TEST(BpeTokenizer, DecodeRefusesIdsOutsideTheVocabulary) {
  for (const std::int32_t id : {-1, static_cast<std::int32_t>(tiny().vocab_size())}) {
    const auto error = error_of([&] { tiny().decode({id}); });
    EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  }
}

// The rule itself, word by word: merge the pair of lowest rank until there is none.
std::vector<std::string> merge_by_definition(const std::string& word, const Json& merges) {
  std::map<std::string, std::size_t> rank;
  for (std::size_t i = 0; i < merges.size(); ++i) rank[merges[i].get<std::string>()] = i;
  std::vector<std::string> symbols;
  for (const char c : word) symbols.emplace_back(1, c);
  while (true) {
    std::size_t best = SIZE_MAX, at = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto it = rank.find(symbols[i] + " " + symbols[i + 1]);
      if (it != rank.end() && it->second < best) {
        best = it->second;
        at = i;
      }
    }
    if (best == SIZE_MAX) return symbols;
    symbols[at] += symbols[at + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

TEST(BpeTokenizer, LongWordsMergeByTheSameRuleAsShortOnes) {
  const Json merges = parse_json(tiny_json(), "tiny")["model"]["merges"];
  std::mt19937 random(7);
  for (const std::size_t length : {1, 2, 47, 48, 49, 50, 97, 300, 1000}) {
    for (const std::string letters : {"a", "ab", "thean", "abcdefghijklmnopqrstuvwxyz"}) {
      std::string word;
      for (std::size_t i = 0; i < length; ++i) word += letters[random() % letters.size()];
      std::vector<std::string> pieces;
      for (const std::int32_t id : tiny().encode(word).ids) pieces.push_back(tiny().piece(id));
      EXPECT_EQ(pieces, merge_by_definition(word, merges)) << word;
    }
  }
}

TEST(BpeTokenizer, AWordOfAMegabyteIsNoQuadraticWork) {
  Json json = parse_json(tiny_json(), "tiny");
  for (int i = 0; i < 20; ++i) {
    json["added_tokens"].push_back({{"id", tiny().vocab_size() + static_cast<std::size_t>(i)},
                                    {"content", "<|never" + std::to_string(i) + "|>"},
                                    {"special", i % 2 == 0}});
  }
  const BpeTokenizer tokenizer = tokenizer_of(json);
  std::string specials;
  for (int i = 0; i < 40'000; ++i) specials += "<|endoftext|>";
  const double start = testing::thread_seconds();
  for (const std::string& text : {std::string(1 << 20, 'a'), std::string(1 << 20, ' '),
                                  std::string(1 << 20, '!'), specials}) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, true).ids), text);
  }
  // About 0.5 s here; quadratic work would be hours.
  EXPECT_LT(testing::thread_seconds_since(start), 30.0);
}

TEST(BpeTokenizer, ThreadsMayShareIt) {
  const std::vector<std::string> strings = fixture_strings();
  auto hash_all = [&] {
    std::string all;
    for (std::size_t i = 0; i < 1000; ++i) all += hash_of(tiny().encode(strings[i]));
    return all;
  };
  const std::string expected = hash_all();
  std::vector<std::string> found(4);
  std::vector<std::thread> threads;
  for (std::string& one : found) threads.emplace_back([&] { one = hash_all(); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(found, ::testing::Each(expected));
}

TEST(BpeTokenizer, CopiedFilesLoadAndADirectoryWithoutThemIsRefused) {
  const TempDir directory;
  copy_tokenizer_files(text_data("tiny_pairs"), directory.path());
  EXPECT_EQ(BpeTokenizer::load(directory.path()).vocab_size(), tiny().vocab_size());
  const TempDir empty;
  EXPECT_EQ(error_of([&] { copy_tokenizer_files(empty.path(), directory.path()); }).kind,
            ErrorKind::kNotFound);
  EXPECT_EQ(error_of([&] { BpeTokenizer::load(empty.path()); }).kind, ErrorKind::kNotFound);
}

TEST(BpeTokenizer, ASentencePieceModelAloneIsRefusedWithWhatToDo) {
  const TempDir directory;
  std::ofstream(directory.path() + "/tokenizer.model") << "model";
  const auto error = error_of([&] { BpeTokenizer::load(directory.path()); });
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_THAT(error.message, HasSubstr("transformers writes a tokenizer.json"));
}

}  // namespace bpe_tokenizer_test
}  // namespace qalof::text
