// Finds, renders and encodes chat templates.
#include "text/chat_template.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <ctime>

#include "core/error.h"
#include "core/file.h"
#include "text/text_encoder.h"
#include "text/unicode.h"

namespace qalof::text {

namespace chat_template_file {

constexpr std::size_t kMaxFileBytes = std::size_t{64} << 20;

// Marks of a rendered byte: what wrote it.
enum Mark : unsigned char { kContent = 1, kAnswer = 2, kLastAnswer = 4, kGenerated = 8 };

using Spans = RenderedChat::Spans;

Spans spans_of(const std::string& marks, unsigned char mark) {
  Spans spans;
  for (std::size_t i = 0; i < marks.size(); ++i) {
    if ((static_cast<unsigned char>(marks[i]) & mark) == 0) continue;
    if (!spans.empty() && spans.back().second == i) {
      ++spans.back().second;
    } else {
      spans.emplace_back(i, i + 1);
    }
  }
  return spans;
}

// A message's content: a text, or parts of text one after the other.
std::string content_text(const Json& content, const std::string& where) {
  if (content.is_string()) return content.get<std::string>();
  QALOF_CHECK(content.is_array(), ErrorKind::kBadInput,
              "{}: content: found {}, expected a string or a list of parts", where,
              content.type_name());
  std::string text;
  for (const Json& part : content) {
    const std::string place = where + ": content";
    QALOF_CHECK(part.is_object(), ErrorKind::kBadInput, "{}: found a part that is no object",
                place);
    const std::string type = json_string(part, "type", place);
    QALOF_CHECK(type == "text", ErrorKind::kUnsupported,
                "{}: parts of type {} are not implemented, only text", place, type);
    text += json_string(part, "text", place);
  }
  return text;
}

// A template's text as a token: "<s>", or {"content": "<s>", ...}.
std::optional<std::string> token_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value["content"].is_string())
    return value["content"].get<std::string>();
  return std::nullopt;
}

std::map<std::string, std::string> special_tokens_of(const Json& config, const Json& map) {
  std::map<std::string, std::string> tokens;
  static constexpr std::array<const char*, 7> kNames = {
      "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
  for (const char* name : kNames) {
    for (const Json* source : {&config, &map}) {
      if (!source->is_object() || !source->contains(name)) continue;
      if (const auto text = token_text((*source)[name])) {
        tokens.emplace(name, *text);
        break;
      }
    }
  }
  return tokens;
}

// JSON text in which whole numbers that may not fit 64 bits are numbers with an exponent:
// transformers writes 1000000000000000019884624838656 as the length of a model without one.
std::string with_large_numbers(std::string_view text) {
  constexpr std::size_t kDigits = 18;  // these always fit
  std::string result;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (in_string || c < '0' || c > '9') {
      if (c == '"') in_string = !in_string;
      result += c;
      ++i;
      if (in_string && c == '\\' && i < text.size()) result += text[i++];
      continue;
    }
    const std::size_t end = std::min(text.find_first_not_of("0123456789", i), text.size());
    result += text.substr(i, end - i);
    const char next = end < text.size() ? text[end] : '\0';
    if (end - i > kDigits && next != '.' && next != 'e' && next != 'E') result += "e0";
    i = end;
  }
  return result;
}

Json json_of(const std::map<std::string, std::string>& files, const std::string& name,
             const std::string& where) {
  const auto found = files.find(name);
  if (found == files.end()) return Json();
  return parse_json(with_large_numbers(found->second), where + "/" + name);
}

std::map<std::string, std::string> special_tokens_of(
    const std::map<std::string, std::string>& files, const std::string& where) {
  return special_tokens_of(json_of(files, "tokenizer_config.json", where),
                           json_of(files, "special_tokens_map.json", where));
}

// The text of tokenizer_config.json's chat_template, if it has one.
std::optional<std::string> template_in(const Json& config, const std::string& where) {
  if (!config.is_object() || !config.contains("chat_template") || config["chat_template"].is_null())
    return std::nullopt;
  const Json& value = config["chat_template"];
  if (value.is_string()) return value.get<std::string>();
  QALOF_CHECK(value.is_array(), ErrorKind::kBadInput,
              "{}: chat_template: found {}, expected a string or a list of named templates", where,
              value.type_name());
  std::string names;
  for (const Json& entry : value) {
    QALOF_CHECK(entry.is_object() && entry.contains("name") && entry["name"].is_string() &&
                    entry.contains("template") && entry["template"].is_string(),
                ErrorKind::kBadInput,
                "{}: chat_template: an entry of the list is no object with name and template",
                where);
    if (entry["name"] == "default") return entry["template"].get<std::string>();
    names += (names.empty() ? "" : ", ") + entry["name"].get<std::string>();
  }
  if (value.size() == 1) return value[0]["template"].get<std::string>();
  fail(ErrorKind::kBadInput,
       "{}: chat_template: found the templates {}, expected one named default", where,
       names.empty() ? "(none)" : names);
}

// Bytes [first, second) of an answer extended to the end of the special token that follows it, if
// one comes before the next message's content.
Spans with_turn_ends(const RenderedChat& chat, const Spans& answers,
                     const std::map<std::string, std::int32_t>& added) {
  Spans extended = answers;
  for (auto& [first, last] : extended) {
    const auto next =
        std::upper_bound(chat.content.begin(), chat.content.end(), last,
                         [](std::size_t end, const auto& span) { return end < span.second; });
    std::size_t limit = next == chat.content.end() ? chat.text.size() : std::max(next->first, last);
    const std::string_view between = std::string_view(chat.text).substr(last, limit - last);
    std::size_t best = between.npos, size = 0;
    for (const auto& [token, id] : added) {
      if (token.empty()) continue;
      const std::size_t found = between.find(token);
      if (found < best || (found == best && found != between.npos && token.size() > size)) {
        best = found;
        size = token.size();
      }
    }
    if (best != between.npos) last += best + size;
  }
  return extended;
}

// Marks the tokens that touch spans. ends: the byte after each token.
std::vector<std::uint8_t> tokens_in(const Spans& spans, const std::vector<std::size_t>& starts,
                                    const std::vector<std::size_t>& ends) {
  std::vector<std::uint8_t> marks(starts.size(), 0);
  std::size_t span = 0;
  for (std::size_t i = 0; i < starts.size(); ++i) {
    while (span < spans.size() && spans[span].second <= starts[i]) ++span;
    if (span < spans.size() && starts[i] < spans[span].second && ends[i] > spans[span].first)
      marks[i] = 1;
  }
  return marks;
}

// Pieces of the text between special tokens that the template wrote, and those tokens.
struct Piece {
  std::size_t first, last;  // bytes
  std::int32_t token;       // -1: text
};
std::vector<Piece> pieces_of(const RenderedChat& chat,
                             const std::map<std::string, std::int32_t>& added) {
  std::vector<Piece> pieces;
  std::size_t start = 0, span = 0;
  const std::string_view text = chat.text;
  for (std::size_t i = 0; i < text.size();) {
    while (span < chat.content.size() && chat.content[span].second <= i) ++span;
    if (span < chat.content.size() && chat.content[span].first <= i) {
      i = chat.content[span].second;
      continue;
    }
    const std::size_t limit = span < chat.content.size() ? chat.content[span].first : text.size();
    const std::pair<const std::string, std::int32_t>* best = nullptr;
    for (const auto& token : added) {
      if (token.first.empty() || i + token.first.size() > limit) continue;
      if (best != nullptr && token.first.size() <= best->first.size()) continue;
      if (text.compare(i, token.first.size(), token.first) == 0) best = &token;
    }
    if (best == nullptr) {
      ++i;
      continue;
    }
    if (i > start) pieces.push_back({start, i, -1});
    pieces.push_back({i, i + best->first.size(), best->second});
    i += best->first.size();
    start = i;
  }
  if (start < text.size()) pieces.push_back({start, text.size(), -1});
  return pieces;
}

// True where a content holds one of the tokens, or touches one that is half the template's.
bool has_token_in_content(const RenderedChat& chat,
                          const std::map<std::string, std::int32_t>& added) {
  return std::any_of(added.begin(), added.end(), [&](const auto& token) {
    if (token.first.empty()) return false;
    for (std::size_t i = chat.text.find(token.first); i != chat.text.npos;
         i = chat.text.find(token.first, i + 1)) {
      const std::size_t end = i + token.first.size();
      const auto next =
          std::upper_bound(chat.content.begin(), chat.content.end(), i,
                           [](std::size_t place, const auto& span) { return place < span.second; });
      if (next != chat.content.end() && next->first < end) return true;
    }
    return false;
  });
}

}  // namespace chat_template_file

std::vector<ChatMessage> read_chat_messages(const Json& array, const std::string& where) {
  QALOF_CHECK(array.is_array(), ErrorKind::kBadInput, "{}: found {}, expected an array of messages",
              where, array.type_name());
  std::vector<ChatMessage> messages;
  messages.reserve(array.size());
  for (std::size_t i = 0; i < array.size(); ++i) {
    const std::string place = fmt::format("{}: message {}", where, i + 1);
    const Json& entry = array[i];
    QALOF_CHECK(entry.is_object(), ErrorKind::kBadInput, "{}: found {}, expected an object", place,
                entry.type_name());
    for (const char* name : {"tool_calls", "function_call", "tool_call_id", "reasoning_content"}) {
      QALOF_CHECK(!entry.contains(name) || entry[name].is_null() || entry[name].empty(),
                  ErrorKind::kUnsupported, "{}: {} is not implemented", place, name);
    }
    ChatMessage& message = messages.emplace_back();
    message.role = json_string(entry, "role", place);
    QALOF_CHECK(entry.contains("content"), ErrorKind::kBadInput, "{}: content is missing", place);
    message.content = chat_template_file::content_text(entry["content"], place);
  }
  return messages;
}

ChatTemplate ChatTemplate::parse(std::string_view source,
                                 std::map<std::string, std::string> special_tokens,
                                 const std::string& where) {
  return {jinja::Template::parse(source, where), std::string(source), std::move(special_tokens)};
}

std::string ChatTemplate::render(std::span<const ChatMessage> messages,
                                 bool add_generation_prompt) const {
  ChatOptions options;
  options.add_generation_prompt = add_generation_prompt;
  return render_marked(messages, options).text;
}

RenderedChat ChatTemplate::render_marked(std::span<const ChatMessage> messages,
                                         const ChatOptions& options) const {
  using chat_template_file::Mark;
  std::vector<jinja::Value> list;
  list.reserve(messages.size());
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    check_utf8(message.role, "a message's role");
    check_utf8(message.content, "a message's content");
    unsigned char mark = Mark::kContent;
    if (message.role == "assistant") {
      mark |= Mark::kAnswer;
      if (i + 1 == messages.size()) mark |= Mark::kLastAnswer;
    }
    list.emplace_back(jinja::make_dict(
        {{jinja::Value::of_text("role"), jinja::Value::of_text(message.role)},
         {jinja::Value::of_text("content"), jinja::Value(jinja::Text(message.content, mark))}}));
  }
  std::map<std::string, jinja::Value, std::less<>> variables;
  variables["messages"] = jinja::make_list(std::move(list));
  variables["add_generation_prompt"] = options.add_generation_prompt;
  variables["tools"] = jinja::None{};
  variables["documents"] = jinja::None{};
  for (const auto& [name, token] : special_tokens_) variables[name] = jinja::Value::of_text(token);
  for (const auto& [name, value] : options.variables.items()) {
    try {
      variables[name] = jinja::Value::of_json(value);
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("the template variable {}: {}", name, error.what()));
    }
  }
  jinja::Text text = template_.render(variables, options.now, Mark::kGenerated);
  RenderedChat chat;
  chat.text = std::move(text.bytes);
  chat.content = chat_template_file::spans_of(text.marks, Mark::kContent);
  chat.answers = chat_template_file::spans_of(text.marks, Mark::kAnswer);
  chat.last_answer = chat_template_file::spans_of(text.marks, Mark::kLastAnswer);
  chat.generated = chat_template_file::spans_of(text.marks, Mark::kGenerated);
  chat.marks_generation = template_.marks_generation();
  return chat;
}

std::optional<ChatTemplate> find_chat_template(const std::map<std::string, std::string>& files,
                                               const std::string& where) {
  const Json config = chat_template_file::json_of(files, "tokenizer_config.json", where);
  std::string source, name;
  if (const auto own = files.find("chat_template.jinja"); own != files.end()) {
    source = own->second;
    name = where + "/chat_template.jinja";
  } else {
    name = where + "/tokenizer_config.json";
    auto inside = chat_template_file::template_in(config, name);
    if (!inside) return std::nullopt;
    source = std::move(*inside);
    name += ": chat_template";
  }
  return ChatTemplate::parse(source, chat_template_file::special_tokens_of(files, where), name);
}

std::map<std::string, std::string> chat_template_files(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const char* name :
       {"chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json"}) {
    const std::string path = directory + "/" + name;
    if (path_exists(path)) files[name] = read_file(path, chat_template_file::kMaxFileBytes);
  }
  return files;
}

std::optional<ChatTemplate> find_chat_template(const std::string& directory) {
  return find_chat_template(chat_template_files(directory), directory);
}

ChatTokens encode_chat(const BpeTokenizer& tokenizer, const RenderedChat& chat,
                       bool parse_special) {
  const std::map<std::string, std::int32_t>& added = tokenizer.added_tokens();
  ChatTokens tokens;
  std::vector<std::size_t> starts, ends;
  const auto append = [&](std::size_t first, std::size_t last, bool special) {
    const std::string_view text = std::string_view(chat.text).substr(first, last - first);
    const Encoding encoding = tokenizer.encode(text, special);
    const std::vector<std::size_t> bytes = code_point_offsets(text);
    for (const auto& [start, end] : encoding.offsets) {
      starts.push_back(first + bytes[start]);
      ends.push_back(first + bytes[end]);
    }
    tokens.ids.insert(tokens.ids.end(), encoding.ids.begin(), encoding.ids.end());
  };
  if (parse_special || !chat_template_file::has_token_in_content(chat, added)) {
    append(0, chat.text.size(), true);
  } else {
    for (const auto& piece : chat_template_file::pieces_of(chat, added)) {
      if (piece.token < 0) {
        append(piece.first, piece.last, false);
      } else {
        tokens.ids.push_back(piece.token);
        starts.push_back(piece.first);
        ends.push_back(piece.last);
      }
    }
  }
  const auto mark = [&](const RenderedChat::Spans& spans) {
    return chat_template_file::tokens_in(spans, starts, ends);
  };
  if (chat.marks_generation) {
    tokens.is_answer = mark(chat.generated);
    RenderedChat::Spans last;
    if (!chat.generated.empty() && !chat.last_answer.empty()) last.push_back(chat.generated.back());
    tokens.is_last_answer = mark(last);
  } else {
    tokens.is_answer = mark(chat_template_file::with_turn_ends(chat, chat.answers, added));
    tokens.is_last_answer = mark(chat_template_file::with_turn_ends(chat, chat.last_answer, added));
  }
  return tokens;
}

std::optional<std::int32_t> turn_end(const BpeTokenizer& tokenizer, const ChatTemplate& chat) {
  const ChatMessage messages[] = {{"user", "a"}, {"assistant", "b"}};
  ChatOptions options;
  options.now = jinja::Moment{};
  RenderedChat rendered;
  try {
    rendered = chat.render_marked(messages, options);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInternal) throw;
    return std::nullopt;
  }
  const ChatTokens tokens = encode_chat(tokenizer, rendered);
  for (std::size_t i = tokens.ids.size(); i > 0; --i) {
    if (tokens.is_answer[i - 1] == 0) continue;
    const auto& added = tokenizer.added_tokens();
    const bool is_added = std::any_of(added.begin(), added.end(), [&](const auto& token) {
      return token.second == tokens.ids[i - 1];
    });
    return is_added ? std::optional(tokens.ids[i - 1]) : std::nullopt;
  }
  return std::nullopt;
}

ChatTemplate choose_chat_template(const TextEncoder& encoder, const std::string& choice) {
  const std::map<std::string, std::string>& files = encoder.chat_files();
  const std::string& where = encoder.chat_files_source();
  if (choice.empty()) {
    auto own = find_chat_template(files, where);
    QALOF_CHECK(own.has_value(), ErrorKind::kNotFound,
                "{}: holds no chat template (chat_template.jinja, or chat_template in "
                "tokenizer_config.json); --chat_template FILE or --chat_template plain gives one",
                where);
    return std::move(*own);
  }
  auto tokens = chat_template_file::special_tokens_of(files, where);
  if (choice != "plain")
    return ChatTemplate::parse(read_file(choice, std::size_t{1} << 20), std::move(tokens), choice);
  if (!tokens.contains("eos_token") && encoder.tokenizer().added_tokens().contains("<|endoftext|>"))
    tokens["eos_token"] = "<|endoftext|>";
  QALOF_CHECK(tokens.contains("eos_token"), ErrorKind::kBadInput,
              "--chat_template plain: {} names no eos_token, which would end an answer", where);
  return ChatTemplate::parse(kPlainChatTemplate, std::move(tokens), "--chat_template plain");
}

jinja::Moment parse_day(const std::string& text, const std::string& where) {
  jinja::Moment day;
  const bool fits = text.size() == 10 && text[4] == '-' && text[7] == '-';
  const auto number = [&](std::size_t first, std::size_t count, int* value) {
    const char* end = text.data() + first + count;
    const auto read = std::from_chars(text.data() + first, end, *value);
    return read.ec == std::errc{} && read.ptr == end;
  };
  QALOF_CHECK(fits && number(0, 4, &day.year) && number(5, 2, &day.month) &&
                  number(8, 2, &day.day) && day.year >= 1 && day.month >= 1 && day.month <= 12 &&
                  day.day >= 1 && day.day <= 31,
              ErrorKind::kUsage, "{}: found {}, expected a day as 2025-01-31", where, text);
  return day;
}

jinja::Moment local_now() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  return {local.tm_year + 1900, local.tm_mon + 1, local.tm_mday,
          local.tm_hour,        local.tm_min,     local.tm_sec};
}

}  // namespace qalof::text
