// qalof generate: text from a prompt.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "app/model_handle.h"
#include "runtime/generator.h"

namespace qalof::app {

struct GenerateOptions {
  ModelOptions model;
  std::string prompt;  // UTF-8; where it has no tokens, the model's bos token begins
  runtime::GenerateOptions generation;
  std::uint64_t request = 0;  // random precision: the width is a function of seed and this
  bool ignore_eos = false;    // go on where the model's eos token comes
  bool profile = false;
};
struct GenerateResult {
  runtime::Generation generation;
  std::string precision;                     // effective, in words
  Json special_tokens;                       // text::TextEncoder's description
  std::optional<std::uint64_t> random_seed;  // of the draw
  int lm_head_bits = 0;
  runtime::Profile profile;
};
/// on_text receives the text as it comes and may end it.
GenerateResult run_generate(const GenerateOptions& options, const runtime::TextCallback& on_text,
                            Observer& observer);

}  // namespace qalof::app
