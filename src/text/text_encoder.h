// Texts to the tokens a model sees: a tokenizer and the one policy for special tokens. Everything
// that reads texts for a model goes through this (docs/file_formats.md, "Special tokens").
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "text/bpe_tokenizer.h"
#include "text/text_template.h"

namespace qalof::text {

/// Immutable: threads may share it.
class TextEncoder {
 public:
  /// parse_special: special tokens written in texts count as themselves, not as text.
  explicit TextEncoder(BpeTokenizer tokenizer, bool parse_special = false);

  const BpeTokenizer& tokenizer() const { return tokenizer_; }
  const TextTemplate& text_template() const { return tokenizer_.text_template(); }
  bool parses_special() const { return parse_special_; }

  /// A whole text with what the tokenizer's files put around it; tokens from there have offsets
  /// {0, 0}, as in `tokenizers`.
  Encoding encode(std::string_view text) const;
  /// A text alone, as a part of a longer one.
  Encoding encode_bare(std::string_view text) const;
  /// At most max_tokens tokens of encode, taken away from the end of the text, not from what stands
  /// around it; none where the text has no token of its own. Error{kUsage} where max_tokens leaves
  /// no room for a text. was_cut may be null.
  std::vector<std::int32_t> encode_cut(std::string_view text, std::size_t max_tokens,
                                       bool* was_cut = nullptr) const;

  /// True where it adds nothing and parses nothing.
  bool is_plain() const { return !parse_special_ && text_template() == TextTemplate{}; }
  /// True where a text that encode gave begins with the tokens in front of it once more.
  bool begins_twice(const std::vector<std::int32_t>& ids) const;

  /// {"before": [ids], "after": [ids], "parse_special": false}: what is added to a text, or with
  /// pairs to two, with "between".
  Json description(bool pairs = false) const;

 private:
  BpeTokenizer tokenizer_;
  bool parse_special_;
};

}  // namespace qalof::text
