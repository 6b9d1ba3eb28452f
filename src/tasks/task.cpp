// Scores as JSON and text, and what tasks refuse unless they say otherwise.
#include "tasks/task.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace qalof::tasks {

double Scores::at(std::string_view key) const {
  for (std::size_t i = 0; i < metrics.size(); ++i) {
    if (metrics[i].key == key) return values[i];
  }
  fail(ErrorKind::kInternal, "{}: no metric of this task", key);
}

Json to_json(const Scores& scores, bool logged) {
  Json json = Json::object();
  for (std::size_t i = 0; i < scores.metrics.size(); ++i) {
    const Metric& metric = scores.metrics[i];
    const double value = scores.values[i];
    if (logged && !metric.is_logged) continue;
    Json& member = json[metric.key];
    if (metric.is_count) {
      member = static_cast<std::uint64_t>(value);
    } else if (std::isfinite(value)) {
      member = value;
    }
  }
  return json;
}

Scores scores_of(const Json& json, std::span<const Metric> metrics, const std::string& where) {
  Scores scores;
  scores.metrics = metrics;
  for (const Metric& metric : metrics) {
    const auto found = json.find(metric.key);
    if (!metric.is_logged || (found != json.end() && found->is_null())) {
      scores.values.push_back(std::numeric_limits<double>::quiet_NaN());
    } else if (metric.is_count) {
      scores.values.push_back(static_cast<double>(json_int(json, metric.key, where, 0, INT64_MAX)));
    } else {
      scores.values.push_back(json_number(json, metric.key, where));
    }
  }
  return scores;
}

std::string to_text(const Scores& scores, std::string_view separator, bool with_counts) {
  std::string text;
  for (std::size_t i = 0; i < scores.metrics.size(); ++i) {
    const Metric& metric = scores.metrics[i];
    if (metric.label[0] == '\0' || (metric.is_count && !with_counts)) continue;
    if (!text.empty()) text += separator;
    text += metric.is_count
                ? fmt::format("{:.0f} {}", scores.values[i], metric.label)
                : fmt::format("{} {:.{}f}", metric.label, scores.values[i], metric.digits);
  }
  return text;
}

std::vector<Example> Task::examples(const Reading& /*reading*/, const DataOptions& /*data*/) const {
  fail(ErrorKind::kUnsupported, "--task {}: is for scoring alone, nothing trains on it", name());
}

void Task::each_example(const Reading& reading, const DataOptions& data,
                        const std::function<void(Example&&)>& take) const {
  for (Example& example : examples(reading, data)) take(std::move(example));
}

std::unique_ptr<SampleReader> Task::samples(const Reading& /*reading*/, const DataOptions& /*data*/,
                                            std::size_t /*classes*/) const {
  fail(ErrorKind::kUnsupported, "--task {}: has no samples that are scored one by one", name());
}

}  // namespace qalof::tasks
