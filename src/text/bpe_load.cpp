// Reads tokenizer.json, or vocab.json and merges.txt, into a BpeTokenizer, and refuses settings
// that would change ids.
#include <algorithm>
#include <array>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/json_stream.h"
#include "text/bpe_bridges.h"
#include "text/bpe_readers.h"
#include "text/bpe_tokenizer.h"
#include "text/byte_alphabet.h"
#include "text/unicode.h"

namespace qalof::text {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{64} << 20;
constexpr std::size_t kMaxAddedBytes = 4096;             // of one added token
constexpr std::uint32_t kDirectPoints = 0x800;           // whose tokens are found without a search
constexpr std::size_t kMaxHoles = std::size_t{1} << 20;  // unused ids between used ones
constexpr const char* kSentencePiece = "tokenizer.model";
constexpr std::array kFileNames = {
    "tokenizer.json",          "vocab.json",         "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja"};

bool is_set(const Json& object, const char* key) {
  return object.contains(key) && !object[key].is_null() && object[key] != false &&
         object[key] != "";
}

// A section of tokenizer.json; null where it is missing.
const Json& section(const Json& json, const char* key) {
  static const Json none;
  return json.contains(key) ? json[key] : none;
}

// Refuses settings of the model that are not implemented and would change ids.
void check_model(const Json& model, const std::string& where) {
  if (model.contains("type")) {
    const std::string type = json_string(model, "type", where + ": model");
    QALOF_CHECK(type == "BPE", ErrorKind::kUnsupported,
                "{}: model.type is {:.40}, implemented is BPE", where, type);
  }
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const bool is_off = !is_set(model, key) || (model[key].is_number() && model[key] == 0);
    QALOF_CHECK(is_off, ErrorKind::kUnsupported, "{}: model.{} is {:.40}, which is not implemented",
                where, key, model[key].dump());
  }
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

// vocab.json and merges.txt do not say how texts become words. A class of transformers with other
// rules than GPT-2's needs a tokenizer.json.
void check_class(const std::map<std::string, std::string_view>& files,
                 const std::string& directory) {
  const auto file = files.find("tokenizer_config.json");
  if (file == files.end()) return;
  const std::string path = directory + "/tokenizer_config.json";
  const JsonPart unused[] = {
      {{"model_max_length"}, [](JsonEvent, std::string_view, std::int64_t) {}}};
  const Json config = parse_json_parts(file->second, path, unused);
  if (!config.is_object() || !is_set(config, "tokenizer_class")) return;
  std::string name = json_string(config, "tokenizer_class", path);
  if (name.ends_with("Fast")) name.resize(name.size() - std::string_view("Fast").size());
  constexpr std::string_view kKnown[] = {"GPT2Tokenizer",    "PreTrainedTokenizer",
                                         "RobertaTokenizer", "CodeGenTokenizer",
                                         "GPTNeoXTokenizer", "TokenizersBackend"};
  QALOF_CHECK(std::ranges::find(kKnown, name) != std::end(kKnown), ErrorKind::kUnsupported,
              "{}: tokenizer_class is {:.40}, which is implemented with a tokenizer.json alone; "
              "transformers writes one: AutoTokenizer.from_pretrained(\"{}\").save_pretrained(..)",
              path, name, directory);
}

// The code points at a token's ends.
std::uint32_t first_point(std::string_view token) {
  std::size_t at = 0;
  return next_valid_code_point(token, &at);
}
std::uint32_t last_point(std::string_view token) {
  std::size_t at = previous_code_point(token, token.size());
  return next_valid_code_point(token, &at);
}

}  // namespace

void BpeTokenizer::set_pieces(const std::string& where) {
  std::size_t size = 0;
  const std::size_t count = vocabulary_.size() + added_list_.size();
  const auto check_id = [&](std::string_view token, std::int32_t id) {
    QALOF_CHECK(static_cast<std::size_t>(id) < count + kMaxHoles, ErrorKind::kBadInput,
                "{}: token \"{}\" has id {}, but there are {} tokens (ids must be 0..{})", where,
                shown_token(token), id, count, count + kMaxHoles - 1);
    size = std::max(size, static_cast<std::size_t>(id) + 1);
  };
  for (std::size_t i = 0; i < vocabulary_.size(); ++i)
    check_id(vocabulary_.text(i), vocabulary_.id(i));
  for (const AddedToken& token : added_list_) check_id(token.content, token.id);
  pieces_.resize(size);
  is_special_.resize(size);
  is_added_.resize(size);
  std::vector<bool> taken(size, false);
  std::size_t unwritable = 0;
  std::string bytes, example;
  for (std::size_t i = 0; i < vocabulary_.size(); ++i) {
    const std::string_view token = vocabulary_.text(i);
    const auto index = static_cast<std::size_t>(vocabulary_.id(i));
    QALOF_CHECK(!taken[index], ErrorKind::kBadInput,
                "{}: token \"{}\" has id {}, which another token has", where, shown_token(token),
                index);
    taken[index] = true;
    longest_token_ = std::max(longest_token_, token.size());
    const bool is_written = !decoder_.is_byte_level() || from_byte_alphabet(token, &bytes);
    // A token outside the alphabet decodes to itself, as in `tokenizers`.
    pieces_[index] = decoder_.is_byte_level() && is_written ? bytes : token;
    if (!is_written && !added_.contains(std::string(token)) && unwritable++ == 0) example = token;
  }
  // An added token's content is literal text; it may also be a token that merges produce.
  for (const AddedToken& token : added_list_) {
    const auto index = static_cast<std::size_t>(token.id);
    const bool is_known = vocabulary_.find(token.content) == token.id;
    QALOF_CHECK(is_known || !taken[index], ErrorKind::kBadInput,
                "{}: token \"{}\" has id {}, which another token has", where,
                shown_token(token.content), index);
    taken[index] = true;
    pieces_[index] = token.content;
    is_added_[index] = true;
    is_special_[index] = token.is_special;
  }
  if (unwritable == 0) return;
  warnings_.push_back(
      fmt::format("{}: no text becomes {} tokens that are not written in the byte-level "
                  "alphabet, e.g. \"{}\"",
                  where, unwritable, shown_token(example)));
}

void BpeTokenizer::set_symbols(const std::string& where) {
  const bool is_byte_level = pre_tokens_.is_byte_level();
  bool lacks_bytes = false;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] =
        vocabulary_.find(is_byte_level ? byte_alphabet()[byte] : fmt::format("<0x{:02X}>", byte));
    lacks_bytes = lacks_bytes || byte_ids_[byte] == kNoToken;
  }
  QALOF_CHECK(!falls_back_to_bytes_ || !is_byte_level || !lacks_bytes, ErrorKind::kUnsupported,
              "{}: model.byte_fallback with a byte-level alphabet that lacks bytes is not "
              "implemented",
              where);
  if (!is_byte_level) {
    std::string character;
    for (std::uint32_t point = 0; point < kDirectPoints; ++point) {
      character.clear();
      append_utf8(point, &character);
      point_ids_.push_back(vocabulary_.find(character));
    }
  }
  // A vocabulary trained on text may lack what is absent from it, but not printable ASCII. A space
  // may have been replaced before.
  const bool falls_back = !is_byte_level && (unknown_ != kNoToken || falls_back_to_bytes_);
  for (std::uint32_t byte = is_byte_level ? 0x20 : 0x21; byte < 0x7f && !falls_back; ++byte) {
    const std::int32_t id = is_byte_level ? byte_ids_[byte] : point_ids_[byte];
    QALOF_CHECK(id != kNoToken, ErrorKind::kBadInput, "{}: byte 0x{:02x} has no token", where,
                byte);
  }
}

// Fills bridges_, unless some merge takes a byte or unknown token, which is not written as the
// character that it stands for.
void BpeTokenizer::set_bridges() {
  if (pre_tokens_.is_byte_level()) return;  // words are short
  std::vector<std::string_view> written(pieces_.size());
  for (std::size_t i = 0; i < vocabulary_.size(); ++i)
    written[static_cast<std::size_t>(vocabulary_.id(i))] = vocabulary_.text(i);
  std::vector<bool> is_odd(pieces_.size());
  if (unknown_ != kNoToken) is_odd[static_cast<std::size_t>(unknown_)] = true;
  for (const std::int32_t id : byte_ids_)
    if (id != kNoToken) is_odd[static_cast<std::size_t>(id)] = true;
  std::vector<std::uint64_t> bridges((std::size_t{1} << kBridgeBits) / 64);
  bool has_odd = false;
  merges_.for_each([&](std::int32_t left, std::int32_t right, const MergeTable::Merge&) {
    const auto a = static_cast<std::size_t>(left), b = static_cast<std::size_t>(right);
    has_odd = has_odd || is_odd[a] || is_odd[b];
    const std::uint32_t bit = bridge_bit(last_point(written[a]), first_point(written[b]));
    bridges[bit / 64] |= std::uint64_t{1} << (bit % 64);
  });
  if (!has_odd) bridges_ = std::move(bridges);
}

// Warns of tokens that no merge produces: special tokens inside the vocabulary, tokens added
// without merges, and tokens whose merges a truncated file has lost.
void BpeTokenizer::check_reachable(const std::string& where) {
  if (ignores_merges_) return;  // every token can be a word
  std::vector<bool> made(pieces_.size(), false);
  merges_.for_each([&](std::int32_t, std::int32_t, const MergeTable::Merge& merge) {
    made[static_cast<std::size_t>(merge.id)] = true;
  });
  for (const std::int32_t id : byte_ids_)
    if (id != kNoToken) made[static_cast<std::size_t>(id)] = true;
  if (unknown_ != kNoToken) made[static_cast<std::size_t>(unknown_)] = true;
  std::size_t unmade = 0;
  std::string bytes;
  std::string_view example;
  for (std::size_t i = 0; i < vocabulary_.size(); ++i) {
    const std::string_view token = vocabulary_.text(i);
    const auto id = static_cast<std::size_t>(vocabulary_.id(i));
    if (made[id] || is_added_[id]) continue;
    const bool is_symbol = pre_tokens_.is_byte_level() ? !from_byte_alphabet(token, &bytes)
                                                       : count_code_points(token) == 1;
    if (is_symbol) continue;  // or not written in the alphabet, which has its own warning
    if (unmade++ == 0 || token < example) example = token;
  }
  QALOF_CHECK(merges_.size() > 0 || unmade == 0, ErrorKind::kBadInput,
              "{}: no merges for a vocabulary of {} tokens", where, pieces_.size());
  if (unmade == 0) return;
  if (pre_tokens_.is_byte_level() && from_byte_alphabet(example, &bytes)) example = bytes;
  warnings_.push_back(fmt::format(
      "{}: no merge makes {} of {} tokens, e.g. \"{}\", so that no text becomes them; are the "
      "merges complete?",
      where, unmade, pieces_.size(), shown_token(example)));
}

void BpeTokenizer::add_token(AddedToken token, const std::string& where) {
  QALOF_CHECK(!token.content.empty(), ErrorKind::kBadInput, "{}: holds an empty token", where);
  QALOF_CHECK(token.content.size() <= kMaxAddedBytes, ErrorKind::kUnsupported,
              "{}: \"{}\" has {} bytes, at most {} are implemented", where,
              shown_token(token.content), token.content.size(), kMaxAddedBytes);
  QALOF_CHECK(added_.emplace(token.content, token.id).second, ErrorKind::kBadInput,
              "{}: \"{}\" appears twice", where, shown_token(token.content));
  added_list_.push_back(std::move(token));
}

void BpeTokenizer::build_matchers() {
  for (const bool is_normalized : {false, true}) {
    std::vector<AddedToken> tokens;
    std::vector<std::string> contents;
    for (const AddedToken& token : added_list_) {
      if (token.is_normalized != is_normalized) continue;
      TextBuffer buffer;
      const TextPiece whole{token.content};
      contents.emplace_back(is_normalized ? normalizer_.apply(whole, &buffer).text : whole.text);
      pieces_[static_cast<std::size_t>(token.id)] = contents.back();
      tokens.push_back(token);
    }
    (is_normalized ? normalized_tokens_ : raw_tokens_) =
        AddedTokenMatcher(std::move(tokens), std::move(contents));
  }
}

void BpeTokenizer::read_added_tokens(const Json& json, const std::string& where) {
  if (json.is_null()) return;
  QALOF_CHECK(json.is_array(), ErrorKind::kBadInput, "{}: is not a list", where);
  std::int32_t last_new = -1;  // the highest id not in the vocabulary
  std::size_t count = vocabulary_.size();
  const auto is_on = [&](const Json& added, const char* key, bool by_default) {
    return added.contains(key) ? json_bool(added, key, where) : by_default;
  };
  for (const Json& added : json) {
    AddedToken token;
    token.content = json_string(added, "content", where);
    token.id = static_cast<std::int32_t>(json_int(added, "id", where, 0, kMaxTokenId - 1));
    token.is_special = is_on(added, "special", true);
    token.is_normalized = is_on(added, "normalized", !token.is_special);
    token.strips_left = is_on(added, "lstrip", false);
    token.strips_right = is_on(added, "rstrip", false);
    token.is_single_word = is_on(added, "single_word", false);
    const std::int32_t known = vocabulary_.find(token.content);
    if (known == kNoToken) {
      last_new = std::max(last_new, token.id);
      ++count;
    }
    QALOF_CHECK(known == kNoToken || known == token.id, ErrorKind::kBadInput,
                "{}: \"{}\" has id {}, the vocabulary says {}", where, shown_token(token.content),
                token.id, known);
    add_token(std::move(token), where);
  }
  // With a hole below them `tokenizers` would assign other ids than the file states.
  QALOF_CHECK(last_new < static_cast<std::int64_t>(count), ErrorKind::kBadInput,
              "{}: holds id {}, but there are {} tokens (ids must be 0..{})", where, last_new,
              count, count - 1);
}

// Everything about the model but its vocabulary and merges, which are read.
void BpeTokenizer::set_model(const Json& model, const std::string& where) {
  ignores_merges_ = is_set(model, "ignore_merges");
  falls_back_to_bytes_ = is_set(model, "byte_fallback");
  if (is_set(model, "unk_token")) {
    const std::string unknown = json_string(model, "unk_token", where + ": model");
    unknown_ = vocabulary_.find(unknown);
    if (const auto added = added_.find(unknown); unknown_ == kNoToken && added != added_.end())
      unknown_ = added->second;
    fuses_unknown_ = is_set(model, "fuse_unk");
  }
  set_pieces(where);
  set_symbols(where);
  build_matchers();
}

void BpeTokenizer::read_tokenizer_json(std::string_view text, const std::string& path) {
  VocabularyReader vocabulary_reader(path, &vocabulary_);
  MergeBuilder builder(vocabulary_, &merges_, path);
  const auto add = [&](std::string_view left, std::string_view right) { builder.add(left, right); };
  MergesReader merges_reader(path, add);
  const JsonPart parts[] = {
      vocabulary_reader.part({"model", "vocab"}),
      merges_reader.part({"model", "merges"}, [&] { return vocabulary_reader.is_complete(); })};
  const Json json = parse_json_parts(text, path, parts);
  QALOF_CHECK(json.is_object() && json.contains("model") && json["model"].is_object(),
              ErrorKind::kBadInput, "{}: model is missing", path);
  const Json& model = json["model"];
  check_model(model, path);
  normalizer_ = Normalizer::read(section(json, "normalizer"), path + ": normalizer");
  pre_tokens_ = PreTokenSteps::read(section(json, "pre_tokenizer"), path + ": pre_tokenizer");
  const Json& decoder = section(json, "decoder");
  // A byte-level file without a decoder means the obvious one.
  if (!decoder.is_null() || !pre_tokens_.is_byte_level()) {
    QALOF_CHECK(!decoder.is_null(), ErrorKind::kUnsupported,
                "{}: decoder is missing, which is implemented with the pre_tokenizer ByteLevel "
                "alone",
                path);
    decoder_ = DecoderSteps::read(decoder, path + ": decoder");
  }
  if (const Json* trimming = find_trimming(json)) {
    trim_.spaces = is_set(*trimming, "trim_offsets");
    trim_.keep_first_leading = is_set(*trimming, "add_prefix_space");
  }
  QALOF_CHECK(model.contains("vocab") && model.contains("merges"), ErrorKind::kBadInput,
              "{}: model.vocab or model.merges is missing", path);
  vocabulary_reader.finish();
  read_added_tokens(section(json, "added_tokens"), path + ": added_tokens");
  set_model(model, path);
  template_ = read_text_template(json, pieces_.size(), path);
  if (!merges_reader.was_read()) {
    // Merges need the vocabulary; where it comes after them, the file is read once more.
    MergesReader second_reader(path, add);
    const JsonPart merges_part[] = {
        second_reader.part({"model", "merges"}, [] { return true; }),
        {{"model", "vocab"}, [](JsonEvent, std::string_view, std::int64_t) {}}};
    parse_json_parts(text, path, merges_part);
    second_reader.finish();
  }
  merges_reader.finish();
  check_reachable(path);
  set_bridges();
}

void BpeTokenizer::read_vocabulary_and_merges(const std::map<std::string, std::string_view>& files,
                                              const std::string& directory) {
  const std::string_view vocabulary_json = files.at("vocab.json"),
                         merges_text = files.at("merges.txt");
  const std::string vocab_path = directory + "/vocab.json", merges_path = directory + "/merges.txt";
  VocabularyReader reader(vocab_path, &vocabulary_);
  const JsonPart whole[] = {reader.part({})};
  parse_json_parts(vocabulary_json, vocab_path, whole);
  reader.finish();
  check_class(files, directory);
  pre_tokens_ = PreTokenSteps(PreTokenizer::kGpt2);
  // These files do not mark special tokens; by convention they are written <|name|>.
  for (std::size_t i = 0; i < vocabulary_.size(); ++i) {
    const std::string_view token = vocabulary_.text(i);
    if (token.size() > 4 && token.starts_with("<|") && token.ends_with("|>"))
      add_token({.content = std::string(token), .id = vocabulary_.id(i)}, vocab_path);
  }
  check_utf8(merges_text, merges_path, ErrorKind::kCorruptFile);
  set_model(Json::object(), vocab_path);
  template_ = read_text_template(
      files, [&](const std::string& token) { return vocabulary_.find(token); }, directory);
  MergeBuilder builder(vocabulary_, &merges_, merges_path);
  parse_merges_text(merges_text, merges_path, [&](std::string_view left, std::string_view right) {
    builder.add(left, right);
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
  QALOF_CHECK(!files.empty() || !path_exists((fs::path(directory) / kSentencePiece).string()),
              ErrorKind::kUnsupported,
              "{}: has {} alone, which is not implemented; transformers writes a tokenizer.json "
              "from it: AutoTokenizer.from_pretrained(\"{}\").save_pretrained(\"{}\")",
              directory, kSentencePiece, directory, directory);
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
