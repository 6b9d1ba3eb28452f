// qalof train: files and flags around the training loop.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "app/model_handle.h"
#include "app/processes.h"
#include "core/json.h"
#include "tasks/table.h"
#include "train/options.h"
#include "train/range_test.h"

namespace qalof::app {

struct TrainRunOptions {
  ModelOptions model;  // precision: the plan to train in; adapter is not used, see below
  std::string task = tasks::kDefaultTask;
  tasks::TaskSet tasks;                 // their options
  std::string train_file;               // or "self", lm: the model writes its text
  std::uint64_t self_tokens = 100'000;  // of that text, at least
  std::string validation_file;          // "" = no evaluation
  std::string output_dir;
  bool overwrite_output_dir = false;
  bool save_bf16 = false;  // full: store bfloat16
  std::uint64_t max_train_samples = 0;
  std::uint64_t max_eval_samples = 0;
  std::size_t max_seq_length = tasks::kDefaultLength;
  std::vector<std::string> label_names;  // classification; those of train_file
  train::TrainOptions train;             // its head_kind is the task's
  std::string
      adapter;  // a directory of adapters to start from, which then is train.start; "": fresh
  /// "" = as the method says; "self" = cpt, random, curriculum: a higher width; else a directory of
  /// a model or of adapters on the model, which then is train.teacher.
  std::string teacher;
  std::uint64_t save_total_limit = 0;  // checkpoints that are kept; 0 = all
  /// "" = at the newest checkpoint of the same run in output_dir, if there is one; "auto" = there,
  /// and it is an error if there is none; else a checkpoint, whose successors are discarded.
  std::string resume_from_checkpoint;
  bool log_events = false;  // for TensorBoard
  std::string logging_dir;  // of events; "" = output_dir/runs
  /// What else tells runs apart: options by name (OptionList::identity).
  Json flags = Json::object();
  ProcessOptions processes;
  /// Micro-batches of a step that every process was started with; set by run_train, which counts
  /// those of all in train.schedule.
  std::size_t micro_batches_each = 1;
  /// The processes of the run; null: those that a launcher's variables tell of (process_group.h).
  ProcessGroup* group = nullptr;
  /// For tests; see TrainHooks.
  std::function<void(const train::StepRecord&)> on_step;
  std::function<void(std::int64_t, std::span<float>)> on_gradients;
  std::function<bool()> should_stop;

  /// All options of a run, in groups.
  void list(OptionList& list);
};

/// The task of a run. Error{kUsage} for one that nothing trains on.
inline const tasks::Task& task_of(const TrainRunOptions& options) {
  return options.tasks.at(options.task, tasks::Use::kTrain);
}

struct WidthScore {
  std::string precision;  // effective, in words
  int width = 0;
  tasks::Scores scores;
};
struct TrainRunResult {
  train::TrainResult train;
  std::optional<train::RangeTest> range_test;  // find_min_bits
  std::vector<WidthScore> scores;              // with a validation file: every trained width
  Json special_tokens;                         // text::TextEncoder's description
  std::string output_dir;
  std::size_t rank = 0;  // of this process; others than 0 write and report nothing
};

/// Trains, anew or from a checkpoint, and writes the output directory: adapters with qalof.json, or
/// for `full` a Hugging Face directory; beside them trainer_state.json, all_results.json,
/// metrics.jsonl and checkpoints. Locks the directory while it runs. Asked to stop, it saves a
/// checkpoint first.
TrainRunResult run_train(const TrainRunOptions& options, Observer& observer);

/// Numbers of a result as they stand in all_results.json and --json.
Json to_json(const TrainRunResult& result);

}  // namespace qalof::app
