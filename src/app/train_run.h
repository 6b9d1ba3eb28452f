// qalof train: files and flags around the training loop.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "app/eval.h"
#include "app/model_handle.h"
#include "core/json.h"
#include "train/options.h"

namespace qalof::app {

struct TrainRunOptions {
  ModelOptions model;  // precision: the plan to train in; adapter is not used
  std::string train_file;
  std::string validation_file;  // "" = no evaluation
  std::string output_dir;
  bool overwrite_output_dir = false;
  bool save_bf16 = false;     // full: store bfloat16
  bool line_by_line = false;  // lm: every line of train_file is a document
  std::uint64_t max_train_samples = 0;
  std::uint64_t max_eval_samples = 0;
  text::SpanFeatureOptions features;
  train::TrainOptions train;
  std::function<bool()> should_stop;
};

struct WidthScore {
  std::string precision;  // effective, in words
  int width = 0;
  std::optional<QaScores> qa;
  std::optional<LmScores> lm;
};
struct TrainRunResult {
  train::TrainResult train;
  std::vector<WidthScore> scores;  // with a validation file: every trained width
  std::string output_dir;
};

/// Trains and writes the output directory: adapters with qalof.json, or for `full` a Hugging Face
/// directory; beside them trainer_state.json, all_results.json and metrics.jsonl. Locks the
/// directory while it runs.
TrainRunResult run_train(const TrainRunOptions& options, Observer& observer);

/// Numbers of a result as they stand in all_results.json and --json.
Json to_json(const TrainRunResult& result);

}  // namespace qalof::app
