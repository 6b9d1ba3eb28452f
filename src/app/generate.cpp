// From the prompt to tokens to the generated text.
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
                    "it now appears twice",
                    encoder.tokenizer().decode(encoder.text_template().before)));
  }
  if (!encoder.text_template().after.empty()) {
    observer.warn(fmt::format(
        "--prompt: the tokenizer puts {} after every text, and what is generated follows it",
        encoder.tokenizer().decode(encoder.text_template().after)));
  }
}

}  // namespace

runtime::Generation generate_text(const runtime::Execution& execution,
                                  const text::TextEncoder& encoder, const TextRequest& request,
                                  ParallelFor& parallel, const runtime::TextCallback& on_text,
                                  Observer& observer, runtime::Profile* profile) {
  const model::ModelConfig& config = execution.base().config();
  text::check_utf8(request.prompt, "--prompt");
  std::vector<std::int32_t> prompt = encoder.encode(request.prompt).ids;
  warn_of_prompt(encoder, prompt, observer);
  if (prompt.empty()) prompt.push_back(static_cast<std::int32_t>(config.bos_token_id));
  runtime::GenerateOptions generation = request.generation;
  if (!request.ignore_eos) {
    for (const std::int64_t id : config.eos_token_ids)
      generation.stop_ids.push_back(static_cast<std::int32_t>(id));
  }
  observer.status(fmt::format("reading the prompt of {} tokens", prompt.size()));
  // From then on the text itself shows progress.
  const auto first_ends_status = [&](std::string_view piece) {
    observer.status("");
    return !on_text || on_text(piece);
  };
  runtime::Generation result = runtime::generate(execution, encoder.tokenizer(), prompt, generation,
                                                 parallel, first_ends_status, profile);
  observer.status("");
  return result;
}

GenerateResult run_generate(const GenerateOptions& options, const runtime::TextCallback& on_text,
                            Observer& observer) {
  const ModelHandle handle = open_model(options.model, observer);
  handle.base->require_lm_head();
  const text::TextEncoder encoder = open_encoder(handle, observer);
  text::check_utf8(options.prompt, "--prompt");  // before weights are packed
  ThreadPool pool(choose_threads(options.model.threads));
  const runtime::RequestExecutions executions = make_request_executions(handle, pool, observer);
  const auto execution = executions.of_request(options.request);
  GenerateResult result;
  result.special_tokens = encoder.description();
  result.precision = execution->description();
  if (executions.is_random()) result.random_seed = executions.seed();
  result.lm_head_bits = execution->lm_head_width().bits;
  TextRequest request = options;
  std::shared_ptr<const runtime::Execution> drafting;
  if (!options.draft_precision.empty()) {
    drafting = make_drafting(handle, options.draft_precision, *execution, pool, observer);
    request.generation.drafts.network = drafting.get();
  }
  result.generation = generate_text(*execution, encoder, request, pool, on_text, observer,
                                    options.profile ? &result.profile : nullptr);
  return result;
}

}  // namespace qalof::app
