// Opens what a run needs, trains, scores and writes. See run.h.
#include "app/train/run.h"

#include <bit>
#include <filesystem>
#include <optional>

#include "app/hub.h"
#include "app/train/checkpoint.h"
#include "app/train/data.h"
#include "app/train/log.h"
#include "app/train/output.h"
#include "app/train/processes.h"
#include "app/train/resume.h"
#include "app/train/teacher.h"
#include "core/error.h"
#include "core/file.h"
#include "train/memory.h"
#include "train/phases.h"
#include "train/schedule.h"
#include "train/step_plan.h"
#include "train/trainer.h"

namespace qalof::app {

namespace fs = std::filesystem;

namespace {

constexpr const char* kRangeTest = "range_test";

// What no other check below sees before the first file is written.
void check_numbers(const TrainRunOptions& options) {
  const train::TrainOptions& train = options.train;
  QALOF_CHECK(train.schedule.learning_rate > 0, ErrorKind::kUsage,
              "--learning_rate: found {}, expected a positive number",
              train.schedule.learning_rate);
  QALOF_CHECK(train.logging.logging_steps >= 1, ErrorKind::kUsage,
              "--logging_steps: found {}, expected at least 1", train.logging.logging_steps);
  const std::size_t least = task_of(options).least_length();
  QALOF_CHECK(options.max_seq_length >= least, ErrorKind::kUsage,
              "--max_seq_length: found {}, expected at least {}", options.max_seq_length, least);
  QALOF_CHECK(options.train_file != kTrainFileSelf || options.self_tokens >= 1, ErrorKind::kUsage,
              "--self_tokens: found 0, expected at least 1");
}

void check_options(const TrainRunOptions& options) {
  QALOF_CHECK(!options.train.widths.find_min_bits || options.train.method == train::Method::kCpt,
              ErrorKind::kUsage, "--min_bits auto: is for --method cpt, found {}",
              train::to_string(options.train.method));
  for (const auto& [value, flag] :
       {std::pair{&options.train_file, "--train_file"}, {&options.output_dir, "--output_dir"}}) {
    QALOF_CHECK(!value->empty(), ErrorKind::kUsage, "{} is missing", flag);
  }
  const bool is_self = options.train_file == kTrainFileSelf;
  QALOF_CHECK(!is_self || task_of(options).head_kind() == weights::HeadKind::kLm, ErrorKind::kUsage,
              "--train_file self: a model writes text for --task lm and chat alone");
  if (is_self) task_of(options).check_without_file();
  for (const std::string& file : {options.train_file, options.validation_file}) {
    QALOF_CHECK(file.empty() || (is_self && file == options.train_file) || fs::exists(file),
                ErrorKind::kNotFound, "{}: no such file", file);
  }
  QALOF_CHECK(fs::is_directory(options.model.model),
              fs::exists(options.model.model) ? ErrorKind::kUsage : ErrorKind::kNotFound,
              "{}: training needs a model directory with float weights", options.model.model);
  check_numbers(options);
  for (const std::string& read : {options.model.model, options.teacher}) {
    QALOF_CHECK(options.train.method != train::Method::kFull || read.empty() ||
                    !is_same_file(options.output_dir, read),
                ErrorKind::kUsage, "--output_dir {}: is {}, which the run reads; choose another",
                options.output_dir, read);
  }
}

// Scores a network under training or at its end, on the packed runtime.
class Scorer {
 public:
  Scorer(const TrainRunOptions& options, std::shared_ptr<const weights::BaseModel> base,
         const text::TextEncoder& encoder, const Processes& processes)
      : options_(options),
        base_(std::move(base)),
        encoder_(encoder),
        processes_(processes),
        pool_(choose_threads(options.model.threads)) {}

  WidthScore score(const train::TrainedWeights& weights, const quant::PrecisionPlan& plan,
                   int width) {
    const auto base = weights.tensors.empty() ? base_ : train::make_base(*base_, weights.tensors);
    const auto adapters = weights.adapters.empty() ? nullptr : train::make_adapter_set(weights);
    const auto execution = runtime::Execution::create(base, plan, adapters, pool_);
    WidthScore score;
    score.width = width;
    score.precision = execution->description();
    tasks::DataOptions data;
    data.file = options_.validation_file;
    data.max_samples = options_.max_eval_samples;
    data.max_seq_length = options_.max_seq_length;
    const runtime::RequestExecutions executions(*execution);
    score.scores = processes_.evaluate(
        task_of(options_),
        {{encoder_, base->config().max_positions, processes_.observer()}, executions, pool_}, data);
    return score;
  }

 private:
  const TrainRunOptions& options_;
  std::shared_ptr<const weights::BaseModel> base_;
  const text::TextEncoder& encoder_;
  const Processes& processes_;
  ThreadPool pool_;
};

std::string score_text(const WidthScore& score) {
  return fmt::format("{} ({})", tasks::to_text(score.scores, ", ", /*with_counts=*/false),
                     score.precision);
}

void choose_labels(TrainRunOptions& options, const ModelHandle& handle, Observer& observer) {
  const auto classes = task_of(options).classes(options.train_file, options.validation_file);
  if (!classes) return;
  options.train.num_labels = classes->count;
  options.label_names = classes->names;
  const std::optional<weights::Head>& own = handle.base->class_head();
  if (own && own->outputs != classes->count) {
    observer.info(fmt::format("{}: its head of {} classes is left, {} has {}: a fresh one trains",
                              handle.base->path(), own->outputs, options.train_file,
                              classes->count));
  }
}

// Optimizer steps of all phases. Error{kUsage} for a length that cannot be.
std::int64_t count_steps(const train::TrainOptions& options, const quant::PlanTarget& target,
                         const train::Windows& examples) {
  std::int64_t steps = 0;
  for (const train::Phase& phase : train::make_phases(options, target)) {
    const std::int64_t of_phase = train::steps_of_phase(options, phase, examples);
    if (phase.walk == train::Walk::kCyclic) train::check_cycles(options, of_phase);
    steps += of_phase;
  }
  return steps;
}

// Scores that are not finite say of which point of the run they are.
template <typename Work>
auto in_place(const std::string& place, const Work& work) {
  try {
    return work();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kDiverged) throw;
    fail(ErrorKind::kDiverged, "{}: {}", place, error.what());
  }
}

// What a run that diverged leaves.
std::string left_text(const std::string& output_dir) {
  const std::vector<io::CheckpointDir> checkpoints = io::list_checkpoints(output_dir);
  if (checkpoints.empty()) return "no weights are written";
  return fmt::format(
      "no weights are written but those of its checkpoints, the newest of which is {}",
      checkpoints.front().path);
}

}  // namespace

Json to_json(const TrainRunResult& result) {
  Json phases = Json::array(), last_loss;
  std::int64_t skipped = 0;
  // There is none where no step counts.
  const auto loss_json = [](double loss, std::int64_t steps) {
    return steps > 0 ? Json(loss) : Json();
  };
  for (const train::PhaseHistory& phase : result.train.phases) {
    Json networks = Json::array();
    for (const train::NetworkHistory& network : phase.networks) {
      networks.push_back({{"name", network.network},
                          {"steps", network.steps},
                          {"skipped_steps", network.steps - network.counted_steps},
                          {"tokens", network.tokens},
                          {"train_loss", loss_json(network.train_loss, network.counted_steps)}});
    }
    const std::int64_t counted =
        static_cast<std::int64_t>(phase.steps.size()) - phase.skipped_steps;
    skipped += phase.skipped_steps;
    last_loss = loss_json(phase.train_loss, counted);
    phases.push_back({{"name", phase.name},
                      {"precision", phase.precision},
                      {"train_loss", last_loss},
                      {"steps", phase.steps.size()},
                      {"skipped_steps", phase.skipped_steps},
                      {"tokens", phase.tokens},
                      {"seconds", phase.seconds},
                      {"networks", networks}});
  }
  Json json = {{"train_loss", last_loss},
               {"steps", result.train.steps},
               {"skipped_steps", skipped},
               {"tokens", result.train.tokens},
               {"tokens_per_second", result.train.tokens_per_second},
               {"phases", phases},
               {"special_tokens", result.special_tokens},
               {"output_dir", result.output_dir},
               {"interrupted", result.train.interrupted}};
  if (result.range_test) json["range_test"] = to_json(*result.range_test);
  Json eval = Json::array();
  for (const WidthScore& score : result.scores) eval.push_back(score_json(score));
  if (!eval.empty()) json["eval"] = eval;
  return json;
}

namespace {

// Beside what the run writes; other processes than the first may be on another machine, where that
// directory is not.
std::string place_of_windows(const TrainRunOptions& options) {
  const std::string directory = is_directory(options.output_dir)
                                    ? options.output_dir
                                    : std::filesystem::temp_directory_path().string();
  return directory + "/windows";
}

TrainRunResult run_among(const Processes& processes, TrainRunOptions& options) {
  Observer& observer = processes.observer();
  options.model.model = local_path(options.model.model, io::HubUse::kModel, observer);
  options.adapter = local_path(options.adapter, io::HubUse::kAdapter, observer);
  options.teacher = local_path(options.teacher, io::HubUse::kAny, observer);
  check_options(options);
  const tasks::Task& task = task_of(options);
  options.train.head_kind = task.head_kind();
  const ModelHandle handle = open_model(options.model, observer);
  const model::ModelConfig& config = handle.base->config();
  if (options.train.head_kind == weights::HeadKind::kLm) handle.base->require_lm_head();
  const text::TextEncoder encoder = open_encoder(handle, observer);
  if (!options.model.precision.empty())
    options.train.plan = quant::resolve(handle.plan, handle.base->target());
  options.train.scheme = *handle.plan.scheme;
  options.train.threads = choose_threads(options.model.threads);
  options.train.teacher_self = options.teacher == kTeacherSelf;
  if (!options.adapter.empty()) options.train.start = open_start(options, handle, observer);
  if (!options.teacher.empty() && !options.train.teacher_self)
    options.train.teacher = open_teacher(options, handle, observer);
  if (options.max_seq_length > config.max_positions) {
    observer.info(fmt::format("windows of {} tokens: the model has {} positions",
                              config.max_positions, config.max_positions));
    options.tasks.fit(config.max_positions);
    options.max_seq_length = config.max_positions;
  }
  task.check_length(options.max_seq_length);
  if (options.train.widths.find_min_bits)
    options.train.widths.min_bits = train::kFewestBits;  // until it is known
  choose_labels(options, handle, observer);
  // Flags that contradict each other are refused before anything is written.
  train::check_options(options.train, handle.base->target());
  const Json special_tokens = encoder.description(task.reads_pairs());
  observer.status("reading " + options.train_file);
  Json identity = run_identity(options, handle, encoder);
  if (!encoder.is_plain()) identity["special_tokens"] = special_tokens;
  processes.check_same(identity, identity_difference);
  RunDirectory directory(options, identity, processes);
  const bool writes_text = options.train_file == kTrainFileSelf;
  if (writes_text) directory.claim(identity);  // its text is written there
  if (writes_text && !processes.lead()) processes.wait_for_all();
  tasks::WindowFile examples(place_of_windows(options));
  load_windows(options, handle, encoder, observer, examples);
  if (writes_text && processes.lead()) processes.wait_for_all();
  observer.status("");
  const std::size_t tokens = examples.tokens(), longest = examples.longest();
  const std::string what =
      options.train.num_labels > 0
          ? fmt::format("{} texts, {} classes", examples.size(), options.train.num_labels)
          : fmt::format("{} windows", examples.size());
  observer.info(
      fmt::format("{}: {}, {} tokens, mean {:.0f}, longest {}", options.train_file, what, tokens,
                  static_cast<double>(tokens) / static_cast<double>(examples.size()), longest));
  const ResumePoint* resume = directory.resume() ? &*directory.resume() : nullptr;
  TrainRunResult result;
  result.output_dir = options.output_dir;
  result.rank = processes.rank();
  result.special_tokens = special_tokens;
  train::TrainHooks hooks;
  hooks.observer = &observer;
  hooks.should_stop = options.should_stop;
  hooks.group = options.group;
  if (options.train.widths.find_min_bits) {
    result.range_test = resume != nullptr
                            ? read_range_test(resume->identity.value(kRangeTest, Json::object()),
                                              resume->checkpoint.path + "/" + kRunFile)
                            : train::find_min_bits(handle.base, options.train, examples, hooks);
    options.train.widths.min_bits = result.range_test->min_bits;
    identity[kRangeTest] = to_json(*result.range_test);
    observer.info(fmt::format("range test: --min_bits {}", options.train.widths.min_bits));
  }
  observer.info(
      fmt::format("memory estimate {:.0f} MB",
                  static_cast<double>(train::estimate_training_bytes(
                      config, train::with_batches(examples.size(), options.train), longest)) /
                      1e6));

  Scorer scorer(options, handle.base, encoder, processes);
  const std::int64_t max_steps = count_steps(options.train, handle.base->target(), examples);
  std::optional<RunLog> log;
  hooks.on_gradients = options.on_gradients;
  hooks.resume = resume != nullptr ? &resume->state : nullptr;
  if (processes.lead()) {
    hooks.on_begin = [&] {
      directory.claim(identity);
      log.emplace(options, examples.size(), max_steps, resume);
    };
    hooks.on_step = [&](const train::StepRecord& record) {
      log->add(record);
      if (options.on_step) options.on_step(record);
    };
    hooks.on_save = [&](const train::Checkpoint& point) {
      log->sync();
      save_checkpoint(options, handle, identity, point, log->trainer_state());
      observer.info(fmt::format("checkpoint after step {}", point.global_step));
    };
  }
  if (!options.validation_file.empty()) {
    auto score = [&](const train::Checkpoint& point, bool at_phase_end) {
      const train::TrainedWeights weights = point.weights();
      std::vector<WidthScore> scores;
      for (const quant::PrecisionPlan* plan : point.plans) {
        scores.push_back(in_place(fmt::format("phase {} step {}", point.phase, point.step), [&] {
          return scorer.score(weights, *plan, plan->default_width.bits);
        }));
        observer.info(
            fmt::format("{} step {}: {}", point.phase, point.step, score_text(scores.back())));
      }
      if (log) log->add(point, scores, at_phase_end);
    };
    hooks.on_eval = [score](const train::Checkpoint& point) { score(point, false); };
    hooks.on_phase_end = [score](const train::Checkpoint& point) { score(point, true); };
  }
  try {
    result.train = train::train(handle.base, options.train, examples, hooks);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kDiverged) throw;
    if (log) log->sync();
    fail(ErrorKind::kDiverged, "{}; {}", error.what(), left_text(options.output_dir));
  }
  if (processes.lead()) {
    result.scores = log->phase_scores();
    observer.status("writing " + options.output_dir);
    write_training_output(options, handle, result, log->trainer_state());
    observer.status("");
  }
  processes.wait_for_all();
  return result;
}

// A launcher starts the same command on the processes that are left, or on more. A step then keeps
// the micro-batches it had, and each process gets more or fewer of them.
void keep_micro_batches(const Processes& processes, TrainRunOptions& options) {
  std::size_t& total = options.train.schedule.gradient_accumulation_steps;
  const std::size_t stored = std::stoul(processes.of_leader([&] {
    return std::to_string(
        options.overwrite_output_dir
            ? 0
            : stored_micro_batches(options.output_dir, options.micro_batches_each));
  }));
  const std::size_t count = processes.count();
  if (stored == 0 || stored == total || stored % count != 0) return;
  if (count > 1 && !std::has_single_bit(stored / count)) return;
  total = stored;
  processes.observer().info(
      fmt::format("{} micro-batches a step, as this run began: {} in each of {} processes", stored,
                  stored / count, count));
}

}  // namespace

TrainRunResult run_train(const TrainRunOptions& given, Observer& observer) {
  TrainRunOptions options = given;
  train::ScheduleOptions& schedule = options.train.schedule;
  const Processes processes = options.group != nullptr
                                  ? Processes(options.group, observer)
                                  : connect_processes(options.processes, options.model.threads,
                                                      observer, options.train.device);
  options.group = processes.group();
  options.model.shared_memory = processes.shared_memory();
  TrainRunResult result;
  run_together(processes, [&] {
    options.micro_batches_each = schedule.gradient_accumulation_steps;
    count_micro_batches(processes, options.model.threads, schedule);
    keep_micro_batches(processes, options);
    // A run may continue with more or fewer processes: what counts is the micro-batches of all.
    if (options.flags.contains(kMicroBatches))
      options.flags[kMicroBatches] = schedule.gradient_accumulation_steps;
    result = run_among(processes, options);
  });
  return result;
}

}  // namespace qalof::app
