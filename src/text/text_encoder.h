// Encodes texts into the tokens that a model reads: a tokenizer plus the one policy for special
// tokens. All texts for a model pass through it (docs/file_formats.md, "Special tokens").
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"
#include "text/bpe_tokenizer.h"
#include "text/text_template.h"

namespace qalof::text {

/// Immutable: threads may share it.
class TextEncoder {
 public:
  /// parse_special: special tokens written in texts become their ids instead of plain text.
  explicit TextEncoder(BpeTokenizer tokenizer, bool parse_special = false);

  const BpeTokenizer& tokenizer() const { return tokenizer_; }
  const TextTemplate& text_template() const { return tokenizer_.text_template(); }
  bool parses_special() const { return parse_special_; }

  /// Files that may hold a chat template, by name, and what they are from: what
  /// choose_chat_template reads (text/chat_template.h).
  void set_chat_files(std::map<std::string, std::string> files, std::string source) {
    chat_files_ = std::move(files);
    chat_files_source_ = std::move(source);
  }
  const std::map<std::string, std::string>& chat_files() const { return chat_files_; }
  const std::string& chat_files_source() const { return chat_files_source_; }

  /// A whole text with the template's tokens around it; those have offsets {0, 0}, as in
  /// `tokenizers`.
  Encoding encode(std::string_view text) const;
  /// A text without template, as part of a longer one.
  Encoding encode_bare(std::string_view text) const;
  /// encode cut to max_tokens tokens, by dropping tokens from the end of the text, never from the
  /// template; empty where the text has no tokens of its own. Error{kUsage} where max_tokens leaves
  /// no room for a text. was_cut may be null.
  std::vector<std::int32_t> encode_cut(std::string_view text, std::size_t max_tokens,
                                       bool* was_cut = nullptr) const;

  /// True where the template is empty and special tokens are not parsed.
  bool is_plain() const { return !parse_special_ && text_template() == TextTemplate{}; }
  /// True where encoded text begins with the template's leading tokens twice.
  bool begins_twice(const std::vector<std::int32_t>& ids) const;

  /// {"before": [ids], "after": [ids], "parse_special": false}: the tokens added to a single text;
  /// with pairs those of a pair, with "between".
  Json description(bool pairs = false) const;

 private:
  BpeTokenizer tokenizer_;
  bool parse_special_;
  std::map<std::string, std::string> chat_files_;
  std::string chat_files_source_;
};

}  // namespace qalof::text
