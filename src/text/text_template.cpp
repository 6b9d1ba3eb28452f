// Reads template tokens from tokenizer.json's post_processor or from tokenizer_config.json and
// special_tokens_map.json.
#include "text/text_template.h"

#include <optional>
#include <string_view>

#include "core/error.h"
#include "core/json_stream.h"

namespace qalof::text {

namespace {

constexpr std::size_t kMaxTokens = 1000;
constexpr const char* kConfig = "tokenizer_config.json";
constexpr const char* kSpecialTokens = "special_tokens_map.json";

using Ids = std::vector<std::int32_t>;

// An object's only member, or null.
const Json* only_member(const Json& piece, std::string* name) {
  if (!piece.is_object() || piece.size() != 1) return nullptr;
  *name = piece.begin().key();
  return &piece.begin().value();
}

// Reads the two templates of a TemplateProcessing.
class TemplateReader {
 public:
  TemplateReader(const Json& processor, std::size_t vocab_size, std::string where)
      : processor_(processor), vocab_size_(vocab_size), where_(std::move(where)) {}

  // Tokens before, between and after the texts of order ("A" or "AB").
  std::vector<Ids> read(const char* key, std::string_view order) const {
    const std::string at = where_ + "." + key;
    const auto pieces = processor_.find(key);
    QALOF_CHECK(pieces != processor_.end() && pieces->is_array(), ErrorKind::kBadInput,
                "{}: is missing or no list", at);
    std::vector<Ids> parts(1);
    for (const Json& piece : *pieces) {
      std::string kind;
      const Json* value = only_member(piece, &kind);
      const bool is_text = value != nullptr && kind == "Sequence";
      QALOF_CHECK(is_text || (value != nullptr && kind == "SpecialToken"), ErrorKind::kUnsupported,
                  "{}: found {:.60}, implemented are Sequence and SpecialToken", at, piece.dump());
      const std::string id = json_string(*value, "id", at);
      if (is_text) {
        const std::size_t next = parts.size() - 1;
        QALOF_CHECK(next < order.size() && id == order.substr(next, 1), ErrorKind::kUnsupported,
                    "{}: found text {:.40} at place {}, expected the order {}", at, id, next + 1,
                    order);
        parts.emplace_back();
      } else {
        add(id, at, &parts.back());
      }
    }
    QALOF_CHECK(parts.size() == order.size() + 1, ErrorKind::kUnsupported,
                "{}: holds {} texts, implemented is the order {}", at, parts.size() - 1, order);
    return parts;
  }

 private:
  void add(const std::string& token, const std::string& at, Ids* ids) const {
    const auto tokens = processor_.find("special_tokens");
    const bool is_known =
        tokens != processor_.end() && tokens->is_object() && tokens->contains(token);
    QALOF_CHECK(is_known, ErrorKind::kBadInput, "{}: \"{:.60}\" does not stand in special_tokens",
                at, token);
    const Json& entry = (*tokens)[token];
    QALOF_CHECK(entry.is_object() && entry.contains("ids") && entry["ids"].is_array(),
                ErrorKind::kBadInput, "{}: \"{:.60}\" has no list of ids in special_tokens", at,
                token);
    for (const Json& id : entry["ids"]) {
      QALOF_CHECK(id.is_number_integer() && id >= 0 && id < vocab_size_, ErrorKind::kBadInput,
                  "{}: \"{:.60}\" has id {:.40}, the vocabulary has 0..{}", at, token, id.dump(),
                  vocab_size_ - 1);
      QALOF_CHECK(ids->size() < kMaxTokens, ErrorKind::kBadInput, "{}: over {} tokens", at,
                  kMaxTokens);
      ids->push_back(id.get<std::int32_t>());
    }
  }

  const Json& processor_;
  std::size_t vocab_size_;
  std::string where_;
};

// Reads ["<s>", 0] of BertProcessing and RobertaProcessing.
std::int32_t named_token(const Json& processor, const char* key, std::size_t vocab_size,
                         const std::string& where) {
  const auto token = processor.find(key);
  const bool is_token = token != processor.end() && token->is_array() && token->size() == 2 &&
                        (*token)[1].is_number_integer() && (*token)[1] >= 0 &&
                        (*token)[1] < vocab_size;
  QALOF_CHECK(is_token, ErrorKind::kBadInput,
              "{}.{}: expected a token and its id, 0..{} (the vocabulary)", where, key,
              vocab_size - 1);
  return (*token)[1].get<std::int32_t>();
}

// The template of one step; nullopt where it adds no tokens.
std::optional<TextTemplate> template_of_step(const Json& step, std::size_t vocab_size,
                                             const std::string& where) {
  QALOF_CHECK(step.is_object(), ErrorKind::kBadInput, "{}: found {:.60}, expected an object", where,
              step.dump());
  const std::string type = json_string(step, "type", where);
  if (type == "ByteLevel") return std::nullopt;
  if (type == "TemplateProcessing") {
    const TemplateReader reader(step, vocab_size, where);
    const std::vector<Ids> single = reader.read("single", "A"), pair = reader.read("pair", "AB");
    return TextTemplate{single[0], single[1], pair[0], pair[1], pair[2]};
  }
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    const std::int32_t cls = named_token(step, "cls", vocab_size, where),
                       sep = named_token(step, "sep", vocab_size, where);
    const Ids between(type == "BertProcessing" ? 1 : 2, sep);
    return TextTemplate{{cls}, {sep}, {cls}, between, {sep}};
  }
  fail(ErrorKind::kUnsupported,
       "{}: is {:.40}, implemented are ByteLevel, TemplateProcessing, BertProcessing, "
       "RobertaProcessing and a Sequence of them",
       where, type);
}

// One of the tokenizer's small files; null where it is missing. Numbers of any size are accepted,
// since none is used (model_max_length is often 10^30).
Json read_config(const std::map<std::string, std::string_view>& files, const char* name,
                 const std::string& where) {
  const auto file = files.find(name);
  if (file == files.end()) return {};
  const std::string path = where + "/" + name;
  const JsonPart unused[] = {
      {{"model_max_length"}, [](JsonEvent, std::string_view, std::int64_t) {}}};
  Json json = parse_json_parts(file->second, path, unused);
  QALOF_CHECK(json.is_object(), ErrorKind::kBadInput, "{}: is no object", path);
  return json;
}

// A token's text, given as a string or as an object with "content"; nullopt for null.
std::optional<std::string> token_text(const Json& token, const std::string& where) {
  if (token.is_null()) return std::nullopt;
  if (token.is_object()) return json_string(token, "content", where);
  QALOF_CHECK(token.is_string(), ErrorKind::kBadInput, "{}: found {:.60}, expected a token", where,
              token.dump());
  return token.get<std::string>();
}

}  // namespace

TextTemplate text_template_of(const Ids& bos, const Ids& eos) {
  Ids between = eos;
  between.insert(between.end(), bos.begin(), bos.end());
  return {bos, eos, bos, between, eos};
}

TextTemplate read_text_template(const Json& tokenizer_json, std::size_t vocab_size,
                                const std::string& where) {
  const auto post = tokenizer_json.find("post_processor");
  if (post == tokenizer_json.end() || post->is_null()) return {};
  const std::string at = where + ": post_processor";
  const bool is_sequence = post->is_object() && post->value("type", Json()) == "Sequence";
  if (!is_sequence) return template_of_step(*post, vocab_size, at).value_or(TextTemplate{});
  const auto steps = post->find("processors");
  QALOF_CHECK(steps != post->end() && steps->is_array(), ErrorKind::kBadInput,
              "{}.processors: is missing or no list", at);
  std::optional<TextTemplate> found;
  for (std::size_t i = 0; i < steps->size(); ++i) {
    const std::string step = fmt::format("{}.processors[{}]", at, i);
    std::optional<TextTemplate> one = template_of_step((*steps)[i], vocab_size, step);
    QALOF_CHECK(!one || !found, ErrorKind::kUnsupported,
                "{}: is a second step that adds tokens, implemented is one", step);
    if (one) found = std::move(one);
  }
  return found.value_or(TextTemplate{});
}

TextTemplate read_text_template(const std::map<std::string, std::string_view>& files,
                                const std::function<std::int32_t(const std::string&)>& id_of,
                                const std::string& where) {
  const Json config = read_config(files, kConfig, where);
  const Json special = read_config(files, kSpecialTokens, where);
  const auto added = [&](const char* flag, const char* name) -> Ids {
    const Json& wanted = config.is_object() && config.contains(flag) ? config[flag] : Json();
    QALOF_CHECK(wanted.is_null() || wanted.is_boolean(), ErrorKind::kBadInput,
                "{}/{}: {} is {:.40}, expected true or false", where, kConfig, flag, wanted.dump());
    if (wanted.is_null() || !wanted.get<bool>()) return {};
    std::optional<std::string> token = "<|endoftext|>";
    const char* source = kConfig;
    for (const auto& [json, file] : {std::pair{&config, kConfig}, {&special, kSpecialTokens}}) {
      if (!json->is_object() || !json->contains(name)) continue;
      token = token_text((*json)[name], fmt::format("{}/{}: {}", where, file, name));
      source = file;
    }
    if (!token) return {};
    const std::int32_t id = id_of(*token);
    QALOF_CHECK(id >= 0, ErrorKind::kBadInput,
                "{}/{}: {} is \"{:.60}\", which the vocabulary lacks", where, source, name, *token);
    return {id};
  };
  return text_template_of(added("add_bos_token", "bos_token"), added("add_eos_token", "eos_token"));
}

}  // namespace qalof::text
