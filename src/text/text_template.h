// Special tokens that a tokenizer's files add around texts: begin of text, end of text and the like
// (docs/file_formats.md, "Special tokens").
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/json.h"

namespace qalof::text {

struct TextTemplate {
  std::vector<std::int32_t> before, after;                          // around one text
  std::vector<std::int32_t> pair_before, pair_between, pair_after;  // around a pair of texts

  /// Tokens added to one text.
  std::size_t size() const { return before.size() + after.size(); }
  std::size_t pair_size() const {
    return pair_before.size() + pair_between.size() + pair_after.size();
  }
  friend bool operator==(const TextTemplate&, const TextTemplate&) = default;
};

/// The template of a tokenizer.json's post_processor: TemplateProcessing, RobertaProcessing or
/// BertProcessing, alone or in a Sequence; ByteLevel adds nothing. where names the file.
/// Error{kUnsupported} for any other step, a second template, and texts omitted, repeated or out of
/// order; {kBadInput} for a template not made of texts and tokens, or with tokens that a vocabulary
/// of vocab_size lacks.
TextTemplate read_text_template(const Json& tokenizer_json, std::size_t vocab_size,
                                const std::string& where);

/// The template of a directory without tokenizer.json, by the rules of `transformers`:
/// add_bos_token and add_eos_token of tokenizer_config.json decide whether tokens are added; they
/// are bos_token and eos_token of special_tokens_map.json, else of tokenizer_config.json, else
/// "<|endoftext|>". files: texts by file name; both may be missing. id_of: a token's id, or -1.
/// Error{kCorruptFile}; {kBadInput} for a token that the vocabulary lacks.
TextTemplate read_text_template(const std::map<std::string, std::string_view>& files,
                                const std::function<std::int32_t(const std::string&)>& id_of,
                                const std::string& where);

/// The template with bos before and eos after each text, of a pair too; both may be empty.
TextTemplate text_template_of(const std::vector<std::int32_t>& bos,
                              const std::vector<std::int32_t>& eos);

}  // namespace qalof::text
