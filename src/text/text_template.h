// Special tokens that a tokenizer's own files put around texts: begin of text, end of text and the
// like (docs/file_formats.md, "Special tokens").
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/json.h"

namespace qalof::text {

struct TextTemplate {
  std::vector<std::int32_t> before, after;                          // of one text
  std::vector<std::int32_t> pair_before, pair_between, pair_after;  // of a text and a second

  /// Of one text.
  std::size_t size() const { return before.size() + after.size(); }
  std::size_t pair_size() const {
    return pair_before.size() + pair_between.size() + pair_after.size();
  }
  friend bool operator==(const TextTemplate&, const TextTemplate&) = default;
};

/// What the post_processor of a tokenizer.json adds: TemplateProcessing, RobertaProcessing or
/// BertProcessing, alone or in a Sequence; ByteLevel adds nothing. where names the file.
/// Error{kUnsupported} names any other step, a second template, and texts that are left out,
/// repeated or out of order; {kBadInput} for a template that is not made of texts and tokens, or
/// that has tokens which a vocabulary of vocab_size lacks.
TextTemplate read_text_template(const Json& tokenizer_json, std::size_t vocab_size,
                                const std::string& where);

/// What a directory without tokenizer.json adds, as `transformers` reads it: add_bos_token and
/// add_eos_token of tokenizer_config.json (texts by file name; both may be missing) decide, and
/// bos_token and eos_token of special_tokens_map.json, else of tokenizer_config.json, else
/// "<|endoftext|>", are the tokens. Error{kCorruptFile}; {kBadInput} for a token that the
/// vocabulary lacks.
TextTemplate read_text_template(const std::map<std::string, std::string_view>& files,
                                const std::map<std::string, std::int32_t>& vocabulary,
                                const std::string& where);

/// What add_bos_token and add_eos_token add, and of pairs the same around each text; none: nothing.
TextTemplate text_template_of(const std::vector<std::int32_t>& bos,
                              const std::vector<std::int32_t>& eos);

}  // namespace qalof::text
