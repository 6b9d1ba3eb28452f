// Writes metrics.jsonl, trainer_state.json and TensorBoard's events. See log.h.
#include "app/train/log.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/error.h"
#include "train/schedule.h"

namespace qalof::app {

namespace {

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// JSON has no NaN: null, as the library writes it too.
Json finite(double value) { return std::isfinite(value) ? Json(value) : Json(); }

std::string line_of(const Json& json) { return json.dump() + "\n"; }

}  // namespace

Json score_json(const WidthScore& score) {
  Json json = tasks::to_json(score.scores, /*logged=*/true);
  json["precision"] = score.precision;
  json["width"] = score.width;
  return json;
}

WidthScore score_of(const Json& json, std::span<const tasks::Metric> metrics,
                    const std::string& where) {
  WidthScore score;
  score.precision = json_string(json, "precision", where);
  score.width = static_cast<int>(json_int(json, "width", where, 0, 32));
  score.scores = tasks::scores_of(json, metrics, where);
  return score;
}

RunLog::RunLog(const TrainRunOptions& options, std::size_t num_examples, std::int64_t max_steps,
               const ResumePoint* resume)
    : options_(options),
      metrics_of_task_(task_of(options).metrics()),
      num_examples_(num_examples),
      max_steps_(max_steps) {
  std::string lines = line_of({{"schema", "qalof.metrics"}, {"format_version", 1}});
  Json evaluations = Json::array();
  if (resume != nullptr) {
    const Json& trainer_state = resume->trainer_state;
    const std::string where = resume->checkpoint.path + "/trainer_state.json";
    for (const Json& entry : trainer_state.value("log_history", Json::array())) {
      if (entry.contains("width")) evaluations.push_back(entry);
    }
    for (const Json& score : trainer_state.value("phase_scores", Json::array())) {
      phase_scores_.push_back(score_of(score, metrics_of_task_, where));
    }
    std::size_t next = 0;
    auto take_evaluations = [&](std::int64_t up_to) {
      for (; next < evaluations.size(); ++next) {
        if (json_int(evaluations[next], "step", where, 0, INT64_MAX) > up_to) return;
        history_.push_back(evaluations[next]);
      }
    };
    for (const auto& phase : resume->state.steps) {
      for (const train::StepRecord& record : phase) {
        lines += take(record);
        take_evaluations(global_step_);
      }
    }
  }
  const std::string path = options.output_dir + "/metrics.jsonl";
  write_file_atomic(path, lines);
  metrics_ = std::make_unique<AppendFile>(path);
  if (!options.log_events) return;
  const std::string directory =
      options.logging_dir.empty() ? options.output_dir + "/runs" : options.logging_dir;
  std::optional<std::int64_t> first;
  if (resume != nullptr) first = global_step_ + 1;
  events_ = std::make_unique<io::EventFile>(directory, first);
}

bool RunLog::is_logged(const train::StepRecord& record) const {
  const std::int64_t every = options_.train.logging.logging_steps;
  return every <= 0 || record.step % every == 0 || record.step == 1 ||
         record.step == record.total_steps || record.skipped;
}

double RunLog::epoch_at(std::int64_t step) const {
  const std::size_t per_step =
      options_.train.schedule.batch_size * options_.train.schedule.gradient_accumulation_steps;
  const std::size_t steps = (num_examples_ + per_step - 1) / per_step;
  return static_cast<double>(step) / static_cast<double>(steps);
}

std::string RunLog::take(const train::StepRecord& record) {
  ++global_step_;
  tokens_ += record.tokens;
  if (!is_logged(record)) return "";
  history_.push_back({{"step", global_step_},
                      {"epoch", epoch_at(record.step)},
                      {"phase", record.phase},
                      {"loss", finite(record.loss)},
                      {"grad_norm", finite(record.grad_norm)},
                      {"learning_rate", record.learning_rate}});
  return line_of({{"phase", record.phase},
                  {"step", record.step},
                  {"global_step", global_step_},
                  {"loss", finite(record.loss)},
                  {"hard_loss", finite(record.hard_loss)},
                  {"distillation", finite(record.distillation)},
                  {"hidden_loss", finite(record.hidden_loss)},
                  {"contrastive_loss", finite(record.contrastive_loss)},
                  {"grad_norm", finite(record.grad_norm)},
                  {"learning_rate", record.learning_rate},
                  {"tokens", record.tokens},
                  {"skipped", record.skipped}});
}

void RunLog::add(const train::StepRecord& record) {
  const std::string line = take(record);
  if (line.empty()) return;
  metrics_->append(line);
  if (!events_ || record.skipped) return;
  const double now = seconds_since_1970();
  events_->scalar("train/loss", global_step_, record.loss, now);
  events_->scalar("train/learning_rate", global_step_, record.learning_rate, now);
  events_->scalar("train/grad_norm", global_step_, record.grad_norm, now);
}

void RunLog::add(const train::Checkpoint& point, const std::vector<WidthScore>& scores,
                 bool at_phase_end) {
  const double now = seconds_since_1970();
  for (const WidthScore& score : scores) {
    Json entry = score_json(score);
    entry["step"] = point.global_step;
    entry["epoch"] = epoch_at(point.step);
    entry["phase"] = point.phase;
    history_.push_back(entry);
    if (at_phase_end) phase_scores_.push_back(score);
    if (!events_) continue;
    for (std::size_t i = 0; i < score.scores.metrics.size(); ++i) {
      const tasks::Metric& metric = score.scores.metrics[i];
      if (metric.is_count) continue;
      std::string_view name = metric.key;
      if (name.starts_with("eval_")) name.remove_prefix(5);
      events_->scalar(fmt::format("eval/w{}_{}", score.width, name), point.global_step,
                      score.scores.values[i], now);
    }
  }
}

void RunLog::sync() { metrics_->sync(); }

Json RunLog::trainer_state() const {
  Json best_metric, best_step;
  for (const Json& entry : history_) {
    if (!entry.contains("width")) continue;
    const auto metric = std::find_if(
        metrics_of_task_.begin(), metrics_of_task_.end(),
        [](const tasks::Metric& one) { return one.decides != tasks::Metric::Decides::kNo; });
    const bool larger_is_better = metric->decides == tasks::Metric::Decides::kHigher;
    const Json& of_entry = entry[metric->key];
    // None of a resumed run, NaN before.
    const double value = of_entry.is_number() ? of_entry.get<double>() : std::nan("");
    if (!std::isfinite(value)) continue;
    const bool better =
        best_metric.is_null() ||
        (larger_is_better ? value > best_metric.get<double>() : value < best_metric.get<double>());
    if (!better) continue;
    best_metric = value;
    best_step = entry["step"];
  }
  Json phase_scores = Json::array();
  for (const WidthScore& score : phase_scores_) phase_scores.push_back(score_json(score));
  const train::TrainOptions& train = options_.train;
  return {{"format_version", 1},
          {"best_global_step", best_step},
          {"best_metric", best_metric},
          {"best_model_checkpoint", Json()},
          {"epoch", history_.empty() ? Json(0) : history_.back()["epoch"]},
          {"eval_steps", train.logging.eval_steps},
          {"global_step", global_step_},
          {"is_hyper_param_search", false},
          {"is_local_process_zero", true},
          {"is_world_process_zero", true},
          {"log_history", history_},
          {"logging_steps", train.logging.logging_steps},
          {"max_steps", max_steps_},
          {"num_input_tokens_seen", tokens_},
          {"num_train_epochs", train.schedule.num_train_epochs},
          {"phase_scores", phase_scores},
          {"save_steps", train.logging.save_steps},
          {"stateful_callbacks", Json::object()},
          {"total_flos", 0},
          {"train_batch_size", train.schedule.batch_size},
          {"trial_name", Json()},
          {"trial_params", Json()}};
}

}  // namespace qalof::app
