#include "app/train_run.h"

#include <filesystem>

#include "app/train_checkpoint.h"
#include "app/train_data.h"
#include "app/train_log.h"
#include "app/train_output.h"
#include "app/train_resume.h"
#include "app/train_teacher.h"
#include "core/error.h"
#include "core/file.h"
#include "train/memory.h"
#include "train/phases.h"
#include "train/schedule.h"
#include "train/trainer.h"

namespace qalof::app {

namespace fs = std::filesystem;

namespace {

constexpr const char* kRangeTest = "range_test";

void check_options(const TrainRunOptions& options) {
  QALOF_CHECK(!options.find_min_bits || options.train.method == train::Method::kCpt,
              ErrorKind::kUsage, "--min_bits auto: is for --method cpt, found {}",
              train::to_string(options.train.method));
  for (const auto& [value, flag] :
       {std::pair{&options.train_file, "--train_file"}, {&options.output_dir, "--output_dir"}}) {
    QALOF_CHECK(!value->empty(), ErrorKind::kUsage, "{} is missing", flag);
  }
  const bool is_self = options.train_file == kTrainFileSelf;
  QALOF_CHECK(!is_self || options.train.task == runtime::Task::kLm, ErrorKind::kUsage,
              "--train_file self: a model writes text for --task lm alone");
  for (const std::string& file : {options.train_file, options.validation_file}) {
    QALOF_CHECK(file.empty() || (is_self && file == options.train_file) || fs::exists(file),
                ErrorKind::kNotFound, "{}: no such file", file);
  }
  QALOF_CHECK(fs::is_directory(options.model.model),
              fs::exists(options.model.model) ? ErrorKind::kUsage : ErrorKind::kNotFound,
              "{}: training needs a model directory with float weights", options.model.model);
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
  Scorer(const TrainRunOptions& options, std::shared_ptr<const runtime::BaseModel> base,
         const text::BpeTokenizer& tokenizer, Observer& observer)
      : options_(options),
        base_(std::move(base)),
        tokenizer_(tokenizer),
        observer_(observer),
        pool_(choose_threads(options.model.threads)) {}

  WidthScore score(const train::TrainedWeights& weights, const quant::PrecisionPlan& plan,
                   int width) {
    const auto base = weights.tensors.empty() ? base_ : train::make_base(*base_, weights.tensors);
    const auto adapters = weights.adapters.empty() ? nullptr : train::make_adapter_set(weights);
    const auto execution = runtime::Execution::create(base, plan, adapters, pool_);
    WidthScore score;
    score.width = width;
    score.precision = execution->description();
    if (options_.train.task == runtime::Task::kQa) {
      QaEvaluationOptions qa;
      qa.validation_file = options_.validation_file;
      qa.max_eval_samples = options_.max_eval_samples;
      qa.features = options_.features;
      score.qa = evaluate_qa(*execution, tokenizer_, qa, pool_, observer_);
    } else if (options_.train.task == runtime::Task::kClassification) {
      ClassificationEvaluationOptions classification;
      classification.validation_file = options_.validation_file;
      classification.max_eval_samples = options_.max_eval_samples;
      classification.max_seq_length = options_.features.max_seq_length;
      score.classification =
          evaluate_classification(*execution, tokenizer_, classification, pool_, observer_);
    } else {
      LmEvaluationOptions lm;
      lm.validation_file = options_.validation_file;
      lm.max_seq_length = options_.features.max_seq_length;
      score.lm = evaluate_lm(*execution, tokenizer_, lm, pool_, observer_);
    }
    return score;
  }

 private:
  const TrainRunOptions& options_;
  std::shared_ptr<const runtime::BaseModel> base_;
  const text::BpeTokenizer& tokenizer_;
  Observer& observer_;
  ThreadPool pool_;
};

std::string score_text(const WidthScore& score) {
  if (score.qa)
    return fmt::format("exact match {:.2f}, F1 {:.2f} ({})", score.qa->exact_match, score.qa->f1,
                       score.precision);
  if (score.classification)
    return fmt::format("accuracy {:.2f}, loss {:.4f} ({})", score.classification->accuracy,
                       score.classification->loss, score.precision);
  return fmt::format("loss {:.4f}, perplexity {:.3f} ({})", score.lm->loss, score.lm->perplexity,
                     score.precision);
}

// Classes are those of the whole training file, whatever part of it trains.
void choose_labels(TrainRunOptions& options, const ModelHandle& handle, Observer& observer) {
  const text::ClassificationFile file = text::scan_classification(options.train_file);
  options.train.num_labels = file.num_labels;
  options.label_names = file.label_names;
  if (!options.validation_file.empty())
    check_classification(options.validation_file, file.num_labels);
  const std::optional<runtime::Head>& own = handle.base->class_head();
  if (own && own->outputs != file.num_labels) {
    observer.info(fmt::format("{}: its head of {} classes is left, {} has {}: a fresh one trains",
                              handle.base->path(), own->outputs, options.train_file,
                              file.num_labels));
  }
}

}  // namespace

Json to_json(const TrainRunResult& result) {
  Json phases = Json::array();
  for (const train::PhaseHistory& phase : result.train.phases) {
    Json networks = Json::array();
    for (const train::NetworkHistory& network : phase.networks) {
      networks.push_back({{"name", network.network},
                          {"steps", network.steps},
                          {"tokens", network.tokens},
                          {"train_loss", network.train_loss}});
    }
    phases.push_back({{"name", phase.name},
                      {"precision", phase.precision},
                      {"train_loss", phase.train_loss},
                      {"steps", phase.steps.size()},
                      {"skipped_steps", phase.skipped_steps},
                      {"tokens", phase.tokens},
                      {"seconds", phase.seconds},
                      {"networks", networks}});
  }
  Json json = {{"train_loss", result.train.train_loss},
               {"steps", result.train.steps},
               {"tokens", result.train.tokens},
               {"tokens_per_second", result.train.tokens_per_second},
               {"phases", phases},
               {"output_dir", result.output_dir},
               {"interrupted", result.train.interrupted}};
  if (result.range_test) json["range_test"] = to_json(*result.range_test);
  Json eval = Json::array();
  for (const WidthScore& score : result.scores) eval.push_back(score_json(score));
  if (!eval.empty()) json["eval"] = eval;
  return json;
}

TrainRunResult run_train(const TrainRunOptions& given, Observer& observer) {
  check_options(given);
  TrainRunOptions options = given;
  const ModelHandle handle = open_model(options.model, observer);
  const model::ModelConfig& config = handle.base->config();
  const text::BpeTokenizer tokenizer = open_tokenizer(handle);
  if (!options.model.precision.empty())
    options.train.plan = quant::resolve(handle.plan, handle.base->target());
  options.train.scheme = *handle.plan.scheme;
  options.train.threads = choose_threads(options.model.threads);
  options.train.teacher_self = options.teacher == kTeacherSelf;
  if (!options.adapter.empty()) options.train.start = open_start(options, handle, observer);
  if (!options.teacher.empty() && !options.train.teacher_self)
    options.train.teacher = open_teacher(options, handle, observer);
  if (text::fit_windows(options.features, config.max_positions)) {
    observer.info(fmt::format("windows of {} tokens: the model has {} positions",
                              config.max_positions, config.max_positions));
  }
  if (options.find_min_bits) options.train.min_bits = train::kFewestBits;  // until it is known
  if (options.train.task == runtime::Task::kClassification)
    choose_labels(options, handle, observer);
  // Flags that contradict each other are refused before anything is written.
  train::check_options(options.train, handle.base->target());
  Json identity = run_identity(options, handle);
  RunDirectory directory(options, identity, observer);
  if (options.train_file == kTrainFileSelf) directory.claim(identity);  // its text is written there
  const std::vector<train::Example> examples = load_examples(options, handle, tokenizer, observer);
  std::size_t tokens = 0, longest = 0;
  for (const train::Example& example : examples) {
    tokens += example.ids.size();
    longest = std::max(longest, example.ids.size());
  }
  observer.info(fmt::format(
      "{}: {} windows, {} tokens, mean {:.0f}, longest {}", options.train_file, examples.size(),
      tokens, static_cast<double>(tokens) / static_cast<double>(examples.size()), longest));
  const ResumePoint* resume = directory.resume() ? &*directory.resume() : nullptr;
  TrainRunResult result;
  result.output_dir = options.output_dir;
  train::TrainHooks hooks;
  hooks.observer = &observer;
  hooks.should_stop = options.should_stop;
  if (options.find_min_bits) {
    result.range_test = resume != nullptr
                            ? range_test_of(resume->identity.value(kRangeTest, Json::object()),
                                            resume->checkpoint.path + "/" + kRunFile)
                            : train::find_min_bits(handle.base, options.train, examples, hooks);
    options.train.min_bits = result.range_test->min_bits;
    identity[kRangeTest] = to_json(*result.range_test);
    observer.info(fmt::format("range test: --min_bits {}", options.train.min_bits));
  }
  observer.info(fmt::format(
      "memory estimate {:.0f} MB",
      static_cast<double>(train::estimate_training_bytes(config, options.train, longest)) / 1e6));

  Scorer scorer(options, handle.base, tokenizer, observer);
  directory.claim(identity);
  std::int64_t max_steps = 0;
  for (const train::Phase& phase : train::make_phases(options.train, handle.base->target()))
    max_steps += train::steps_of_phase(options.train, phase, examples);
  RunLog log(options, examples.size(), max_steps, resume);
  hooks.on_gradients = options.on_gradients;
  hooks.resume = resume != nullptr ? &resume->state : nullptr;
  hooks.on_step = [&](const train::StepRecord& record) {
    log.add(record);
    if (options.on_step) options.on_step(record);
  };
  hooks.on_save = [&](const train::Checkpoint& point) {
    log.sync();
    save_checkpoint(options, handle, identity, point, log.trainer_state());
    observer.info(fmt::format("checkpoint after step {}", point.global_step));
  };
  if (!options.validation_file.empty()) {
    auto score = [&](const train::Checkpoint& point, bool at_phase_end) {
      const train::TrainedWeights weights = point.weights();
      std::vector<WidthScore> scores;
      for (const quant::PrecisionPlan* plan : point.plans) {
        scores.push_back(scorer.score(weights, *plan, plan->default_width.bits));
        observer.info(
            fmt::format("{} step {}: {}", point.phase, point.step, score_text(scores.back())));
      }
      log.add(point, scores, at_phase_end);
    };
    hooks.on_eval = [score](const train::Checkpoint& point) { score(point, false); };
    hooks.on_phase_end = [score](const train::Checkpoint& point) { score(point, true); };
  }
  result.train = train::train(handle.base, options.train, examples, hooks);
  result.scores = log.phase_scores();
  write_training_output(options, handle, result, log.trainer_state());
  return result;
}

}  // namespace qalof::app
