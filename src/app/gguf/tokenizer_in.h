// The tokenizer of a GGUF file as files of a Hugging Face directory.
#pragma once

#include <cstddef>
#include <map>
#include <string>

#include "io/gguf.h"

namespace qalof::app {

/// Texts by file name: tokenizer.json, and tokenizer_config.json with the special tokens and the
/// chat template; none for a file that says it has no tokenizer. vocab_size: rows of the embedding.
/// The tokenizer is loaded once, so that an inconsistent one is refused before anything is written.
/// Error{kUnsupported} for other tokenizers than gpt2 (byte-level BPE) and llama (SentencePiece's
/// BPE with scores), {kBadInput}.
std::map<std::string, std::string> tokenizer_files(const io::GgufFile& file,
                                                   std::size_t vocab_size);

}  // namespace qalof::app
