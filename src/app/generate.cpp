#include "app/generate.h"

#include "core/error.h"
#include "text/unicode.h"

namespace qalof::app {

namespace {

void warn_of_prompt(const text::TextEncoder& encoder, const std::vector<std::int32_t>& prompt,
                    Observer& observer) {
  if (encoder.begins_twice(prompt)) {
    observer.warn(
        fmt::format("--prompt: begins with {}, which the tokenizer puts before every text, so that "
                    "it now stands twice",
                    encoder.tokenizer().decode(encoder.text_template().before)));
  }
  if (!encoder.text_template().after.empty()) {
    observer.warn(fmt::format(
        "--prompt: the tokenizer puts {} behind every text, and what is generated follows it",
        encoder.tokenizer().decode(encoder.text_template().after)));
  }
}

}  // namespace

GenerateResult run_generate(const GenerateOptions& options, const runtime::TextCallback& on_text,
                            Observer& observer) {
  const ModelHandle handle = open_model(options.model, observer);
  handle.base->require_lm_head();
  const text::TextEncoder encoder = open_encoder(handle, observer);
  const model::ModelConfig& config = handle.base->config();
  text::check_utf8(options.prompt, "--prompt");
  std::vector<std::int32_t> prompt = encoder.encode(options.prompt).ids;
  warn_of_prompt(encoder, prompt, observer);
  if (prompt.empty()) prompt.push_back(static_cast<std::int32_t>(config.bos_token_id));
  runtime::GenerateOptions generation = options.generation;
  if (!options.ignore_eos) {
    for (const std::int64_t id : config.eos_token_ids)
      generation.stop_ids.push_back(static_cast<std::int32_t>(id));
  }
  ThreadPool pool(choose_threads(options.model.threads));
  const runtime::RequestExecutions executions = make_request_executions(handle, pool, observer);
  const auto execution = executions.of_request(options.request);
  GenerateResult result;
  result.special_tokens = encoder.description();
  result.precision = execution->description();
  if (executions.is_random()) result.random_seed = executions.seed();
  result.lm_head_bits = execution->lm_head_width().bits;
  // The text tells of itself.
  observer.status(fmt::format("reading the prompt of {} tokens", prompt.size()));
  const auto first_ends_status = [&](std::string_view piece) {
    observer.status("");
    return !on_text || on_text(piece);
  };
  result.generation =
      runtime::generate(*execution, encoder.tokenizer(), prompt, generation, pool,
                        first_ends_status, options.profile ? &result.profile : nullptr);
  observer.status("");
  return result;
}

}  // namespace qalof::app
