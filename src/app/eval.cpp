#include "app/eval.h"

#include <algorithm>

#include "core/error.h"
#include "core/file.h"

namespace qalof::app {

namespace {

// Random precision needs every width's bytes, and has the mean of their bits.
runtime::Footprint footprint_of(const runtime::RequestExecutions& executions) {
  runtime::Footprint sum;
  for (const auto& execution : executions.set()) {
    const runtime::Footprint one = runtime::measure_footprint(*execution);
    const auto share = 1.0 / static_cast<double>(executions.set().size());
    sum.linear_bytes += one.linear_bytes;
    sum.adapter_bytes += one.adapter_bytes;
    sum.other_bytes = std::max(sum.other_bytes, one.other_bytes);
    sum.bits_per_weight += one.bits_per_weight * share;
    sum.bits_per_activation += one.bits_per_activation * share;
    sum.bits_per_kv += one.bits_per_kv * share;
  }
  sum.total_bytes = sum.linear_bytes + sum.adapter_bytes + sum.other_bytes;
  return sum;
}

RandomDraws draws_of(const runtime::RequestExecutions& executions, std::uint64_t requests) {
  RandomDraws draws;
  draws.seed = executions.seed();
  const std::vector<std::uint64_t> counts = executions.draws(requests);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const runtime::Execution& execution = *executions.set()[i];
    draws.requests[quant::describe(execution.plan(), execution.base().target())] = counts[i];
  }
  return draws;
}

}  // namespace

EvalResult run_eval(const EvalOptions& options, Observer& observer) {
  const weights::Task task = weights::parse_task(options.task);
  QALOF_CHECK(!options.qa.validation_file.empty(), ErrorKind::kUsage,
              "--validation_file is missing");
  QALOF_CHECK(path_exists(options.qa.validation_file), ErrorKind::kNotFound, "{}: no such file",
              options.qa.validation_file);
  const ModelHandle handle = open_model(options.model, observer);
  if (task == weights::Task::kLm) handle.base->require_lm_head();
  const text::TextEncoder encoder = open_encoder(handle, observer);
  ThreadPool pool(choose_threads(options.model.threads));
  const runtime::RequestExecutions executions = make_request_executions(handle, pool, observer);
  std::uint64_t requests = 0;
  EvalResult result;
  result.precision = executions.description();
  result.special_tokens = encoder.description(task == weights::Task::kQa);
  result.footprint = footprint_of(executions);
  runtime::Profile* profile = options.profile ? &result.profile : nullptr;
  if (task == weights::Task::kClassification) {
    ClassificationEvaluationOptions classification;
    classification.validation_file = options.qa.validation_file;
    classification.max_eval_samples = options.qa.max_eval_samples;
    classification.max_seq_length = options.qa.features.max_seq_length;
    classification.output_dir = options.qa.output_dir;
    classification.label_names = label_names(handle, runtime::num_classes(executions.front()));
    result.classification =
        evaluate_classification(executions, encoder, classification, pool, observer, profile);
    requests = result.classification->samples;
    result.tokens_per_second =
        static_cast<double>(result.classification->tokens) / result.classification->seconds;
  } else if (task == weights::Task::kQa) {
    QaEvaluationOptions qa = options.qa;
    if (handle.adapters && handle.adapters->separator)
      qa.features.separator = handle.adapters->separator;
    result.qa = evaluate_qa(executions, encoder, qa, pool, observer, profile);
    requests = result.qa->samples;
    result.tokens_per_second = static_cast<double>(result.qa->tokens) / result.qa->seconds;
  } else {
    LmEvaluationOptions lm = options.lm;
    lm.validation_file = options.qa.validation_file;
    result.lm = evaluate_lm(executions, encoder, lm, pool, observer, profile);
    requests = result.lm->windows;
    result.tokens_per_second = static_cast<double>(result.lm->tokens) / result.lm->seconds;
  }
  if (executions.is_random()) result.draws = draws_of(executions, requests);
  return result;
}

}  // namespace qalof::app
