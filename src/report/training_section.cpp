// Report section on training: curves of loss, learning rate, gradient norm and scores by step, and
// how often each width was trained.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/html.h"
#include "report/parts.h"
#include "report/report.h"
#include "report/svg_chart.h"

namespace qalof::report {

namespace {

// The points of the series with a name; adds the series where it is new.
std::vector<ChartPoint>& points_of(std::vector<ChartSeries>& series, const std::string& name) {
  for (ChartSeries& known : series) {
    if (known.name == name) return known.points;
  }
  return series.emplace_back(ChartSeries{name, {}}).points;
}

std::vector<std::string> names_of(const std::vector<ChartSeries>& series) {
  std::vector<std::string> names;
  names.reserve(series.size());
  for (const ChartSeries& line : series) names.push_back(line.name);
  return names;
}

Card line_card(const std::string& heading, const std::string& x_name,
               const std::vector<ChartSeries>& series) {
  if (series.empty()) return {};
  return chart_card(heading, LineChart{heading, x_name, series}, legend_html(names_of(series)));
}

// Logged steps, from metrics.jsonl, else from the log history in trainer_state.json.
std::vector<Json> logged_steps(const ReportRun& run) {
  if (!run.metrics.empty()) return run.metrics;
  const Json& history = list_of(run.trainer_state, "log_history");
  return {history.begin(), history.end()};
}

std::vector<ChartSeries> curve(const std::vector<Json>& steps, const char* key) {
  std::vector<ChartSeries> series;
  for (const Json& step : steps) {
    const auto value = number_in(step, key);
    auto at = number_in(step, "global_step");
    if (!at) at = number_in(step, "step");
    if (value && at && !step.contains("width"))
      points_of(series, text_in(step, "phase")).push_back({*at, *value});
  }
  return series;
}

// Scores during training, a line per width.
Card score_card(const ReportRun& run) {
  for (const auto& [key, heading] : {std::pair{"eval_f1", "F1 during training"},
                                     std::pair{"eval_accuracy", "Accuracy during training"},
                                     std::pair{"eval_loss", "Validation loss"}}) {
    std::vector<ChartSeries> series;
    for (const Json& entry : list_of(run.trainer_state, "log_history")) {
      const auto value = number_in(entry, key), step = number_in(entry, "step"),
                 width = number_in(entry, "width");
      if (value && step && width)
        points_of(series, fmt::format("w{}", fixed_number(*width, 0))).push_back({*step, *value});
    }
    const bool is_curve = std::any_of(series.begin(), series.end(), [](const ChartSeries& line) {
      return line.points.size() > 1;
    });
    if (is_curve) return line_card(heading, "step", series);
  }
  return {};
}

// How often each width was really trained.
Card histogram_card(const ReportRun& run) {
  BarChart chart{"Steps per width", "steps", {}, /*is_cost=*/false};
  for (const Json& phase : list_of(run.all_results, "phases")) {
    for (const Json& network : list_of(phase, "networks")) {
      const auto steps = number_in(network, "steps");
      if (!steps) continue;
      const std::string name = text_in(network, "name");
      const auto known = std::find_if(chart.rows.begin(), chart.rows.end(),
                                      [&](const BarRow& row) { return row.name == name; });
      if (known == chart.rows.end()) {
        chart.rows.push_back({name, *steps, std::nullopt});
      } else {
        known->value += *steps;
      }
    }
  }
  if (chart.rows.size() < 2) return {};
  return chart_card("Steps trained at each width", chart);
}

std::string summary_of(const ReportRun& run) {
  std::string text;
  const auto add = [&](const std::string& words) { text += (text.empty() ? "" : " · ") + words; };
  double seconds = 0;
  for (const Json& phase : list_of(run.all_results, "phases"))
    seconds += number_in(phase, "seconds").value_or(0);
  if (const auto steps = number_in(run.all_results, "steps")) add(short_number(*steps) + " steps");
  if (const auto tokens = number_in(run.all_results, "tokens"))
    add(short_number(*tokens) + " tokens");
  if (const auto speed = number_in(run.all_results, "tokens_per_second"))
    add(short_number(std::round(*speed)) + " tokens/s");
  if (seconds > 0) add(fixed_number(seconds, 0) + " s");
  return text;
}

}  // namespace

std::string training_section(const std::vector<ReportRun>& runs) {
  std::string body;
  for (const ReportRun& run : runs) {
    const std::vector<Json> steps = logged_steps(run);
    const std::string cards =
        grid({line_card("Training loss", "step", curve(steps, "loss")),
              line_card("Learning rate", "step", curve(steps, "learning_rate")),
              line_card("Gradient norm", "step", curve(steps, "grad_norm")), score_card(run),
              histogram_card(run)});
    if (cards.empty()) continue;
    body += fmt::format("<h3>{} <small>{}</small></h3>\n{}", html_escape(run_title(run.name)),
                        html_escape(summary_of(run)), cards);
  }
  return section("Training", body);
}

}  // namespace qalof::report
