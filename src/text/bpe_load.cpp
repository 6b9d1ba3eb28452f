// Reads tokenizer.json, or vocab.json and merges.txt, into a BpeTokenizer: streams vocabularies and
// merges, and refuses settings that would change ids.
#include <algorithm>
#include <array>
#include <filesystem>
#include <functional>
#include <optional>

#include "core/byte_order_mark.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json_stream.h"
#include "text/bpe_tokenizer.h"
#include "text/unicode.h"

namespace qalof::text {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{64} << 20;
// Public vocabularies have 262,144 tokens and 515,000 merges; room for four times as many.
constexpr std::int64_t kMaxId = std::int64_t{1} << 24;
constexpr std::size_t kMaxMerges = std::size_t{1} << 21;
constexpr std::size_t kMaxNodeBytes = std::size_t{128} << 20;  // of a vocabulary, beyond its text
constexpr std::size_t kMaxHoles = std::size_t{1} << 20;        // unused ids between used ones
constexpr std::array kFileNames = {
    "tokenizer.json",          "vocab.json",         "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja"};

using Vocabulary = std::map<std::string, std::int32_t>;
// Receives one merge. Merges are never collected: as strings they take many times the file's size.
using AddMerge = std::function<void(const std::string& left, const std::string& right)>;

// GPT-2's byte alphabet: printable bytes stand for themselves, the others are written as U+0100 and
// up.
struct ByteAlphabet {
  std::array<std::uint32_t, 256> to_point{};
  std::map<std::uint32_t, unsigned char> to_byte;
  ByteAlphabet() {
    std::uint32_t next = 0x100;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const bool prints =
          (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
      to_point[byte] = prints ? byte : next++;
      to_byte[to_point[byte]] = static_cast<unsigned char>(byte);
    }
  }
};

const ByteAlphabet& alphabet() {
  static const ByteAlphabet instance;
  return instance;
}

// Decodes a token written in the byte alphabet; false where a character is not in the alphabet.
bool to_bytes(std::string_view written, std::string* bytes) {
  bytes->clear();
  for (std::size_t i = 0; i < written.size();) {
    const auto it = alphabet().to_byte.find(next_code_point(written, &i));
    if (it == alphabet().to_byte.end()) return false;
    bytes->push_back(static_cast<char>(it->second));
  }
  return true;
}

// The start of a token for messages, with control characters and stray bytes escaped.
std::string shown(std::string_view token) {
  constexpr std::size_t kMaxShownBytes = 60;
  std::string text;
  for (std::size_t i = 0; i < token.size();) {
    const std::size_t start = i;
    const std::uint32_t point = next_code_point(token, &i);
    const bool is_control = point < 0x20 || (point >= 0x7f && point < 0xa0);
    if (start >= kMaxShownBytes) return text + "...";
    if (is_control || point == kInvalidCodePoint) {
      text += fmt::format("\\x{:02x}", static_cast<unsigned char>(token[i - 1]));
    } else {
      text += token.substr(start, i - start);
    }
  }
  return text;
}

// Collects a vocabulary while the parser streams it. A tree of 128,000 tokens and their merges
// would be many times the size of the file.
class VocabularyReader {
 public:
  // budget: bytes of map nodes beyond the text.
  VocabularyReader(std::string where, std::size_t budget)
      : where_(std::move(where)), budget_(budget) {}

  JsonPart part(std::vector<std::string> path) {
    return {std::move(path), [this](JsonEvent event, std::string_view text, std::int64_t number) {
              take(event, text, number);
            }};
  }
  /// The vocabulary, or the first error found in it. Errors wait until here, so that a file of
  /// another kind is first refused for its kind.
  Vocabulary finish() {
    if (problem_) throw Error(*problem_);
    QALOF_CHECK(!vocabulary_.empty(), ErrorKind::kBadInput,
                "{}: the vocabulary is not a non-empty object", where_);
    return std::move(vocabulary_);
  }

 private:
  static constexpr std::size_t kNodeBytes = 128;

  void take(JsonEvent event, std::string_view text, std::int64_t number) {
    if (problem_) return;
    try {
      add(event, text, number);
    } catch (const Error& error) {
      problem_ = error;
    }
  }
  void add(JsonEvent event, std::string_view text, std::int64_t number) {
    if (!is_open_) {
      QALOF_CHECK(event == JsonEvent::kStartObject, ErrorKind::kBadInput,
                  "{}: the vocabulary is not a non-empty object", where_);
      is_open_ = true;
      return;
    }
    if (!token_) {
      if (event == JsonEvent::kKey) token_ = text;
      return;
    }
    QALOF_CHECK(event == JsonEvent::kInteger && number >= 0 && number < kMaxId,
                ErrorKind::kBadInput, "{}: token \"{}\" has id {:.40}, expected 0..{}", where_,
                shown(*token_), event == JsonEvent::kInteger ? std::to_string(number) : shown(text),
                kMaxId - 1);
    QALOF_CHECK(!token_->empty(), ErrorKind::kBadInput, "{}: an empty token", where_);
    QALOF_CHECK(budget_ >= kNodeBytes, ErrorKind::kCorruptFile,
                "{}: JSON holds more tokens than its size allows", where_);
    budget_ -= kNodeBytes;
    const bool is_new = vocabulary_.emplace(*token_, static_cast<std::int32_t>(number)).second;
    QALOF_CHECK(is_new, ErrorKind::kCorruptFile, "{}: token \"{}\" stands twice", where_,
                shown(*token_));
    token_.reset();
  }

  std::string where_;
  std::size_t budget_;
  bool is_open_ = false;
  std::optional<std::string> token_;  // the key whose id comes next
  std::optional<Error> problem_;
  Vocabulary vocabulary_;
};

void split_merge(const std::string& line, const std::string& where, const AddMerge& add) {
  const std::size_t space = line.find(' ');
  QALOF_CHECK(space != std::string::npos && space > 0 && space + 1 < line.size() &&
                  line.find(' ', space + 1) == std::string::npos,
              ErrorKind::kBadInput, "{}: \"{}\" is not two tokens with a space between", where,
              shown(line));
  add(line.substr(0, space), line.substr(space + 1));
}

void parse_merges_text(std::string_view text, const std::string& where, const AddMerge& add) {
  std::size_t number = 0;
  for (std::size_t start = byte_order_mark(text, where); start < text.size();) {
    const std::size_t end = std::min(text.find('\n', start), text.size());
    std::string_view line = text.substr(start, end - start);
    start = end + 1;
    ++number;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    // Skipped on any line, as in `tokenizers`.
    if (line.empty() || line.starts_with("#version")) continue;
    split_merge(std::string(line), fmt::format("{}: line {}", where, number), add);
  }
}

// Streams a list of "a b" or ["a", "b"].
class MergesReader {
 public:
  MergesReader(std::string where, const AddMerge& add) : where_(std::move(where)), add_(add) {}

  JsonPart part(std::vector<std::string> path) {
    return {std::move(path), [this](JsonEvent event, std::string_view text, std::int64_t number) {
              take(event, text, number);
            }};
  }

 private:
  void take(JsonEvent event, std::string_view text, std::int64_t number) {
    if (depth_ == 0) {
      QALOF_CHECK(event == JsonEvent::kStartArray, ErrorKind::kBadInput, "{}: merges is not a list",
                  where_);
      depth_ = 1;
    } else if (depth_ == 1 && event == JsonEvent::kString) {
      split_merge(std::string(text), fmt::format("{}: merges[{}]", where_, count_++), add_);
    } else if (depth_ == 1 && event == JsonEvent::kStartArray) {
      depth_ = 2;
      pair_.clear();
    } else if (depth_ == 2 && event == JsonEvent::kString && pair_.size() < 2) {
      pair_.emplace_back(text);
    } else if (depth_ == 2 && event == JsonEvent::kEndArray && pair_.size() == 2) {
      add_(pair_[0], pair_[1]);
      ++count_;
      depth_ = 1;
    } else {
      const bool is_end = depth_ == 1 && event == JsonEvent::kEndArray;
      QALOF_CHECK(is_end, ErrorKind::kBadInput,
                  "{}: merges[{}] holds {:.60}, expected \"a b\" or [\"a\", \"b\"]", where_, count_,
                  event == JsonEvent::kInteger ? std::to_string(number) : shown(text));
    }
  }

  std::string where_;
  const AddMerge& add_;
  int depth_ = 0;
  std::size_t count_ = 0;
  std::vector<std::string> pair_;
};

bool is_set(const Json& object, const char* key) {
  return object.contains(key) && !object[key].is_null() && object[key] != false &&
         object[key] != "";
}

// Refuses unimplemented settings that would change ids.
void check_settings(const Json& json, const std::string& where) {
  QALOF_CHECK(!is_set(json, "normalizer"), ErrorKind::kUnsupported,
              "{}: a normalizer is given ({:.60}), implemented is none", where,
              json["normalizer"].dump());
  const Json& model = json["model"];
  if (model.contains("type")) {
    const std::string type = json_string(model, "type", where + ": model");
    QALOF_CHECK(type == "BPE", ErrorKind::kUnsupported,
                "{}: model.type is {:.40}, implemented is BPE", where, type);
  }
  for (const char* key :
       {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"}) {
    QALOF_CHECK(!is_set(model, key), ErrorKind::kUnsupported,
                "{}: model.{} is {:.40}, which is not implemented", where, key, model[key].dump());
  }
}

void check_byte_level(const Json& step, bool uses_regex, const std::string& where) {
  QALOF_CHECK(!is_set(step, "add_prefix_space"), ErrorKind::kUnsupported,
              "{}: pre_tokenizer.add_prefix_space is true, implemented is false", where);
  const bool found = !step.contains("use_regex") || step["use_regex"] == true;
  QALOF_CHECK(found == uses_regex, ErrorKind::kUnsupported,
              "{}: pre_tokenizer.use_regex is {}, implemented is {}", where, found, uses_regex);
}

// Accepts ByteLevel alone, after Digits, or after a Split at Llama 3's pattern.
PreTokenizer read_pre_tokenizer(const Json& json, const std::string& where) {
  QALOF_CHECK(json.contains("pre_tokenizer") && json["pre_tokenizer"].is_object(),
              ErrorKind::kUnsupported, "{}: pre_tokenizer is missing, implemented is ByteLevel",
              where);
  const Json& pre = json["pre_tokenizer"];
  const std::string inner = where + ": pre_tokenizer";
  std::string type = json_string(pre, "type", inner);
  if (type == "ByteLevel") {
    check_byte_level(pre, /*uses_regex=*/true, where);
    return PreTokenizer::kGpt2;
  }
  QALOF_CHECK(type == "Sequence", ErrorKind::kUnsupported,
              "{}: pre_tokenizer is {:.40}, implemented are ByteLevel and a Sequence that ends "
              "with it",
              where, type);
  QALOF_CHECK(pre.contains("pretokenizers") && pre["pretokenizers"].is_array() &&
                  pre["pretokenizers"].size() == 2 && pre["pretokenizers"][1].is_object() &&
                  json_string(pre["pretokenizers"][1], "type", inner) == "ByteLevel",
              ErrorKind::kUnsupported,
              "{}: the steps of pre_tokenizer are not two, the second ByteLevel", where);
  const Json& first = pre["pretokenizers"][0];
  type = json_string(first, "type", inner);
  if (type == "Digits") {
    QALOF_CHECK(is_set(first, "individual_digits"), ErrorKind::kUnsupported,
                "{}: individual_digits is false, implemented is true", inner);
    check_byte_level(pre["pretokenizers"][1], /*uses_regex=*/true, where);
    return PreTokenizer::kDigits;
  }
  QALOF_CHECK(type == "Split", ErrorKind::kUnsupported,
              "{}: begins with {:.40}, implemented are Digits and Split", inner, type);
  const bool is_known = first.contains("pattern") &&
                        first["pattern"] == Json{{"Regex", std::string(kLlama3Pattern)}} &&
                        first.contains("behavior") && first["behavior"] == "Isolated" &&
                        !is_set(first, "invert");
  QALOF_CHECK(is_known, ErrorKind::kUnsupported,
              "{}: a Split other than at the pattern of Llama 3 is not implemented", inner);
  check_byte_level(pre["pretokenizers"][1], /*uses_regex=*/false, where);
  return PreTokenizer::kLlama3;
}

// The post-processor that trims offsets, alone or in a Sequence; null where there is none.
const Json* find_trimming(const Json& json) {
  const auto post = json.find("post_processor");
  if (post == json.end() || !post->is_object()) return nullptr;
  auto trims = [](const Json& processor) {
    return processor.is_object() && processor.contains("type") &&
           (processor["type"] == "ByteLevel" || processor["type"] == "RobertaProcessing");
  };
  if (trims(*post)) return &*post;
  const auto processors = post->find("processors");
  if (processors == post->end() || !processors->is_array()) return nullptr;
  const auto found = std::find_if(processors->begin(), processors->end(), trims);
  return found == processors->end() ? nullptr : &*found;
}

}  // namespace

void BpeTokenizer::set_vocabulary(const Vocabulary& vocabulary, const std::string& where) {
  std::size_t size = 0;
  for (const auto& [token, id] : vocabulary) {
    QALOF_CHECK(static_cast<std::size_t>(id) < vocabulary.size() + kMaxHoles, ErrorKind::kBadInput,
                "{}: token \"{}\" has id {}, but there are {} tokens (ids must be 0..{})", where,
                shown(token), id, vocabulary.size(), vocabulary.size() + kMaxHoles - 1);
    size = std::max(size, static_cast<std::size_t>(id) + 1);
  }
  pieces_.resize(size);
  std::vector<bool> taken(size, false);
  std::size_t unwritable = 0;
  std::string bytes, example;
  for (const auto& [token, id] : vocabulary) {
    const auto index = static_cast<std::size_t>(id);
    QALOF_CHECK(!taken[index], ErrorKind::kBadInput,
                "{}: token \"{}\" has id {}, which another token has", where, shown(token), id);
    taken[index] = true;
    // An added token's content is literal text; it may also be a token that merges produce.
    const bool is_added = added_.contains(token);
    const bool is_byte_level = to_bytes(token, &bytes);
    if (!is_added && !is_byte_level) {
      // Decodes to itself, as in `tokenizers`.
      pieces_[index] = token;
      if (unwritable++ == 0) example = token;
      continue;
    }
    if (is_added) {
      pieces_[index] = token;
      if (is_byte_level && bytes == token) ids_[bytes] = id;
      continue;
    }
    pieces_[index] = bytes;
    ids_[bytes] = id;
  }
  if (unwritable > 0) {
    warnings_.push_back(
        fmt::format("{}: no text becomes {} tokens that are not written in the byte-level "
                    "alphabet, e.g. \"{}\"",
                    where, unwritable, shown(example)));
  }
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const auto it = ids_.find(std::string(1, static_cast<char>(byte)));
    // A vocabulary trained on text may lack bytes absent from it, but not printable ASCII.
    QALOF_CHECK(it != ids_.end() || byte < 0x20 || byte >= 0x7f, ErrorKind::kBadInput,
                "{}: byte 0x{:02x} has no token", where, byte);
    byte_ids_[byte] = it == ids_.end() ? kNoToken : it->second;
    lacks_bytes_ = lacks_bytes_ || it == ids_.end();
  }
}

void BpeTokenizer::add_merge(const std::string& a, const std::string& b, const std::string& where) {
  const std::size_t rank = num_merges_++;
  QALOF_CHECK(rank < kMaxMerges, ErrorKind::kBadInput, "{}: over {} merges", where, kMaxMerges);
  const auto id_of = [&](const std::string& bytes) {
    const auto it = ids_.find(bytes);
    QALOF_CHECK(it != ids_.end(), ErrorKind::kBadInput,
                "{}: merge {} (\"{} {}\") uses or makes a token that the vocabulary lacks", where,
                rank, shown(a), shown(b));
    return it->second;
  };
  std::string left, right;
  QALOF_CHECK(to_bytes(a, &left) && to_bytes(b, &right), ErrorKind::kBadInput,
              "{}: merge {} (\"{} {}\") is not written in the byte-level alphabet", where, rank,
              shown(a), shown(b));
  const Merge merge{static_cast<std::uint32_t>(rank), id_of(left + right)};
  const std::uint64_t pair = static_cast<std::uint64_t>(static_cast<std::uint32_t>(id_of(left)))
                                 << 32 |
                             static_cast<std::uint32_t>(id_of(right));
  // Of two equal merges the later one wins, as in `tokenizers`; a rank is a place in the list.
  merges_.insert_or_assign(pair, merge);
}

// Warns of tokens that no merge produces: special tokens inside the vocabulary, tokens added
// without merges, and tokens whose merges a truncated file has lost.
void BpeTokenizer::check_reachable(const std::string& where) {
  if (ignores_merges_) return;  // every token can be a word
  QALOF_CHECK(!merges_.empty() || pieces_.size() - added_.size() <= 256, ErrorKind::kBadInput,
              "{}: no merges for a vocabulary of {} tokens", where, pieces_.size());
  std::vector<bool> made(pieces_.size(), false);
  for (const auto& [pair, merge] : merges_) made[static_cast<std::size_t>(merge.id)] = true;
  std::size_t unmade = 0;
  std::string example;
  for (const auto& [bytes, id] : ids_) {
    if (bytes.size() == 1 || made[static_cast<std::size_t>(id)] || added_.contains(bytes)) continue;
    if (unmade++ == 0 || bytes < example) example = bytes;
  }
  if (unmade == 0) return;
  warnings_.push_back(fmt::format(
      "{}: no merge makes {} of {} tokens, e.g. \"{}\", so that no text becomes them; are the "
      "merges complete?",
      where, unmade, pieces_.size(), shown(example)));
}

void BpeTokenizer::add_token(AddedToken token) {
  always_matches_ |= !token.is_special;
  added_[token.content] = token.id;
  added_list_.push_back(std::move(token));
}

void BpeTokenizer::read_tokenizer_json(std::string_view text, const std::string& path) {
  VocabularyReader vocabulary_reader(path, kMaxNodeBytes);
  const JsonPart parts[] = {
      vocabulary_reader.part({"model", "vocab"}),
      // Merges need the vocabulary, which may come after them, so they are read in a second pass.
      {{"model", "merges"}, [](JsonEvent, std::string_view, std::int64_t) {}}};
  const Json json = parse_json_parts(text, path, parts);
  QALOF_CHECK(json.is_object() && json.contains("model") && json["model"].is_object(),
              ErrorKind::kBadInput, "{}: model is missing", path);
  check_settings(json, path);
  pre_tokenizer_ = read_pre_tokenizer(json, path);
  ignores_merges_ = is_set(json["model"], "ignore_merges");
  if (const Json* trimming = find_trimming(json)) {
    trim_.spaces = is_set(*trimming, "trim_offsets");
    trim_.keep_first_leading = is_set(*trimming, "add_prefix_space");
  }
  const Json& model = json["model"];
  QALOF_CHECK(model.contains("vocab") && model.contains("merges"), ErrorKind::kBadInput,
              "{}: model.vocab or model.merges is missing", path);
  Vocabulary vocabulary = vocabulary_reader.finish();
  const std::string where = path + ": added_tokens";
  std::int32_t last_new = -1;  // the highest id not in the vocabulary
  if (json.contains("added_tokens") && !json["added_tokens"].is_null()) {
    QALOF_CHECK(json["added_tokens"].is_array(), ErrorKind::kBadInput, "{}: is not a list", where);
    for (const Json& added : json["added_tokens"]) {
      AddedToken token;
      token.content = json_string(added, "content", where);
      token.id = static_cast<std::int32_t>(json_int(added, "id", where, 0, kMaxId - 1));
      token.is_special = !added.contains("special") || json_bool(added, "special", where);
      token.is_normalized =
          added.contains("normalized") ? json_bool(added, "normalized", where) : !token.is_special;
      QALOF_CHECK(!token.content.empty(), ErrorKind::kBadInput, "{}: holds an empty token", where);
      for (const char* key : {"lstrip", "rstrip", "single_word"}) {
        QALOF_CHECK(!is_set(added, key), ErrorKind::kUnsupported,
                    "{}: \"{}\" has {}, which is not implemented", where, shown(token.content),
                    key);
      }
      const auto [known, is_new] = vocabulary.emplace(token.content, token.id);
      if (is_new) last_new = std::max(last_new, token.id);
      QALOF_CHECK(is_new || known->second == token.id, ErrorKind::kBadInput,
                  "{}: \"{}\" has id {}, the vocabulary says {}", where, shown(token.content),
                  token.id, known->second);
      QALOF_CHECK(!added_.contains(token.content), ErrorKind::kBadInput, "{}: \"{}\" stands twice",
                  where, shown(token.content));
      add_token(std::move(token));
    }
  }
  // With a hole below them `tokenizers` would assign other ids than the file states.
  QALOF_CHECK(last_new < static_cast<std::int64_t>(vocabulary.size()), ErrorKind::kBadInput,
              "{}: holds id {}, but there are {} tokens (ids must be 0..{})", where, last_new,
              vocabulary.size(), vocabulary.size() - 1);
  set_vocabulary(vocabulary, path);
  template_ = read_text_template(json, pieces_.size(), path);
  if (is_set(model, "unk_token")) {
    const auto unknown = vocabulary.find(json_string(model, "unk_token", path + ": model"));
    if (unknown != vocabulary.end()) unknown_ = unknown->second;
    fuses_unknown_ = is_set(model, "fuse_unk");
  }
  const AddMerge add = [&](const std::string& left, const std::string& right) {
    add_merge(left, right, path);
  };
  MergesReader merges_reader(path, add);
  const JsonPart merges_part[] = {
      merges_reader.part({"model", "merges"}),
      {{"model", "vocab"}, [](JsonEvent, std::string_view, std::int64_t) {}}};
  parse_json_parts(text, path, merges_part);
  check_reachable(path);
}

void BpeTokenizer::read_vocabulary_and_merges(const std::map<std::string, std::string_view>& files,
                                              const std::string& directory) {
  const std::string_view vocabulary_json = files.at("vocab.json"),
                         merges_text = files.at("merges.txt");
  const std::string vocab_path = directory + "/vocab.json", merges_path = directory + "/merges.txt";
  VocabularyReader reader(vocab_path, kMaxNodeBytes);
  const JsonPart whole[] = {reader.part({})};
  parse_json_parts(vocabulary_json, vocab_path, whole);
  const Vocabulary vocabulary = reader.finish();
  // These files do not mark special tokens; by convention they are written <|name|>.
  for (const auto& [token, id] : vocabulary) {
    if (token.size() > 4 && token.starts_with("<|") && token.ends_with("|>")) {
      add_token({token, id, /*is_special=*/true, /*is_normalized=*/false});
    }
  }
  check_utf8(merges_text, merges_path, ErrorKind::kCorruptFile);
  set_vocabulary(vocabulary, vocab_path);
  template_ = read_text_template(files, vocabulary, directory);
  parse_merges_text(merges_text, merges_path,
                    [&](const std::string& left, const std::string& right) {
                      add_merge(left, right, merges_path);
                    });
  check_reachable(merges_path);
}

BpeTokenizer BpeTokenizer::from_texts(const std::map<std::string, std::string_view>& files,
                                      const std::string& where) {
  BpeTokenizer tokenizer;
  const auto json = files.find("tokenizer.json");
  const auto vocab = files.find("vocab.json"), merges = files.find("merges.txt");
  if (json != files.end()) {
    tokenizer.read_tokenizer_json(json->second, where + "/tokenizer.json");
  } else {
    QALOF_CHECK(vocab != files.end() && merges != files.end(), ErrorKind::kNotFound,
                "{}: has neither tokenizer.json nor vocab.json with merges.txt", where);
    tokenizer.read_vocabulary_and_merges(files, where);
  }
  return tokenizer;
}

BpeTokenizer BpeTokenizer::from_files(const std::map<std::string, std::string>& files,
                                      const std::string& where) {
  return from_texts({files.begin(), files.end()}, where);
}

BpeTokenizer BpeTokenizer::load(const std::string& directory) {
  QALOF_CHECK(!path_exists(directory) || is_directory(directory), ErrorKind::kBadInput,
              "{}: is neither a directory with a tokenizer nor a packed file", directory);
  // Mapped, so that the texts take no memory of their own.
  std::vector<MappedFile> mappings;
  std::map<std::string, std::string_view> files;
  for (const char* name : kFileNames) {
    if (files.contains("tokenizer.json")) break;  // comes first and needs no other file
    const std::string path = (fs::path(directory) / name).string();
    if (!path_exists(path)) continue;
    const std::span<const std::byte> bytes = mappings.emplace_back(MappedFile::open(path)).bytes();
    QALOF_CHECK(bytes.size() <= kMaxFileBytes, ErrorKind::kBadInput,
                "{}: has {} bytes, at most {} are read", path, bytes.size(), kMaxFileBytes);
    files[name] = {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  return from_texts(files, directory);
}

void copy_tokenizer_files(const std::string& from, const std::string& to) {
  std::size_t copied = 0;
  for (const char* name : kFileNames) {
    const fs::path path = fs::path(from) / name;
    if (!path_exists(path.string())) continue;
    write_file_atomic((fs::path(to) / name).string(), read_file(path.string(), kMaxFileBytes));
    ++copied;
  }
  QALOF_CHECK(copied > 0, ErrorKind::kNotFound, "{}: holds no tokenizer files", from);
}

}  // namespace qalof::text
