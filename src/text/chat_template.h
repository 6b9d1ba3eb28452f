// Conversations as the text and tokens that a model was trained on: its own chat template, found
// beside its tokenizer, rendered as Hugging Face's apply_chat_template renders it
// (https://huggingface.co/docs/transformers/chat_templating), without tools and documents.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "text/bpe_tokenizer.h"
#include "text/jinja/template.h"

namespace qalof::text {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", or what else the template knows
  std::string content;
};

/// Messages of a JSON array: objects with role and content, which is a text or a list of
/// {"type": "text", "text": ...}. where names the array. Error{kBadInput}; {kUnsupported} for other
/// parts, and for members that templates read and this reader does not (tool_calls, ...).
std::vector<ChatMessage> read_chat_messages(const Json& array, const std::string& where);

/// What a template may ask for beside the messages.
struct ChatOptions {
  bool add_generation_prompt = false;  // end with the start of an answer
  /// Further variables by name: {"enable_thinking": false}. Texts, numbers, booleans, null and
  /// lists of them. They replace what the template would see otherwise.
  Json variables = Json::object();
  /// For strftime_now; a template that writes the date is refused without one.
  std::optional<jinja::Moment> now;
};

/// A rendered conversation. Spans are bytes [first, second) of text, in order and apart.
struct RenderedChat {
  using Spans = std::vector<std::pair<std::size_t, std::size_t>>;
  std::string text;
  Spans content;      // written by the messages' contents, not by the template
  Spans answers;      // of them, those of the assistant
  Spans last_answer;  // of them, those of the last message, where that is the assistant's
  Spans generated;    // inside {% generation %}; what is written in loops is put together
  /// True where the template has {% generation %}.
  bool marks_generation = false;
};

/// A model's chat template with its special tokens. Immutable: threads may share it.
class ChatTemplate {
 public:
  /// special_tokens: variables such as bos_token, by name; where names the source in messages.
  /// Error{kBadInput} with the line of what no template may contain, {kUnsupported} naming what is
  /// not implemented (text/jinja/template.h).
  static ChatTemplate parse(std::string_view source,
                            std::map<std::string, std::string> special_tokens = {},
                            const std::string& where = "chat template");

  /// Error{kBadInput} where the template refuses the conversation; a message's texts must be UTF-8.
  std::string render(std::span<const ChatMessage> messages, bool add_generation_prompt) const;
  RenderedChat render_marked(std::span<const ChatMessage> messages,
                             const ChatOptions& options) const;

  const std::string& source() const { return source_; }
  const std::map<std::string, std::string>& special_tokens() const { return special_tokens_; }

 private:
  ChatTemplate(jinja::Template parsed, std::string source,
               std::map<std::string, std::string> special_tokens)
      : template_(std::move(parsed)),
        source_(std::move(source)),
        special_tokens_(std::move(special_tokens)) {}
  jinja::Template template_;
  std::string source_;
  std::map<std::string, std::string> special_tokens_;
};

/// The template among a model's files (texts by name): chat_template.jinja, else chat_template of
/// tokenizer_config.json, which is a text or a list of named ones, of which "default" is taken.
/// Special tokens are those of tokenizer_config.json, else of special_tokens_map.json. nullopt
/// where there is no template. where names the source. Error{kCorruptFile}, {kBadInput},
/// {kUnsupported}.
std::optional<ChatTemplate> find_chat_template(const std::map<std::string, std::string>& files,
                                               const std::string& where);
/// The files of a model's directory that find_chat_template reads, by name.
std::map<std::string, std::string> chat_template_files(const std::string& directory);
/// The same for a model's directory.
std::optional<ChatTemplate> find_chat_template(const std::string& directory);

class TextEncoder;

/// A template for models that have none: each message is its role and content on lines of their
/// own, an answer ends with eos_token.
inline constexpr const char* kPlainChatTemplate =
    "{% for message in messages %}### {{ message.role }}:\n{{ message.content }}"
    "{{ eos_token if message.role == 'assistant' else '' }}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}";

/// The template for a model: choice is a file with one, "plain" for kPlainChatTemplate, or "" for
/// the model's own. Error{kNotFound} where there is none; {kBadInput} where plain needs an end of
/// text that the tokenizer lacks; otherwise as find_chat_template.
ChatTemplate choose_chat_template(const TextEncoder& encoder, const std::string& choice);

/// The start of a day written YYYY-MM-DD; where names it. Error{kUsage}.
jinja::Moment parse_day(const std::string& text, const std::string& where);
/// The clock on the wall, for answers that are given now.
jinja::Moment local_now();

struct ChatTokens {
  std::vector<std::int32_t> ids;
  /// 1 for each token of an answer that a model learns: what is inside {% generation %} where the
  /// template has it, else the contents of the assistant's messages, each up to and with the first
  /// special token after it, which ends the turn. A token that touches an answer belongs to it.
  std::vector<std::uint8_t> is_answer;
  /// The same for the last message alone.
  std::vector<std::uint8_t> is_last_answer;
};

/// Tokens of a rendered conversation: special tokens that the template wrote are tokens, and
/// nothing is added around them (the template writes its own begin of text). Special tokens written
/// in a message are plain text, so that no message can end itself, unless parse_special is set, as
/// apply_chat_template has it.
ChatTokens encode_chat(const BpeTokenizer& tokenizer, const RenderedChat& chat,
                       bool parse_special = false);

/// The token by which the template ends an answer of the assistant; nullopt where it ends with text
/// or cannot write a short conversation.
std::optional<std::int32_t> turn_end(const BpeTokenizer& tokenizer, const ChatTemplate& chat);

}  // namespace qalof::text
