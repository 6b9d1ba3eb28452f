// Turns a directory's tokenizer files into GGUF metadata: byte-level BPE, and BPE with byte
// fallback as SentencePiece scores.
#include "app/gguf/tokenizer_out.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>

#include "app/gguf/pre_tokenizer.h"
#include "app/gguf/token_type.h"
#include "core/error.h"
#include "core/file.h"
#include "text/bpe_tokenizer.h"

namespace qalof::app {

namespace fs = std::filesystem;

namespace {

// The reader of the tokenizer has accepted the file before it becomes a tree.
constexpr std::size_t kMaxFile = std::size_t{64} << 20;
constexpr JsonLimits kTreeLimits = {.max_depth = 64,
                                    .max_extra_bytes = std::size_t{2} << 30,
                                    .max_token_bytes = std::size_t{4} << 20};

Json read_tree(const std::string& path) {
  return parse_json(read_file(path, kMaxFile), path, kTreeLimits);
}
Json read_tree_if_present(const std::string& path) {
  return path_exists(path) ? read_tree(path) : Json::object();
}

struct MergePair {
  std::string left, right;
};

// What tokenizer.json, or vocab.json and merges.txt, hold.
struct TokenizerFiles {
  std::string where;
  Json json = Json::object();  // tokenizer.json; empty where there is none
  Json config;                 // tokenizer_config.json
  std::map<std::string, std::int64_t> vocabulary;
  std::vector<MergePair> merges;
};

void read_merges_file(const std::string& path, std::vector<MergePair>& merges) {
  const std::string text = read_file(path, kMaxFile);
  std::size_t begin = 0;
  while (begin < text.size()) {
    std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.pop_back();
    const std::size_t space = line.find(' ');
    if (!line.starts_with("#version") && space != std::string::npos)
      merges.push_back({line.substr(0, space), line.substr(space + 1)});
    begin = end + 1;
  }
}

void read_merges_of_json(const Json& list, std::vector<MergePair>& merges) {
  for (const Json& merge : list) {
    if (merge.is_array() && merge.size() == 2) {
      merges.push_back({merge[0].get<std::string>(), merge[1].get<std::string>()});
      continue;
    }
    const auto text = merge.get<std::string>();
    // A token of a SentencePiece vocabulary may begin with a space character of its own, not with
    // a space.
    const std::size_t space = text.find(' ', 1);
    merges.push_back({text.substr(0, space), text.substr(space + 1)});
  }
}

TokenizerFiles read_files(const std::string& directory) {
  TokenizerFiles files;
  const auto path = [&](const char* name) { return (fs::path(directory) / name).string(); };
  files.config = read_tree_if_present(path("tokenizer_config.json"));
  if (path_exists(path("tokenizer.json"))) {
    files.where = path("tokenizer.json");
    files.json = read_tree(files.where);
    const Json& model = files.json["model"];
    QALOF_CHECK(model.is_object() && model.value("type", "BPE") == "BPE", ErrorKind::kUnsupported,
                "{}: its model is no BPE, which alone is implemented", files.where);
    for (const auto& [token, id] : model.at("vocab").items())
      files.vocabulary[token] = id.get<std::int64_t>();
    read_merges_of_json(model.at("merges"), files.merges);
    return files;
  }
  files.where = path("vocab.json");
  const Json vocabulary = read_tree(files.where);
  for (const auto& [token, id] : vocabulary.items())
    files.vocabulary[token] = id.get<std::int64_t>();
  read_merges_file(path("merges.txt"), files.merges);
  return files;
}

// Tokens by id with their types.
struct TokenTable {
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;
};

bool is_byte_token(const std::string& token) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  return token.size() == 6 && token.starts_with("<0x") && token.ends_with(">") &&
         kHex.find(token[3]) != std::string_view::npos &&
         kHex.find(token[4]) != std::string_view::npos;
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos;
       at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

TokenTable table_of(const TokenizerFiles& files, const text::BpeTokenizer& tokenizer,
                    std::size_t rows, bool is_sentencepiece) {
  TokenTable table{std::vector<std::string>(rows),
                   std::vector<std::int32_t>(rows, TokenType::kUnused)};
  const auto put = [&](const std::string& token, std::int64_t id, std::int32_t type) {
    QALOF_CHECK(id >= 0 && static_cast<std::size_t>(id) < rows, ErrorKind::kUnsupported,
                "{}: token \"{:.60}\" has the id {}, the embedding has {} rows, and a GGUF file as "
                "many tokens",
                files.where, token, id, rows);
    table.tokens[static_cast<std::size_t>(id)] = token;
    table.types[static_cast<std::size_t>(id)] = type;
  };
  for (const auto& [token, id] : files.vocabulary)
    put(token, id,
        is_sentencepiece && is_byte_token(token) ? TokenType::kByte : TokenType::kNormal);
  for (const auto& [token, id] : tokenizer.added_tokens()) put(token, id, TokenType::kUserDefined);
  if (const auto added = files.json.find("added_tokens"); added != files.json.end()) {
    for (const Json& token : *added) {
      if (token.value("special", false))
        put(token.at("content").get<std::string>(), token.at("id").get<std::int64_t>(),
            TokenType::kControl);
    }
  } else {
    // Files without tokenizer.json name no others.
    for (const auto& [token, id] : tokenizer.added_tokens()) put(token, id, TokenType::kControl);
  }
  if (is_sentencepiece) {
    // SentencePiece writes spaces as U+2581; llama.cpp looks for user-defined tokens in the text
    // itself.
    for (std::size_t id = 0; id < rows; ++id)
      if (table.types[id] == TokenType::kUserDefined) replace_all(table.tokens[id], "▁", " ");
  }
  if (is_sentencepiece && files.json["model"].contains("unk_token") &&
      files.json["model"]["unk_token"].is_string()) {
    const auto unknown = files.vocabulary.find(files.json["model"]["unk_token"].get<std::string>());
    if (unknown != files.vocabulary.end())
      put(unknown->first, unknown->second, TokenType::kUnknown);
  }
  for (std::size_t id = 0; id < rows; ++id)
    if (table.types[id] == TokenType::kUnused) table.tokens[id] = fmt::format("[PAD{}]", id);
  return table;
}

// SentencePiece merges the pair whose token has the highest score: minus the rank of the first
// merge that makes it. User-defined tokens have one, too, where merges make them.
std::vector<float> scores_of(const TokenizerFiles& files, const TokenTable& table) {
  std::vector<float> scores(table.tokens.size());
  constexpr float kNever = -1e6F;
  const auto has_score = [&](std::size_t id) {
    return table.types[id] == TokenType::kNormal || table.types[id] == TokenType::kUserDefined;
  };
  for (std::size_t id = 0; id < scores.size(); ++id) scores[id] = has_score(id) ? kNever : 0.0F;
  float rank = 0;
  for (const MergePair& merge : files.merges) {
    const auto made = files.vocabulary.find(merge.left + merge.right);
    if (made == files.vocabulary.end()) continue;
    float& score = scores[static_cast<std::size_t>(made->second)];
    if (score == kNever) score = -rank++;
  }
  for (std::size_t id = 0; id < scores.size(); ++id)
    if (scores[id] == kNever && table.types[id] == TokenType::kUserDefined) scores[id] = 0;
  return scores;
}

// True where a text gets a space in front: a Prepend normalizer, or a Metaspace that prepends.
bool prepends_space(const Json& json) {
  const std::string text = json.value("normalizer", Json()).dump();
  if (text.find("\"Prepend\"") != std::string::npos) return true;
  const Json step = json.value("pre_tokenizer", Json());
  return step.is_object() && step.value("type", "") == "Metaspace" &&
         step.value("prepend_scheme", "always") != "never";
}

void add_byte_level(const TokenizerFiles& files, const TokenTable& table,
                    io::GgufMetadata& metadata) {
  metadata.add("tokenizer.ggml.model", "gpt2");
  metadata.add("tokenizer.ggml.pre",
               files.json.empty() ? "gpt-2" : pre_tokenizer_name(files.json, files.where));
  metadata.add("tokenizer.ggml.tokens", table.tokens);
  metadata.add("tokenizer.ggml.token_type", table.types);
  std::vector<std::string> merges;
  merges.reserve(files.merges.size());
  for (const MergePair& merge : files.merges) merges.push_back(merge.left + " " + merge.right);
  metadata.add("tokenizer.ggml.merges", merges);
}

void add_sentencepiece(const TokenizerFiles& files, const TokenTable& table,
                       io::GgufMetadata& metadata) {
  metadata.add("tokenizer.ggml.model", "llama");
  metadata.add("tokenizer.ggml.pre", "default");
  metadata.add("tokenizer.ggml.tokens", table.tokens);
  metadata.add("tokenizer.ggml.scores", scores_of(files, table));
  metadata.add("tokenizer.ggml.token_type", table.types);
  metadata.add("tokenizer.ggml.add_space_prefix", prepends_space(files.json));
}

// The id of a special token that tokenizer_config.json names ("bos_token"), a text or an object.
std::optional<std::uint32_t> configured_token(const TokenizerFiles& files,
                                              const text::BpeTokenizer& tokenizer,
                                              const std::string& kind) {
  const auto entry = files.config.find(kind + "_token");
  if (entry == files.config.end()) return std::nullopt;
  const Json& content =
      entry->is_object() && entry->contains("content") ? (*entry)["content"] : *entry;
  if (!content.is_string()) return std::nullopt;
  const auto found = tokenizer.added_tokens().find(content.get<std::string>());
  if (found == tokenizer.added_tokens().end()) return std::nullopt;
  return static_cast<std::uint32_t>(found->second);
}

std::optional<std::uint32_t> config_token(const Json& raw, const std::string& kind,
                                          std::size_t rows) {
  const auto entry = raw.find(kind + "_token_id");
  if (entry == raw.end() || !entry->is_number_integer()) return std::nullopt;
  const auto id = entry->get<std::int64_t>();
  if (id < 0 || static_cast<std::size_t>(id) >= rows) return std::nullopt;
  return static_cast<std::uint32_t>(id);
}

// Adds bos, eos and the others. The tokens around a text are those of the template; where they are
// others than the configured ones, the template's win, and the configured end still ends a text.
void add_special_tokens(const TokenizerFiles& files, const text::BpeTokenizer& tokenizer,
                        const model::ModelConfig& config, io::GgufMetadata& metadata,
                        Observer& observer) {
  const text::TextTemplate& around = tokenizer.text_template();
  QALOF_CHECK(around.before.size() <= 1 && around.after.size() <= 1, ErrorKind::kUnsupported,
              "{}: puts {} tokens before and {} after a text, a GGUF file holds one each",
              files.where, around.before.size(), around.after.size());
  std::map<std::string, std::uint32_t> ids;
  for (const char* kind : {"bos", "eos", "unk", "sep", "pad", "mask"}) {
    std::optional<std::uint32_t> id = configured_token(files, tokenizer, kind);
    if (!id) id = config_token(config.raw, kind, config.vocab_size);
    if (id && *id < config.vocab_size) ids[kind] = *id;
  }
  std::vector<std::uint32_t> ends;
  const auto add_end = [&](std::uint32_t id) {
    if (id < config.vocab_size && std::find(ends.begin(), ends.end(), id) == ends.end())
      ends.push_back(id);
  };
  if (!around.before.empty()) ids["bos"] = static_cast<std::uint32_t>(around.before.front());
  if (!around.after.empty()) add_end(static_cast<std::uint32_t>(around.after.front()));
  if (ids.contains("eos")) add_end(ids["eos"]);
  for (const std::int64_t id : config.eos_token_ids) add_end(static_cast<std::uint32_t>(id));
  ids.erase("eos");
  constexpr const char* kEndKeys[] = {"eos", "eot", "eom"};
  for (std::size_t i = 0; i < std::min<std::size_t>(ends.size(), std::size(kEndKeys)); ++i)
    ids[kEndKeys[i]] = ends[i];
  if (ends.size() > std::size(kEndKeys)) {
    observer.warn(fmt::format("{}: {} tokens end a text, a GGUF file holds {}: {} are left out",
                              files.where, ends.size(), std::size(kEndKeys),
                              ends.size() - std::size(kEndKeys)));
  }
  for (const auto& [kind, id] : ids) {
    const std::string name = kind == "unk" ? "unknown" : kind == "sep" ? "seperator" : kind;
    metadata.add(fmt::format("tokenizer.ggml.{}_token_id", name == "pad" ? "padding" : name), id);
  }
  metadata.add("tokenizer.ggml.add_bos_token", !around.before.empty());
  metadata.add("tokenizer.ggml.add_eos_token", !around.after.empty());
}

// The template of tokenizer_config.json, else of chat_template.jinja; several have names.
void add_chat_template(const std::string& directory, const Json& config,
                       io::GgufMetadata& metadata) {
  constexpr const char* kKey = "tokenizer.chat_template";
  const auto entry = config.find("chat_template");
  if (entry != config.end() && entry->is_string()) {
    metadata.add(kKey, entry->get<std::string>());
    return;
  }
  if (entry != config.end() && entry->is_array()) {
    for (const Json& one : *entry) {
      const auto is_text = [&one](const char* key) {
        return one.is_object() && one.contains(key) && one[key].is_string();
      };
      if (!is_text("name") || !is_text("template")) continue;
      const auto name = one["name"].get<std::string>();
      metadata.add(name == "default" ? kKey : fmt::format("{}.{}", kKey, name),
                   one["template"].get<std::string>());
    }
    return;
  }
  const std::string file = (fs::path(directory) / "chat_template.jinja").string();
  if (path_exists(file)) metadata.add(kKey, read_file(file, kMaxFile));
}

void add_tokenizer_files(const std::string& directory, const model::ModelConfig& config,
                         io::GgufMetadata& metadata, Observer& observer) {
  const text::BpeTokenizer tokenizer = text::BpeTokenizer::load(directory);
  const TokenizerFiles files = read_files(directory);
  const bool is_sentencepiece =
      files.json.contains("model") && files.json["model"].value("byte_fallback", false);
  const TokenTable table = table_of(files, tokenizer, config.vocab_size, is_sentencepiece);
  if (is_sentencepiece) {
    add_sentencepiece(files, table, metadata);
  } else {
    add_byte_level(files, table, metadata);
  }
  add_special_tokens(files, tokenizer, config, metadata, observer);
  add_chat_template(directory, files.config, metadata);
}

}  // namespace

void add_tokenizer(const std::string& directory, const model::ModelConfig& config,
                   io::GgufMetadata& metadata, Observer& observer) {
  const auto has = [&](const char* name) {
    return path_exists((fs::path(directory) / name).string());
  };
  if (!has("tokenizer.json") && !has("vocab.json")) {
    observer.warn(fmt::format("{}: has no tokenizer, nor will the GGUF file", directory));
    metadata.add("tokenizer.ggml.model", "none");
    return;
  }
  try {
    add_tokenizer_files(directory, config, metadata, observer);
  } catch (const Json::exception& error) {
    fail(ErrorKind::kBadInput, "{}: its tokenizer files are not as tokenizers writes them: {}",
         directory, error.what());
  }
}

}  // namespace qalof::app
