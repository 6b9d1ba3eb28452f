#include "app/generate.h"

#include "core/error.h"

namespace qalof::app {

GenerateResult run_generate(const GenerateOptions& options, const runtime::TextCallback& on_text,
                            Observer& observer) {
  const ModelHandle handle = open_model(options.model, observer);
  handle.base->require_lm_head();
  const text::BpeTokenizer tokenizer = open_tokenizer(handle, &observer);
  const model::ModelConfig& config = handle.base->config();
  std::vector<std::int32_t> prompt = tokenizer.encode(options.prompt).ids;
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
  result.precision = execution->description();
  if (executions.is_random()) result.random_seed = executions.seed();
  result.lm_head_bits = execution->lm_head_width().bits;
  result.generation = runtime::generate(*execution, tokenizer, prompt, generation, pool, on_text,
                                        options.profile ? &result.profile : nullptr);
  return result;
}

}  // namespace qalof::app
