// Pre-tokenizers of tokenizer.json and llama.cpp's names of them.
#pragma once

#include <string>
#include <string_view>

#include "core/json.h"

namespace qalof::app {

/// The name (tokenizer.ggml.pre) of what a byte-level tokenizer.json does before merges.
/// Error{kUnsupported} where llama.cpp has none. where is the file's path.
std::string pre_tokenizer_name(const Json& tokenizer_json, const std::string& where);

/// The pre-tokenizer that a name stands for.
struct PreTokenizerParts {
  Json step;                    // of tokenizer.json
  bool ignores_merges = false;  // a word that is a token is taken whole
  bool adds_bos = false;        // llama.cpp's default
};
/// Error{kUnsupported} for other names, listing those that are known.
PreTokenizerParts pre_tokenizer_parts(std::string_view name, const std::string& where);

}  // namespace qalof::app
