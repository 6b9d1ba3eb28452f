// Text from a prompt: for `qalof generate` and for the public library alike.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "app/model_handle.h"
#include "runtime/generator.h"

namespace qalof::app {

struct TextRequest {
  std::string prompt;  // UTF-8; where it has no tokens, the model's bos token begins
  runtime::GenerateOptions generation;
  bool ignore_eos = false;  // continue where the model's eos token comes
};
/// Continues a prompt; tells observer what the tokenizer's template does to it. on_text receives
/// the text as it comes and may end it; it may be null, as may profile. Errors: those of
/// runtime::generate, and Error{kBadInput} for a prompt that is not UTF-8.
runtime::Generation generate_text(const runtime::Execution& execution,
                                  const text::TextEncoder& encoder, const TextRequest& request,
                                  ParallelFor& parallel, const runtime::TextCallback& on_text,
                                  Observer& observer, runtime::Profile* profile = nullptr);

/// Lists what chooses tokens and ends a text, but --seed: commands draw other things by it, too.
void list_generation_options(OptionList& list, runtime::GenerateOptions& options);

struct GenerateOptions : TextRequest {
  ModelOptions model;
  std::uint64_t request = 0;    // random precision: the width is a function of seed and this
  std::string draft_precision;  // in which the model drafts for itself; "" = it does not
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
/// `qalof generate`: opens the model and calls generate_text.
GenerateResult run_generate(const GenerateOptions& options, const runtime::TextCallback& on_text,
                            Observer& observer);

}  // namespace qalof::app
