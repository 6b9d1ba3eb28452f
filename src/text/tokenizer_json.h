// Writes a tokenizer.json that this project and Hugging Face `tokenizers` read to equal ids.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/pre_tokenizer.h"

namespace qalof::text {

/// A byte-level BPE taken from another program's file.
struct BpeParts {
  std::vector<std::string_view> tokens;  // by id, written in the byte-level alphabet
  std::vector<std::string_view> merges;  // "a b", best first
  struct Added {
    std::size_t id;
    bool is_special;
  };
  std::vector<Added> added;  // matched in text literally
  PreTokenizer pre_tokenizer = PreTokenizer::kGpt2;
  bool ignores_merges = false;
  std::optional<std::size_t> bos, eos;  // ids of tokens before and after every text
};

/// The text of the file. Error{kBadInput} where a token is not UTF-8 or occurs twice; where names
/// the source in messages.
std::string tokenizer_json(const BpeParts& parts, const std::string& where);

}  // namespace qalof::text
