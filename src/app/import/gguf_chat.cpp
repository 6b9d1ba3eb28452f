// Writes the chat template of a GGUF file as the files of a Hugging Face directory.
#include "app/import/gguf_chat.h"

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "text/chat_template.h"

namespace qalof::app {

std::string write_gguf_chat_template(const io::GgufFile& file, const std::string& directory) {
  constexpr std::size_t kMaxTokens = std::size_t{1} << 24;
  const auto source = file.string("tokenizer.chat_template");
  if (!source || source->empty()) return "";
  const auto tokens = file.strings("tokenizer.ggml.tokens", kMaxTokens);
  Json config = Json::object();
  for (const char* name : {"bos", "eos", "unknown", "padding"}) {
    const auto id = file.integer(fmt::format("tokenizer.ggml.{}_token_id", name), kMaxTokens);
    if (!id || !tokens || *id >= tokens->size()) continue;
    const std::string_view kind = name;
    const std::string key = kind == "unknown" ? "unk" : kind == "padding" ? "pad" : name;
    config[key + "_token"] = std::string((*tokens)[*id]);
  }
  write_file_atomic(directory + "/chat_template.jinja", *source);
  write_file_atomic(directory + "/tokenizer_config.json",
                    dump_json(config, directory + "/tokenizer_config.json", 2) + "\n");
  try {
    text::find_chat_template(directory);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported) throw;
    return fmt::format("the chat template was copied, but this program cannot run it: {}",
                       error.what());
  }
  return "";
}

}  // namespace qalof::app
