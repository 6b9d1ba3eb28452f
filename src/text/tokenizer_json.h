// Writes a tokenizer.json that this project and Hugging Face `tokenizers` read to equal ids.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "text/pre_tokenizer.h"

namespace qalof::text {

/// The byte-level step, as pre-tokenizer or decoder. uses_regex: it also splits words as GPT-2
/// does.
Json byte_level_step(bool uses_regex);

/// A BPE taken from another program's file.
struct BpeParts {
  std::vector<std::string_view> tokens;  // by id, as the vocabulary writes them
  std::vector<std::string> merges;       // "a b", best first
  struct Added {
    std::size_t id;
    bool is_special;
  };
  std::vector<Added> added;  // matched in text literally
  // Members of tokenizer.json as they stand there; null: none. steps: its pre_tokenizer.
  Json normalizer, decoder = byte_level_step(true), steps;
  std::optional<PreTokenizer> pre_tokenizer = PreTokenizer::kGpt2;  // where steps is null
  bool ignores_merges = false;          // a word that is a token is taken whole
  bool falls_back_to_bytes = false;     // characters without a token become <0x00> ..
  std::optional<std::size_t> unknown;   // id of the token for characters without one
  std::optional<std::size_t> bos, eos;  // ids of tokens before and after every text
};

/// The text of the file. Error{kBadInput} where a token is not UTF-8 or occurs twice; where names
/// the source in messages.
std::string tokenizer_json(const BpeParts& parts, const std::string& where);

}  // namespace qalof::text
