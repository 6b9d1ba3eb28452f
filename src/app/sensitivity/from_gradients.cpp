// Runs the Fisher or Hessian estimator and sums its per-linear numbers into unit costs.
#include "app/sensitivity/from_gradients.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/file.h"
#include "core/flag_range.h"
#include "train/fisher.h"
#include "train/hessian.h"
#include "train/phases.h"

namespace qalof::app {

namespace {

// The cost of a unit: the sum of its linears' estimates.
UnitCost fisher_cost(const SensitivityUnit& unit, const train::FisherResult& estimates,
                     std::size_t low, int bits) {
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

// The cost of a unit: the sum of mean trace times squared error over its linears (HAWQ-V2).
UnitCost hessian_cost(const SensitivityUnit& unit, const std::vector<model::LinearSpec>& linears,
                      const train::HessianResult& found, std::size_t low, int bits) {
  double score = 0, trace = 0, squares = 0;
  for (const std::size_t linear : unit.linears) {
    const auto count = static_cast<double>(linears[linear].in * linears[linear].out);
    score += found.traces[linear] / count * found.errors[low][linear];
    trace += found.traces[linear];
    squares += found.trace_errors[linear] * found.trace_errors[linear];
  }
  UnitCost cost;
  cost.bits = bits;
  cost.score = score;
  cost.mean_trace = trace / static_cast<double>(unit.parameters);
  cost.mean_trace_error = std::sqrt(squares) / static_cast<double>(unit.parameters);
  return cost;
}

}  // namespace

SensitivityResult estimate_sensitivity(const SensitivityOptions& options, Observer& observer) {
  QALOF_CHECK(!options.units.kv && !options.units.kv_heads, ErrorKind::kUnsupported,
              "--kv: K and V are measured, not estimated; expected --by measured");
  QALOF_CHECK(!options.early_stop, ErrorKind::kUsage,
              "--early_stop: there is nothing to stop early, expected --by measured");
  const bool is_hessian = options.by == "hessian";
  check_count("--hessian_vectors", options.hessian_vectors);
  QALOF_CHECK(!is_hessian || !options.units.split, ErrorKind::kUnsupported,
              "--split: --by hessian estimates weights alone, expected --by fisher or measured");
  const tasks::Task& task = options.tasks.at(options.task, tasks::Use::kAnalyse);
  ModelOptions model = options.model;
  model.precision = options.high;
  const ModelHandle handle = open_model(model, observer);
  const text::TextEncoder encoder = open_encoder(handle, observer);
  const std::vector<SensitivityUnit> units = sensitivity_units(*handle.base, options.units);
  const quant::PrecisionPlan plan = high_plan(handle, options.high, options.low, units);

  tasks::DataOptions data = options.data;
  if (data.max_samples == 0) data.max_samples = kEstimateSamples;
  observer.status("reading " + data.file);
  const weights::Head* head = runtime::serving_head(*handle.base, handle.adapters.get(),
                                                    plan.head.value_or(32), task.head_kind());
  const bool has_classes = task.head_kind() == weights::HeadKind::kClass;
  const std::size_t num_labels = has_classes && head != nullptr ? head->outputs : 0;
  const std::vector<tasks::Example> examples =
      task.examples(make_reading(handle, encoder, observer), data);

  const std::uint64_t passes = is_hessian ? static_cast<std::uint64_t>(options.hessian_vectors) : 1;
  const auto on_batch = [&](std::uint64_t windows) {
    observer.progress("windows", windows, passes * examples.size(), "");
    if (options.should_stop && options.should_stop()) fail(ErrorKind::kInterrupted, "stopped");
  };
  observer.progress("windows", 0, passes * examples.size(), "");
  const int threads = choose_threads(options.model.threads);
  ThreadPool pool(threads);
  SensitivityResult result = empty_result(options, handle);
  result.special_tokens = encoder.description(task.reads_pairs());
  result.by = is_hessian ? "hessian" : "fisher";
  result.samples = examples.size();
  const auto add_units = [&](const auto& cost_of) {
    for (const SensitivityUnit& unit : units) {
      UnitResult& entry = result.units.emplace_back();
      entry.unit = unit;
      for (std::size_t low = 0; low < options.low.size(); ++low)
        entry.costs.push_back(cost_of(unit, low, options.low[low]));
    }
  };
  if (is_hessian) {
    train::HessianInputs inputs;
    inputs.network = {options.model.model, handle.base, handle.adapters,
                      train::uniform_plan(32, std::nullopt, handle.base->target())};
    inputs.head_kind = task.head_kind();
    inputs.num_labels = num_labels;
    inputs.low = options.low;
    inputs.scheme = plan.scheme;
    inputs.seed = options.seed;
    inputs.vectors = options.hessian_vectors;
    inputs.threads = threads;
    inputs.on_batch = on_batch;
    inputs.group = options.group;
    const train::HessianResult found = train::hessian_traces(inputs, examples, pool);
    result.loss = found.loss;
    add_units([&](const SensitivityUnit& unit, std::size_t low, int bits) {
      return hessian_cost(unit, handle.base->linears(), found, low, bits);
    });
  } else {
    train::FisherInputs inputs;
    inputs.network = {options.model.model, handle.base, handle.adapters, plan};
    inputs.head_kind = task.head_kind();
    inputs.num_labels = num_labels;
    inputs.low = options.low;
    inputs.on_batch = on_batch;
    inputs.group = options.group;
    const train::FisherResult found = train::fisher_estimates(inputs, examples, pool);
    result.loss = found.loss;
    add_units([&](const SensitivityUnit& unit, std::size_t low, int bits) {
      return fisher_cost(unit, found, low, bits);
    });
  }
  finish_result(options, result);
  return result;
}

}  // namespace qalof::app
