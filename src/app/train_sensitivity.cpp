#include "app/train_sensitivity.h"

#include <cmath>

#include "app/train_data.h"
#include "core/error.h"
#include "core/file.h"
#include "train/fisher.h"

namespace qalof::app {

namespace {

// A unit's costs are the sums of its linears'.
UnitCost cost_of(const SensitivityUnit& unit, const train::FisherResult& estimates, std::size_t low,
                 int bits) {
  double first = 0, second = 0;
  const auto add = [&](const std::vector<train::FisherEstimate>& linears) {
    for (const std::size_t linear : unit.linears) {
      first += linears[linear].first;
      second += linears[linear].second;
    }
  };
  if (unit.part != Part::kActivations) add(estimates.weights[low]);
  if (unit.part != Part::kWeights) add(estimates.activations[low]);
  UnitCost cost;
  cost.bits = bits;
  cost.score = second;
  cost.first_order = std::abs(first);
  return cost;
}

}  // namespace

SensitivityResult estimate_sensitivity(const SensitivityOptions& options, Observer& observer) {
  QALOF_CHECK(!options.units.kv, ErrorKind::kUnsupported,
              "--kv: K and V are measured, not estimated; expected --by measured");
  QALOF_CHECK(!options.early_stop, ErrorKind::kUsage,
              "--early_stop: there is nothing to stop early, expected --by measured");
  const runtime::Task task = runtime::parse_task(options.task);
  ModelOptions model = options.model;
  model.precision = options.high;
  const ModelHandle handle = open_model(model, observer);
  const text::BpeTokenizer tokenizer = open_tokenizer(handle);
  const std::vector<SensitivityUnit> units = sensitivity_units(*handle.base, options.units);
  const quant::PrecisionPlan plan = high_plan(handle, options.high, options.low, units);

  text::SpanFeatureOptions features = options.data.features;
  if (handle.adapters && handle.adapters->separator)
    features.separator = handle.adapters->separator;
  const std::size_t positions = handle.base->config().max_positions;
  features.max_seq_length = std::min(features.max_seq_length, positions);
  const std::uint64_t samples =
      options.data.max_eval_samples > 0 ? options.data.max_eval_samples : kFisherSamples;
  const std::string& path = options.data.validation_file;
  std::vector<train::Example> examples;
  std::size_t num_labels = 0;
  if (task == runtime::Task::kClassification) {
    const runtime::Head* head =
        runtime::serving_head(*handle.base, handle.adapters.get(), plan.head.value_or(32), task);
    num_labels = head != nullptr ? head->outputs : 0;
    examples =
        load_classification_examples(path, tokenizer, features.max_seq_length, samples, observer);
  } else {
    examples = load_qa_examples(path, tokenizer, features, samples, observer);
  }

  train::FisherInputs inputs;
  inputs.network = {options.model.model, handle.base, handle.adapters, plan};
  inputs.task = task;
  inputs.num_labels = num_labels;
  inputs.low = options.low;
  inputs.on_batch = [&](std::uint64_t windows) {
    observer.progress("windows", windows, examples.size(), "");
    if (options.should_stop && options.should_stop()) fail(ErrorKind::kInterrupted, "stopped");
  };
  ThreadPool pool(choose_threads(options.model.threads));
  const train::FisherResult estimates = train::fisher_estimates(inputs, examples, pool);

  SensitivityResult result = empty_result(options, handle);
  result.by = "fisher";
  result.samples = examples.size();
  result.loss = estimates.loss;
  for (const SensitivityUnit& unit : units) {
    UnitResult& entry = result.units.emplace_back();
    entry.unit = unit;
    for (std::size_t low = 0; low < options.low.size(); ++low)
      entry.costs.push_back(cost_of(unit, estimates, low, options.low[low]));
  }
  finish_result(options, result);
  return result;
}

}  // namespace qalof::app
