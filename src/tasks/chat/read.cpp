// Reads conversations line by line. See read.h.
#include "tasks/chat/read.h"

#include <algorithm>
#include <array>

#include "core/byte_order_mark.h"
#include "core/error.h"
#include "core/file.h"

namespace qalof::tasks {

namespace chat_read_file {

constexpr std::size_t kMaxLineBytes = std::size_t{16} << 20;
// Pages of the file that were read are given back after so many bytes.
constexpr std::size_t kReleaseBytes = std::size_t{8} << 20;
constexpr const char* kExpected =
    "messages, conversations, prompt and completion, instruction and output, or text";

bool has(const Json& json, const char* name) {
  return json.contains(name) && !json[name].is_null();
}

// A text that may be missing.
std::string optional_text(const Json& json, const char* name, const std::string& where) {
  return has(json, name) ? json_string(json, name, where) : "";
}

// ShareGPT's names of who speaks.
std::string role_of(const std::string& from, const std::string& where) {
  static constexpr std::array<std::pair<std::string_view, const char*>, 9> kRoles = {
      {{"human", "user"},
       {"user", "user"},
       {"gpt", "assistant"},
       {"assistant", "assistant"},
       {"chatgpt", "assistant"},
       {"bard", "assistant"},
       {"model", "assistant"},
       {"bing", "assistant"},
       {"system", "system"}}};
  for (const auto& [name, role] : kRoles) {
    if (name == from) return role;
  }
  fail(ErrorKind::kBadInput, "{}: from: found {}, expected human, gpt or system", where, from);
}

std::vector<text::ChatMessage> read_turns(const Json& turns, const std::string& where) {
  QALOF_CHECK(turns.is_array(), ErrorKind::kBadInput,
              "{}: conversations: found {}, expected a list", where, turns.type_name());
  std::vector<text::ChatMessage> messages;
  for (std::size_t i = 0; i < turns.size(); ++i) {
    const std::string place = fmt::format("{}: conversations: turn {}", where, i + 1);
    QALOF_CHECK(turns[i].is_object(), ErrorKind::kBadInput, "{}: found {}, expected an object",
                place, turns[i].type_name());
    if (!turns[i].contains("from")) return text::read_chat_messages(turns, where);
    messages.push_back({role_of(json_string(turns[i], "from", place), place),
                        json_string(turns[i], "value", place)});
  }
  return messages;
}

std::vector<text::ChatMessage> read_side(const Json& side, const char* role,
                                         const std::string& where) {
  if (side.is_string()) return {{role, side.get<std::string>()}};
  return text::read_chat_messages(side, where);
}

std::string members_of(const Json& json) {
  std::string names;
  for (const auto& [name, value] : json.items()) {
    names += (names.empty() ? "" : ", ") + name;
    if (names.size() > 200) return names.substr(0, 200) + " ...";
  }
  return names.empty() ? "no members" : names;
}

}  // namespace chat_read_file

Conversation parse_conversation(std::string_view line, const std::string& where) {
  using namespace chat_read_file;
  QALOF_CHECK(line.size() <= kMaxLineBytes, ErrorKind::kBadInput,
              "{}: {} bytes, expected at most {}", where, line.size(), kMaxLineBytes);
  const Json json = parse_json(line, where);
  QALOF_CHECK(json.is_object(), ErrorKind::kBadInput, "{}: found {}, expected an object with {}",
              where, json.type_name(), kExpected);
  Conversation conversation;
  std::vector<text::ChatMessage>& messages = conversation.messages;
  if (has(json, "messages")) {
    messages = text::read_chat_messages(json["messages"], where + ": messages");
  } else if (has(json, "conversations")) {
    messages = read_turns(json["conversations"], where);
    const std::string system = optional_text(json, "system", where);
    if (!system.empty()) messages.insert(messages.begin(), {"system", system});
  } else if (has(json, "prompt") && has(json, "completion")) {
    messages = read_side(json["prompt"], "user", where + ": prompt");
    for (text::ChatMessage& message :
         read_side(json["completion"], "assistant", where + ": completion"))
      messages.push_back(std::move(message));
  } else if (has(json, "instruction") && has(json, "output")) {
    const std::string input = optional_text(json, "input", where);
    const std::string system = optional_text(json, "system", where);
    if (!system.empty()) messages.push_back({"system", system});
    messages.push_back(
        {"user", json_string(json, "instruction", where) + (input.empty() ? "" : "\n\n" + input)});
    messages.push_back({"assistant", json_string(json, "output", where)});
  } else if (has(json, "text")) {
    conversation.text = json_string(json, "text", where);
    return conversation;
  } else {
    fail(ErrorKind::kBadInput, "{}: found {}, expected {}", where, members_of(json), kExpected);
  }
  QALOF_CHECK(!messages.empty(), ErrorKind::kBadInput, "{}: the conversation has no messages",
              where);
  return conversation;
}

ConversationCounts read_conversations(const std::string& path, bool skips_bad,
                                      const std::function<bool(Conversation&&)>& take) {
  const MappedFile file = MappedFile::open(path);
  const std::span<const std::byte> bytes = file.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  ConversationCounts counts;
  std::size_t number = 0, released = 0, read = 0;
  for (std::size_t first = byte_order_mark(text, path); first < text.size();) {
    const std::size_t end = std::min(text.find('\n', first), text.size());
    const std::string_view line = text.substr(first, end - first);
    first = end + 1;
    ++number;
    if (first - released > chat_read_file::kReleaseBytes && first < text.size()) {
      file.release(bytes.subspan(released, first - released));
      released = first;
    }
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    ++counts.lines;
    Conversation conversation;
    try {
      conversation = parse_conversation(line, fmt::format("{}: line {}", path, number));
    } catch (const Error& error) {
      if (!skips_bad || error.kind() == ErrorKind::kInternal) throw;
      if (counts.bad++ == 0) counts.first_bad = error.what();
      continue;
    }
    conversation.line = number;
    conversation.read = std::min(first, text.size());
    conversation.of = text.size();
    ++read;
    if (!take(std::move(conversation))) break;
  }
  QALOF_CHECK(read > 0, ErrorKind::kBadInput, "{}: holds no conversation{}", path,
              counts.bad > 0 ? fmt::format(" that can be read, and {} lines that cannot: {}",
                                           counts.bad, counts.first_bad)
                             : "");
  return counts;
}

}  // namespace qalof::tasks
