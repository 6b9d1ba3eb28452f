// What a GGUF file says about conversations, as the files of a Hugging Face directory.
#pragma once

#include <string>

#include "io/gguf.h"

namespace qalof::app {

/// Writes chat_template.jinja (tokenizer.chat_template) and tokenizer_config.json (the texts of the
/// special tokens that templates use) into a directory; nothing where the file has no template.
/// Warns through the result, one sentence or "", where this program cannot run the template.
/// Error{kBadInput} for metadata of another type or a template that is not UTF-8.
std::string write_gguf_chat_template(const io::GgufFile& file, const std::string& directory);

}  // namespace qalof::app
