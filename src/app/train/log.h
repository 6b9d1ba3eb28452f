// What a run tells while it trains: metrics.jsonl, trainer_state.json and, where asked for, an
// event file for TensorBoard (docs/file_formats.md, "Logs of a run").
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "app/train/resume.h"
#include "core/file.h"
#include "io/tfevents.h"

namespace qalof::app {

/// Scores in JSON, "eval_f1" and the like; and back, but for what is not written. metrics: of the
/// run's task.
Json score_json(const WidthScore& score);
WidthScore score_of(const Json& json, std::span<const tasks::Metric> metrics,
                    const std::string& where);

/// Not thread-safe.
class RunLog {
 public:
  /// Makes the files anew, or cuts them back to where a run continues: metrics.jsonl is rewritten
  /// from the records of its checkpoint, whose trainer_state.json gives the evaluations.
  /// max_steps: of the whole run.
  RunLog(const TrainRunOptions& options, std::size_t num_examples, std::int64_t max_steps,
         const ResumePoint* resume);

  void add(const train::StepRecord& record);
  /// Scores of one point of the run. at_phase_end: they are a phase's result.
  void add(const train::Checkpoint& point, const std::vector<WidthScore>& scores,
           bool at_phase_end);
  /// Scores at the ends of phases so far.
  const std::vector<WidthScore>& phase_scores() const { return phase_scores_; }
  /// Puts what is written on disk.
  void sync();
  /// In the layout of Hugging Face's Trainer.
  Json trainer_state() const;

 private:
  bool is_logged(const train::StepRecord& record) const;
  double epoch_at(std::int64_t step) const;
  /// Counts the step and, where it is logged, adds it to the history; its line of metrics.jsonl or
  /// "".
  std::string take(const train::StepRecord& record);

  const TrainRunOptions& options_;
  std::span<const tasks::Metric> metrics_of_task_;
  std::size_t num_examples_;
  std::int64_t global_step_ = 0;
  std::int64_t max_steps_;
  std::uint64_t tokens_ = 0;
  Json history_ = Json::array();
  std::vector<WidthScore> phase_scores_;
  std::unique_ptr<AppendFile> metrics_;
  std::unique_ptr<io::EventFile> events_;
};

}  // namespace qalof::app
