// A directory's tokenizer as GGUF metadata.
#pragma once

#include <string>

#include "core/progress.h"
#include "io/gguf_write.h"
#include "model/config.h"

namespace qalof::app {

/// Adds tokens, merges or scores, types, special tokens, what is put around texts, and the chat
/// template. A directory without a tokenizer gives a file without one, with a warning. Error
/// {kUnsupported} for a tokenizer that llama.cpp cannot follow: another pre-tokenizer, a template
/// with other tokens than one at each end, a token beyond the embedding; others as
/// text::BpeTokenizer::load.
void add_tokenizer(const std::string& directory, const model::ModelConfig& config,
                   io::GgufMetadata& metadata, Observer& observer);

}  // namespace qalof::app
