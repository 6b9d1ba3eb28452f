#include "app/eval.h"

#include "core/error.h"
#include "core/file.h"

namespace qalof::app {

EvalResult run_eval(const EvalOptions& options, Observer& observer) {
  const runtime::Task task = runtime::parse_task(options.task);
  QALOF_CHECK(!options.qa.validation_file.empty(), ErrorKind::kUsage,
              "--validation_file is missing");
  QALOF_CHECK(path_exists(options.qa.validation_file), ErrorKind::kNotFound, "{}: no such file",
              options.qa.validation_file);
  const ModelHandle handle = open_model(options.model, observer);
  const text::BpeTokenizer tokenizer = open_tokenizer(handle);
  ThreadPool pool(choose_threads(options.model.threads));
  const auto execution = make_execution(handle, pool, observer);
  EvalResult result;
  result.precision = execution->description();
  result.footprint = runtime::measure_footprint(*execution);
  runtime::Profile* profile = options.profile ? &result.profile : nullptr;
  if (task == runtime::Task::kClassification) {
    ClassificationEvaluationOptions classification;
    classification.validation_file = options.qa.validation_file;
    classification.max_eval_samples = options.qa.max_eval_samples;
    classification.max_seq_length = options.qa.features.max_seq_length;
    classification.output_dir = options.qa.output_dir;
    classification.label_names = label_names(handle, runtime::num_classes(*execution));
    result.classification =
        evaluate_classification(*execution, tokenizer, classification, pool, observer, profile);
    result.tokens_per_second =
        static_cast<double>(result.classification->tokens) / result.classification->seconds;
  } else if (task == runtime::Task::kQa) {
    QaEvaluationOptions qa = options.qa;
    if (handle.adapters && handle.adapters->separator)
      qa.features.separator = handle.adapters->separator;
    result.qa = evaluate_qa(*execution, tokenizer, qa, pool, observer, profile);
    result.tokens_per_second = static_cast<double>(result.qa->tokens) / result.qa->seconds;
  } else {
    LmEvaluationOptions lm = options.lm;
    lm.validation_file = options.qa.validation_file;
    result.lm = evaluate_lm(*execution, tokenizer, lm, pool, observer, profile);
    result.tokens_per_second = static_cast<double>(result.lm->tokens) / result.lm->seconds;
  }
  return result;
}

}  // namespace qalof::app
