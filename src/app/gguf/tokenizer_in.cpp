// Turns tokenizer.ggml.* of a GGUF file into tokenizer.json and tokenizer_config.json.
#include "app/gguf/tokenizer_in.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <set>
#include <unordered_map>

#include "app/gguf/pre_tokenizer.h"
#include "app/gguf/token_type.h"
#include "core/error.h"
#include "core/json.h"
#include "text/bpe_tokenizer.h"
#include "text/tokenizer_json.h"

namespace qalof::app {

namespace {

constexpr std::size_t kMaxTokens = 1'000'000;
constexpr std::size_t kMaxMerges = 2'000'000;
constexpr std::uint64_t kMaxTokenId = std::uint64_t{1} << 24;

constexpr const char* kTokensKey = "tokenizer.ggml.tokens";
constexpr const char* kTypesKey = "tokenizer.ggml.token_type";
constexpr const char* kMergesKey = "tokenizer.ggml.merges";
constexpr const char* kScoresKey = "tokenizer.ggml.scores";

// Reads one file's tokenizer.
class TokenizerReader {
 public:
  TokenizerReader(const io::GgufFile& file, std::size_t vocab_size)
      : file_(file), vocab_size_(vocab_size) {
    const std::string_view model = file.string("tokenizer.ggml.model").value_or("missing");
    is_sentencepiece_ = model == "llama";
    QALOF_CHECK(
        is_sentencepiece_ || model == "gpt2", ErrorKind::kUnsupported,
        "{}: tokenizer.ggml.model is {:.40}, implemented are gpt2 (byte-level BPE) and llama "
        "(SentencePiece's BPE)",
        file.path(), model);
    for (const char* key : {kTokensKey, is_sentencepiece_ ? kScoresKey : kMergesKey, kTypesKey}) {
      QALOF_CHECK(file.contains(key), ErrorKind::kBadInput, "{}: {} is missing", file.path(), key);
    }
    QALOF_CHECK(!file.boolean("tokenizer.ggml.add_sep_token").value_or(false),
                ErrorKind::kUnsupported,
                "{}: tokenizer.ggml.add_sep_token is true, implemented is false", file.path());
    tokens_ = *file.strings(kTokensKey, kMaxTokens);
    types_ = *file.integers(kTypesKey, kMaxTokens);
    QALOF_CHECK(tokens_.size() == vocab_size && types_.size() == vocab_size, ErrorKind::kBadInput,
                "{}: {} tokens and {} token types for an embedding of {}", file.path(),
                tokens_.size(), types_.size(), vocab_size);
  }

  std::map<std::string, std::string> files() {
    if (is_sentencepiece_ && !adds_space()) restore_spaces();
    text::BpeParts parts;
    parts.tokens = tokens_;
    // Control, unknown and unused tokens are special; user-defined ones are text that is never
    // split.
    for (std::size_t id = 0; id < types_.size(); ++id) {
      const std::int32_t type = types_[id];
      if (type != TokenType::kNormal && type != TokenType::kByte)
        parts.added.push_back({id, type != TokenType::kUserDefined});
    }
    if (is_sentencepiece_) {
      set_sentencepiece(parts);
    } else {
      set_byte_level(parts);
    }
    std::map<std::string, std::string> files;
    files["tokenizer.json"] = text::tokenizer_json(parts, file_.path());
    text::BpeTokenizer::from_files(files, file_.path());
    files["tokenizer_config.json"] = config_text();
    return files;
  }

 private:
  void set_byte_level(text::BpeParts& parts) const {
    const auto merges = file_.strings(kMergesKey, kMaxMerges);
    parts.merges.assign(merges->begin(), merges->end());
    const std::string_view name = file_.string("tokenizer.ggml.pre").value_or("gpt-2");
    const PreTokenizerParts before = pre_tokenizer_parts(name, file_.path());
    parts.steps = before.step;
    parts.ignores_merges = before.ignores_merges;
    parts.bos = template_token("bos", before.adds_bos);
    parts.eos = template_token("eos", /*by_default=*/false);
  }

  bool adds_space() const {
    return file_.boolean("tokenizer.ggml.add_space_prefix").value_or(true);
  }

  // Runs of spaces that are tokens of their own: a GGUF file writes them with spaces, which
  // llama.cpp looks for in a text. In tokenizer.json they stand with U+2581, merges make them of
  // what spaces have become, and a text that holds that character itself has them, too.
  void restore_spaces() {
    const std::set<std::string_view> known(tokens_.begin(), tokens_.end());
    for (std::size_t id = 0; id < tokens_.size(); ++id) {
      if (types_[id] != TokenType::kUserDefined || tokens_[id].empty() ||
          tokens_[id].find_first_not_of(' ') != std::string_view::npos)
        continue;
      std::string run;
      for (std::size_t i = 0; i < tokens_[id].size(); ++i) run += "▁";
      if (known.contains(run)) continue;
      tokens_[id] = spaces_.emplace_back(std::move(run));
      run_ids_.insert(id);
    }
  }
  // True where merges make a token.
  bool is_merged(std::size_t id) const {
    return types_[id] == TokenType::kNormal || run_ids_.contains(id);
  }

  // SentencePiece's BPE as `tokenizers` has it: spaces become U+2581, merges are all pairs of
  // tokens that make a token, the best score first.
  void set_sentencepiece(text::BpeParts& parts) const {
    parts.merges = merges_of_scores();
    parts.falls_back_to_bytes = true;
    parts.pre_tokenizer.reset();
    const auto unknown = std::find(types_.begin(), types_.end(), TokenType::kUnknown);
    if (unknown != types_.end()) parts.unknown = static_cast<std::size_t>(unknown - types_.begin());
    const Json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}};
    Json back =
        Json::array({{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
                     {{"type", "ByteFallback"}},
                     {{"type", "Fuse"}}});
    parts.normalizer = replace;
    if (adds_space()) {
      parts.normalizer = {
          {"type", "Sequence"},
          {"normalizers", Json::array({{{"type", "Prepend"}, {"prepend", "▁"}}, replace})}};
      back.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    }
    parts.decoder = {{"type", "Sequence"}, {"decoders", std::move(back)}};
    parts.bos = template_token("bos", /*by_default=*/true);
    parts.eos = template_token("eos", /*by_default=*/false);
  }

  std::vector<std::string> merges_of_scores() const {
    const auto scores = *file_.floats(kScoresKey, kMaxTokens);
    QALOF_CHECK(scores.size() == vocab_size_, ErrorKind::kBadInput,
                "{}: {} scores for an embedding of {}", file_.path(), scores.size(), vocab_size_);
    std::unordered_map<std::string_view, std::size_t> ids;
    std::size_t longest = 0, splits = 0;
    for (std::size_t id = 0; id < tokens_.size(); ++id) {
      if (!is_merged(id)) continue;
      ids.emplace(tokens_[id], id);
      longest = std::max(longest, tokens_[id].size());
      splits += tokens_[id].size() * std::min(tokens_[id].size(), kMaxTokenBytes);
    }
    QALOF_CHECK(longest <= kMaxTokenBytes, ErrorKind::kBadInput,
                "{}: a token has {} bytes, at most {} are read", file_.path(), longest,
                kMaxTokenBytes);
    QALOF_CHECK(splits <= kMaxSplitBytes, ErrorKind::kBadInput,
                "{}: its tokens are too long together, the squares of their bytes sum to {}, at "
                "most {} are read",
                file_.path(), splits, kMaxSplitBytes);
    // Of one token, pairs stand in the order of their parts, as in `tokenizers`.
    std::vector<std::size_t> order;
    for (std::size_t id = 0; id < tokens_.size(); ++id)
      if (is_merged(id)) order.push_back(id);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
    std::vector<std::string> merges;
    for (const std::size_t id : order) {
      const std::string_view token = tokens_[id];
      std::vector<std::pair<std::size_t, std::size_t>> pairs;
      for (std::size_t cut = 1; cut < token.size(); ++cut) {
        const auto left = ids.find(token.substr(0, cut)), right = ids.find(token.substr(cut));
        if (left != ids.end() && right != ids.end())
          pairs.emplace_back(left->second, right->second);
      }
      std::sort(pairs.begin(), pairs.end());
      for (const auto& [left, right] : pairs)
        merges.push_back(fmt::format("{} {}", tokens_[left], tokens_[right]));
      QALOF_CHECK(merges.size() <= kMaxMerges, ErrorKind::kBadInput,
                  "{}: its tokens make more than {} merges", file_.path(), kMaxMerges);
    }
    return merges;
  }

  // The token that is added before ("bos") or after ("eos") every text, if any.
  std::optional<std::size_t> template_token(const std::string& name, bool by_default) const {
    const std::string prefix = "tokenizer.ggml.";
    if (!file_.boolean(prefix + "add_" + name + "_token").value_or(by_default)) return std::nullopt;
    const std::string key = prefix + name + "_token_id";
    const std::optional<std::uint64_t> id = file_.integer(key, kMaxTokenId);
    QALOF_CHECK(id.has_value() && *id < vocab_size_, ErrorKind::kBadInput,
                "{}: {} is {}, expected 0..{}: the tokenizer puts this token around every text",
                file_.path(), key, id ? std::to_string(*id) : "missing", vocab_size_ - 1);
    return *id;
  }

  std::string config_text() const {
    Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                   {"clean_up_tokenization_spaces", false}};
    constexpr std::pair<const char*, const char*> kTokens[] = {
        {"bos", "bos"}, {"eos", "eos"}, {"unknown", "unk"}, {"padding", "pad"}};
    for (const auto& [theirs, ours] : kTokens) {
      const auto id = file_.integer(fmt::format("tokenizer.ggml.{}_token_id", theirs), kMaxTokenId);
      if (id && *id < vocab_size_) config[fmt::format("{}_token", ours)] = tokens_[*id];
    }
    if (const auto chat = file_.string("tokenizer.chat_template")) config["chat_template"] = *chat;
    return dump_json(config, file_.path(), 2) + "\n";
  }

  // Splits of a token are tried one by one; a quarter of a million words of 16 bytes are 2^26.
  static constexpr std::size_t kMaxTokenBytes = 4096, kMaxSplitBytes = std::size_t{1} << 28;
  const io::GgufFile& file_;
  std::size_t vocab_size_;
  bool is_sentencepiece_ = false;
  std::vector<std::string_view> tokens_;
  std::vector<std::int32_t> types_;
  std::deque<std::string> spaces_;  // texts of tokens_ that are not the file's
  std::set<std::size_t> run_ids_;   // their ids
};

}  // namespace

std::map<std::string, std::string> tokenizer_files(const io::GgufFile& file,
                                                   std::size_t vocab_size) {
  const std::string_view model = file.string("tokenizer.ggml.model").value_or("missing");
  if (model == "none" || model == "no_vocab") return {};
  return TokenizerReader(file, vocab_size).files();
}

}  // namespace qalof::app
