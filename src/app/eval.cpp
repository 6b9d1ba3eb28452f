// Opens what is scored and runs the task. See eval.h.
#include "app/eval.h"

#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "runtime/classifier.h"

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

EvalResult run_eval(const EvalOptions& options, const Processes& processes) {
  Observer& observer = processes.observer();
  const tasks::Task& task = options.tasks.at(options.task, tasks::Use::kScore);
  const std::string& file = options.data.file;
  QALOF_CHECK(!file.empty(), ErrorKind::kUsage, "--validation_file is missing");
  QALOF_CHECK(path_exists(file), ErrorKind::kNotFound, "{}: no such file", file);
  ModelOptions model = options.model;
  model.shared_memory = processes.shared_memory();
  if (processes.group() != nullptr && !model.random_seed) {
    model.random_seed =
        std::stoull(processes.of_leader([] { return std::to_string(quant::system_seed()); }));
  }
  const ModelHandle handle = open_model(model, observer);
  check_same_inputs(processes, handle, "validation_file", file);
  if (task.head_kind() == weights::HeadKind::kLm) handle.base->require_lm_head();
  const text::TextEncoder encoder = open_encoder(handle, observer);
  ThreadPool pool(choose_threads(options.model.threads));
  const runtime::RequestExecutions executions = make_request_executions(handle, pool, observer);
  EvalResult result;
  result.precision = executions.description();
  result.special_tokens = encoder.description(task.reads_pairs());
  result.footprint = footprint_of(executions);
  tasks::Evaluation run{make_reading(handle, encoder, observer), executions, pool};
  if (options.profile) run.profile = &result.profile;
  if (task.head_kind() == weights::HeadKind::kClass)
    run.label_names = label_names(handle, runtime::num_classes(executions.front()));
  result.scores = processes.evaluate(task, run, options.data);
  if (executions.is_random()) result.draws = draws_of(executions, result.scores.requests);
  return result;
}

}  // namespace qalof::app
