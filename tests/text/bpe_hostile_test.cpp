// Damaged and hostile tokenizer files: each is refused with its kind and the words that help.
#include <gmock/gmock.h>

#include <functional>

#include "support/error_of.h"
#include "support/thread_seconds.h"
#include "text/bpe_tokenizer.h"
#include "text/fixtures.h"

namespace qalof::text {
namespace bpe_hostile_test {

using qalof::testing::error_of;
using qalof::testing::read_lines;
using qalof::testing::text_data;
using qalof::testing::tiny_json;
using qalof::testing::tokenizer_of;
using ::testing::HasSubstr;
using Files = std::map<std::string, std::string>;

// The byte alphabet and three merges: "th", "the" and " the".
Json small() {
  Json vocabulary = Json::object();
  const Json tiny = parse_json(tiny_json(), "tiny");
  std::int64_t id = 0;
  for (const auto& [token, unused] : tiny["model"]["vocab"].items()) {
    if (token.size() == 1 || (token.size() == 2 && static_cast<unsigned char>(token[0]) >= 0xc2)) {
      vocabulary[token] = id++;
    }
  }
  for (const char* token : {"th", "the", "\u0120the"}) vocabulary[token] = id++;
  return {{"added_tokens", {{{"id", id}, {"content", "<|end|>"}, {"special", true}}}},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"model",
           {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", {"t h", "th e", "\u0120 the"}}}}};
}

Files small_files() {
  const Json json = small();
  std::string merges = "#version: 0.2\n";
  for (const Json& merge : json["model"]["merges"]) merges += merge.get<std::string>() + "\n";
  return {{"vocab.json", json["model"]["vocab"].dump()}, {"merges.txt", merges}};
}

TEST(HostileTokenizer, TheSmallOneIsSound) {
  const BpeTokenizer tokenizer = tokenizer_of(small());
  ASSERT_EQ(tokenizer.vocab_size(), 260U);
  EXPECT_EQ(tokenizer.encode(" thethe").ids, (std::vector<std::int32_t>{258, 257}));
  EXPECT_EQ(BpeTokenizer::from_files(small_files(), "dir").encode(" thethe").ids,
            (std::vector<std::int32_t>{258, 257}));
}

TEST(HostileTokenizer, DamagedTokenizerJsonIsRefused) {
  const auto bad = ErrorKind::kBadInput;
  const auto unsupported = ErrorKind::kUnsupported;
  struct Case {
    const char* name;
    std::function<void(Json&)> damage;
    ErrorKind kind;
    std::string piece;
  };
  const std::vector<Case> cases = {
      {"not an object", [](Json& j) { j = 3; }, bad, "model is missing"},
      {"no model", [](Json& j) { j.erase("model"); }, bad, "model is missing"},
      {"model a list", [](Json& j) { j["model"] = Json::array(); }, bad, "model is missing"},
      {"WordPiece", [](Json& j) { j["model"]["type"] = "WordPiece"; }, unsupported, "WordPiece"},
      {"Unigram",
       [](Json& j) {
         j["model"]["type"] = "Unigram";
         j["model"]["vocab"] = {{"a", -1.5}};
       },
       unsupported, "Unigram"},
      {"type a number", [](Json& j) { j["model"]["type"] = 1; }, bad, "expected a string"},
      {"normalizer",
       [](Json& j) {
         j["normalizer"] = {{"type", "NFKC"}};
       },
       unsupported, "NFKC"},
      {"normalizer a text", [](Json& j) { j["normalizer"] = "NFC"; }, bad, "normalizer"},
      {"normalizers missing",
       [](Json& j) {
         j["normalizer"] = {{"type", "Sequence"}};
       },
       bad, "normalizers"},
      {"neither pre-tokenizer nor decoder", [](Json& j) { j.erase("pre_tokenizer"); }, unsupported,
       "decoder is missing"},
      {"null pre-tokenizer", [](Json& j) { j["pre_tokenizer"] = nullptr; }, unsupported,
       "decoder is missing"},
      {"pre-tokenizer Sequence", [](Json& j) { j["pre_tokenizer"]["type"] = "Sequence"; }, bad,
       "pretokenizers"},
      {"prefix space a text", [](Json& j) { j["pre_tokenizer"]["add_prefix_space"] = "yes"; }, bad,
       "add_prefix_space"},
      {"decoder CTC",
       [](Json& j) {
         j["decoder"] = {{"type", "CTC"}};
       },
       unsupported, "decoder: is CTC"},
      {"decoder a text", [](Json& j) { j["decoder"] = "ByteLevel"; }, bad, "decoder"},
      {"dropout", [](Json& j) { j["model"]["dropout"] = 0.1; }, unsupported, "dropout"},
      {"byte fallback where bytes lack",
       [](Json& j) {
         j["model"]["byte_fallback"] = true;
         j["model"]["vocab"]["xx"] = j["model"]["vocab"]["\u0100"];
         j["model"]["vocab"].erase("\u0100");
       },
       unsupported, "byte_fallback"},
      {"word suffix", [](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }, unsupported,
       "end_of_word_suffix"},
      {"subword prefix", [](Json& j) { j["model"]["continuing_subword_prefix"] = "##"; },
       unsupported, "continuing_subword_prefix"},
      {"no vocabulary", [](Json& j) { j["model"].erase("vocab"); }, bad, "vocab"},
      {"no merges", [](Json& j) { j["model"].erase("merges"); }, bad, "merges"},
      {"vocabulary a list", [](Json& j) { j["model"]["vocab"] = Json::array(); }, bad,
       "not a non-empty object"},
      {"vocabulary empty", [](Json& j) { j["model"]["vocab"] = Json::object(); }, bad,
       "not a non-empty object"},
      {"id negative", [](Json& j) { j["model"]["vocab"]["th"] = -1; }, bad, "\"th\" has id -1"},
      {"id a fraction", [](Json& j) { j["model"]["vocab"]["th"] = 1.5; }, bad, "\"th\" has id 1.5"},
      {"id a text", [](Json& j) { j["model"]["vocab"]["th"] = "1"; }, bad, "\"th\" has id"},
      {"id huge", [](Json& j) { j["model"]["vocab"]["th"] = 4'000'000'000; }, bad,
       "\"th\" has id 4000000000"},
      {"id twice", [](Json& j) { j["model"]["vocab"]["th"] = 257; }, bad,
       "which another token has"},
      {"a hole of millions", [](Json& j) { j["model"]["vocab"]["th"] = 9'000'000; }, bad,
       "ids must be 0..1048835"},
      {"empty token", [](Json& j) { j["model"]["vocab"][""] = 260; }, bad, "an empty token"},
      {"a byte without token",
       [](Json& j) {
         j["model"]["vocab"]["xx"] = j["model"]["vocab"]["x"];
         j["model"]["vocab"].erase("x");
       },
       bad, "byte 0x78 has no token"},
      {"merges an object", [](Json& j) { j["model"]["merges"] = Json::object(); }, bad, "merges"},
      {"merges empty", [](Json& j) { j["model"]["merges"] = Json::array(); }, bad, "no merges"},
      {"merge a number", [](Json& j) { j["model"]["merges"][1] = 5; }, bad, "expected"},
      {"merge of three",
       [](Json& j) {
         j["model"]["merges"][1] = {"t", "h", "e"};
       },
       bad, "expected"},
      {"merge of three in a text", [](Json& j) { j["model"]["merges"][1] = "t h e"; }, bad,
       "not two tokens"},
      {"merge of one", [](Json& j) { j["model"]["merges"][1] = "the"; }, bad, "not two tokens"},
      {"merge of nothing", [](Json& j) { j["model"]["merges"][1] = " the"; }, bad,
       "not two tokens"},
      {"merge of an unknown part", [](Json& j) { j["model"]["merges"].push_back("ab c"); }, bad,
       "vocabulary lacks"},
      {"merge to an unknown token", [](Json& j) { j["model"]["merges"].push_back("a b"); }, bad,
       "vocabulary lacks"},
      {"merge outside the alphabet", [](Json& j) { j["model"]["merges"].push_back("\u4e2d a"); },
       bad, "vocabulary lacks"},
      {"added tokens an object", [](Json& j) { j["added_tokens"] = Json::object(); }, bad,
       "not a list"},
      {"added token without id", [](Json& j) { j["added_tokens"][0].erase("id"); }, bad,
       "id is missing"},
      {"added token without content", [](Json& j) { j["added_tokens"][0].erase("content"); }, bad,
       "content is missing"},
      {"added token empty", [](Json& j) { j["added_tokens"][0]["content"] = ""; }, bad,
       "empty token"},
      {"added token negative", [](Json& j) { j["added_tokens"][0]["id"] = -5; }, bad, "-5"},
      {"added token contradicts", [](Json& j) { j["added_tokens"][0]["content"] = "the"; }, bad,
       "the vocabulary says 257"},
      {"added token leaves a hole", [](Json& j) { j["added_tokens"][0]["id"] = 261; }, bad,
       "ids must be 0..259"},
      {"added token takes an id", [](Json& j) { j["added_tokens"][0]["id"] = 0; }, bad,
       "which another token has"},
      {"added token twice", [](Json& j) { j["added_tokens"].push_back(j["added_tokens"][0]); }, bad,
       "appears twice"},
      {"added token strips by a text", [](Json& j) { j["added_tokens"][0]["lstrip"] = "yes"; }, bad,
       "lstrip"},
      {"added token of 5,000 bytes",
       [](Json& j) { j["added_tokens"][0]["content"] = std::string(5000, 'a'); }, unsupported,
       "has 5000 bytes"},
      {"added token a number", [](Json& j) { j["added_tokens"][0] = 4; }, bad, "added_tokens"},
      {"special a text", [](Json& j) { j["added_tokens"][0]["special"] = "yes"; }, bad,
       "expected true or false"},
  };
  EXPECT_GE(cases.size(), 25U);
  for (const Case& one : cases) {
    Json json = small();
    one.damage(json);
    const double start = testing::thread_seconds();
    const auto error = error_of([&] { tokenizer_of(json); });
    EXPECT_LT(testing::thread_seconds_since(start), 5.0) << one.name;
    EXPECT_EQ(error.kind, one.kind) << one.name << ": " << error.message;
    EXPECT_THAT(error.message, HasSubstr(one.piece)) << one.name;
    EXPECT_THAT(error.message, HasSubstr("dir/tokenizer.json")) << one.name;
  }
}

TEST(HostileTokenizer, DamagedVocabularyAndMergesAreRefused) {
  struct Case {
    const char* name;
    std::function<void(Files&)> damage;
    ErrorKind kind;
    std::string piece;
  };
  const std::vector<Case> cases = {
      {"no merges file", [](Files& f) { f.erase("merges.txt"); }, ErrorKind::kNotFound,
       "has neither"},
      {"no vocabulary", [](Files& f) { f.erase("vocab.json"); }, ErrorKind::kNotFound,
       "has neither"},
      {"merges empty", [](Files& f) { f["merges.txt"] = ""; }, ErrorKind::kBadInput, "no merges"},
      {"only the version", [](Files& f) { f["merges.txt"] = "#version: 0.2\n"; },
       ErrorKind::kBadInput, "no merges"},
      {"merges not UTF-8", [](Files& f) { f["merges.txt"] += "\xff x\n"; }, ErrorKind::kCorruptFile,
       "not UTF-8 at byte"},
      {"three in a line", [](Files& f) { f["merges.txt"] += "a b c\n"; }, ErrorKind::kBadInput,
       "line 5"},
      {"one in a line", [](Files& f) { f["merges.txt"] += "ab\n"; }, ErrorKind::kBadInput,
       "line 5"},
      {"a tab between", [](Files& f) { f["merges.txt"] += "a\tb\n"; }, ErrorKind::kBadInput,
       "line 5"},
      {"a NUL", [](Files& f) { f["merges.txt"] += std::string("a \0\n", 4); }, ErrorKind::kBadInput,
       "vocabulary lacks"},
      {"vocabulary not JSON", [](Files& f) { f["vocab.json"] = "{"; }, ErrorKind::kCorruptFile,
       "vocab.json"},
      {"token twice", [](Files& f) { f["vocab.json"].insert(1, "\"th\": 0, "); },
       ErrorKind::kCorruptFile, "twice"},
      {"deep", [](Files& f) { f["vocab.json"] = "{\"a\": " + std::string(100'000, '['); },
       ErrorKind::kCorruptFile, "levels"},
      {"a huge token",
       [](Files& f) { f["vocab.json"] = "{\"" + std::string(30 << 20, 'a') + "\": 0}"; },
       ErrorKind::kCorruptFile, "in one value"},
      {"a huge line", [](Files& f) { f["merges.txt"] = std::string(30 << 20, 'a'); },
       ErrorKind::kBadInput, "not two tokens"},
      {"a class with words of its own",
       [](Files& f) {
         f["tokenizer_config.json"] = R"({"tokenizer_class": "Qwen2TokenizerFast"})";
       },
       ErrorKind::kUnsupported, "tokenizer_class is Qwen2Tokenizer"},
      {"many empty lines", [](Files& f) { f["merges.txt"] = std::string(30 << 20, '\n'); },
       ErrorKind::kBadInput, "no merges"},
  };
  for (const Case& one : cases) {
    Files files = small_files();
    one.damage(files);
    const auto error = error_of([&] { BpeTokenizer::from_files(files, "dir"); });
    EXPECT_EQ(error.kind, one.kind) << one.name << ": " << error.message;
    EXPECT_THAT(error.message, HasSubstr(one.piece)) << one.name;
    EXPECT_LT(error.message.size(), 600U) << one.name;
  }
}

void expect_every_cut_refused(const std::string& name, const Files& whole) {
  const std::string text = whole.at(name);
  for (std::size_t size = 0; size < text.size(); ++size) {
    Files files = whole;
    files[name] = text.substr(0, size);
    // Whole lines that are lost cannot be told from tokens that no merge makes.
    const bool ends_line = name == "merges.txt" && size > sizeof("#version: 0.2\n") - 1 &&
                           (text[size - 1] == '\n' || text[size] == '\n');
    if (ends_line) {
      const BpeTokenizer tokenizer = BpeTokenizer::from_files(files, "dir");
      EXPECT_EQ(tokenizer.vocab_size(), 259U);
      EXPECT_EQ(tokenizer.warnings().empty(), size + 1 == text.size()) << size;
      continue;
    }
    const auto error = error_of([&] { BpeTokenizer::from_files(files, "dir"); });
    EXPECT_TRUE(error.kind == ErrorKind::kCorruptFile || error.kind == ErrorKind::kBadInput)
        << size;
  }
}

TEST(HostileTokenizer, FilesCutAtEveryByteAreRefused) {
  expect_every_cut_refused("merges.txt", small_files());
  expect_every_cut_refused("vocab.json", small_files());
  expect_every_cut_refused("tokenizer.json", {{"tokenizer.json", small().dump()}});
}

TEST(HostileTokenizer, FlippedBytesAreRefusedOrGiveATokenizerThatWorks) {
  const std::string whole = small().dump();
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string text = whole;
    text[i] = static_cast<char>(static_cast<unsigned char>(text[i]) ^ (1U << (i % 8)));
    try {
      const BpeTokenizer tokenizer = BpeTokenizer::from_files({{"tokenizer.json", text}}, "dir");
      if (!tokenizer.warnings().empty()) continue;  // it may lack bytes
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(" the cat\u00e9").ids), " the cat\u00e9");
    } catch (const Error&) {
    }
  }
}

}  // namespace bpe_hostile_test
}  // namespace qalof::text
