// Files of conversations: JSON Lines in the forms that instruction data comes in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_template.h"

namespace qalof::tasks {

/// One line of a file: messages, or a text as it is.
struct Conversation {
  std::vector<text::ChatMessage> messages;  // empty: text
  std::string text;
  std::size_t line = 0;          // from 1
  std::size_t read = 0, of = 0;  // bytes of the file up to the line's end, and of all of it
};

/// Parses one line, which is an object with one of
///   {"messages": [{"role": "user", "content": "..."}, ...]}
///   {"conversations": [{"from": "human", "value": "..."}, ...]}, "system" beside it or not
///   {"prompt": ..., "completion": ...}: two texts, or two lists of messages
///   {"instruction": "...", "input": "...", "output": "..."}: input may be missing
///   {"text": "..."}
/// Other members are passed over. where names file and line. Error{kBadInput}, {kCorruptFile},
/// {kUnsupported} (text::read_chat_messages).
Conversation parse_conversation(std::string_view line, const std::string& where);

struct ConversationCounts {
  std::uint64_t lines = 0;  // that are not blank
  std::uint64_t bad = 0;    // that were passed over
  std::string first_bad;    // what was wrong with the first of them
};
/// Calls take with each conversation of a file until it says false. Memory does not grow with the
/// file. skips_bad: lines that cannot be read are counted and passed over. Error{kNotFound}; that
/// of a line without skips_bad, which names file and line; {kBadInput} for a file without
/// conversation.
ConversationCounts read_conversations(const std::string& path, bool skips_bad,
                                      const std::function<bool(Conversation&&)>& take);

}  // namespace qalof::tasks
