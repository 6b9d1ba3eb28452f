// qalof generate: text from a prompt.
#pragma once

#include <string>

#include "app/model_handle.h"
#include "runtime/generator.h"

namespace qalof::app {

struct GenerateOptions {
  ModelOptions model;
  std::string prompt;  // UTF-8; "" begins with the model's bos token
  runtime::GenerateOptions generation;
  bool ignore_eos = false;  // go on where the model's eos token comes
  bool profile = false;
};
struct GenerateResult {
  runtime::Generation generation;
  std::string precision;  // effective, in words
  int lm_head_bits = 0;
  runtime::Profile profile;
};
/// on_text receives the text as it comes and may end it.
GenerateResult run_generate(const GenerateOptions& options, const runtime::TextCallback& on_text,
                            Observer& observer);

}  // namespace qalof::app
