// Times training steps on random windows or on those of a file. See bench.h.
#include "app/train/bench.h"

#include "app/bench.h"
#include "app/train/processes.h"
#include "core/error.h"
#include "core/flag_range.h"
#include "core/random.h"
#include "core/statistics.h"
#include "kernels/isa.h"
#include "tasks/qa/qa.h"
#include "train/trainer.h"

namespace qalof::app {

namespace {

std::vector<train::Example> random_windows(std::size_t count, std::size_t tokens,
                                           std::size_t vocabulary) {
  const RandomStream random(1, "bench");
  std::vector<train::Example> examples(count);
  for (std::size_t w = 0; w < count; ++w) {
    for (std::size_t i = 0; i < tokens; ++i)
      examples[w].ids.push_back(static_cast<std::int32_t>(random.below(vocabulary, w, i)));
    examples[w].start = static_cast<std::int32_t>(random.below(tokens, w, tokens));
    examples[w].end = static_cast<std::int32_t>(random.below(tokens, w, tokens + 1));
  }
  return examples;
}

void check(const TrainBenchOptions& options, std::size_t positions) {
  check_count("--repeats", options.repeats);
  QALOF_CHECK(options.batch >= 1 && options.batch <= 1024, ErrorKind::kUsage,
              "--batch: found {}, expected 1..1024", options.batch);
  QALOF_CHECK(options.tokens >= 2 && options.tokens <= positions, ErrorKind::kUsage,
              "--seq: found {}, expected 2..{} (the model's positions)", options.tokens, positions);
}

}  // namespace

namespace {

TrainBenchResult bench_among(const Processes& processes, const TrainBenchOptions& options) {
  Observer& observer = processes.observer();
  const ModelHandle handle = open_model(options.model, observer);
  const model::ModelConfig& config = handle.base->config();
  check(options, config.max_positions);
  std::vector<train::Example> examples;
  if (options.train_file.empty()) {
    examples = random_windows(options.batch, options.tokens, config.vocab_size);
  } else {
    tasks::DataOptions data;
    data.file = options.train_file;
    data.max_seq_length = std::min<std::size_t>(options.tokens, config.max_positions);
    data.max_samples = 64 * options.batch;
    tasks::Qa qa;
    qa.doc_stride = std::min(qa.doc_stride, *data.max_seq_length / 3);
    const text::TextEncoder encoder = open_encoder(handle, observer);
    examples = qa.examples(make_reading(handle, encoder, observer), data);
  }
  train::TrainOptions train = options.train;
  train.method = train::Method::kLora;
  train.plan = quant::resolve(handle.plan, handle.base->target());
  QALOF_CHECK(options.batch % processes.count() == 0, ErrorKind::kUsage,
              "--batch: found {}, expected a multiple of the {} processes", options.batch,
              processes.count());
  train.schedule.batch_size = options.batch / processes.count();
  train.schedule.max_steps = options.repeats + 1;
  train.schedule.warmup_steps = 0;
  train.threads = choose_threads(options.model.threads);
  train::TrainHooks hooks;
  hooks.observer = &observer;
  hooks.group = processes.group();
  const train::TrainResult run = train::train(handle.base, train, examples, hooks);

  TrainBenchResult result;
  result.precision = run.phases.front().precision;
  result.threads = train.threads;
  result.processes = processes.count();
  result.rank = processes.rank();
  result.isa = kernels::to_string(kernels::active_isa());
  result.steps.assign(run.phases.front().steps.begin() + 1, run.phases.front().steps.end());
  std::vector<double> seconds, speeds;
  for (const train::StepRecord& step : result.steps) {
    result.tokens += step.tokens;
    seconds.push_back(step.times.total());
    speeds.push_back(static_cast<double>(step.tokens) / step.times.total());
  }
  result.seconds = median(seconds);
  result.tokens_per_second = median(speeds);
  processes.wait_for_all();
  return result;
}

}  // namespace

TrainBenchResult run_train_bench(const TrainBenchOptions& given, Observer& observer) {
  TrainBenchOptions options = given;
  const Processes processes = connect_processes({}, options.model.threads, observer);
  options.model.shared_memory = processes.shared_memory();
  TrainBenchResult result;
  run_together(processes, [&] {
    count_micro_batches(processes, options.model.threads, options.train.schedule);
    result = bench_among(processes, options);
  });
  return result;
}

}  // namespace qalof::app
