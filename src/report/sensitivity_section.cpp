// Report sections on sensitivity: heat maps and rankings of the cost of lower widths, and scores
// against bits.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/html.h"
#include "report/parts.h"
#include "report/report.h"
#include "report/svg_chart.h"

namespace qalof::report {

namespace {

constexpr std::size_t kMaxRanked = 40;

// A kind of cost: a member of the entries of "costs", with the sign that makes a loss positive.
struct CostKind {
  const char* key;
  const char* interval;
  double sign;
  const char* heading;
  const char* unit;
};
constexpr CostKind kCosts[] = {
    {"delta_f1", "delta_f1_interval", -1, "F1 lost", "points of F1"},
    {"delta_loss", "delta_loss_interval", 1, "Loss added", "nats"},
    {"kl", "", 1, "KL divergence", "nats"},
    {"score", "", 1, "Estimated score", ""},
};

struct UnitCost {
  std::string name, kind, row;
  std::optional<double> block;
  double value = 0;
  std::optional<std::pair<double, double>> interval;
};

// The cost of every unit at its lowest width.
std::vector<UnitCost> unit_costs(const Json& sensitivity, const CostKind& cost) {
  std::vector<UnitCost> units;
  for (const Json& unit : list_of(sensitivity, "units")) {
    const Json* lowest = nullptr;
    for (const Json& entry : list_of(unit, "costs")) {
      const auto bits = number_in(entry, "bits");
      if (bits && (lowest == nullptr || *bits < *number_in(*lowest, "bits"))) lowest = &entry;
    }
    if (lowest == nullptr) continue;
    const auto value = number_in(*lowest, cost.key);
    if (!value) continue;
    UnitCost found;
    found.name = text_in(unit, "name");
    found.kind = text_in(unit, "kind");
    const std::string part = text_in(unit, "part");
    if (part == "weights" || part == "activations") {
      found.name += fmt::format(" {}", part.substr(0, 1));
      found.kind += fmt::format(" {}", part.substr(0, 1));
    }
    found.block = number_in(unit, "block");
    found.value = cost.sign * *value;
    if (const auto interval = interval_in(*lowest, cost.interval))
      found.interval = std::minmax({cost.sign * interval->first, cost.sign * interval->second});
    units.push_back(std::move(found));
  }
  return units;
}

std::optional<Card> heat_card(const std::vector<UnitCost>& units, const CostKind& cost) {
  HeatMap map;
  map.label = cost.heading;
  std::vector<double> blocks;
  for (const UnitCost& unit : units) {
    if (!unit.block) continue;
    if (std::find(blocks.begin(), blocks.end(), *unit.block) == blocks.end())
      blocks.push_back(*unit.block);
    if (std::find(map.columns.begin(), map.columns.end(), unit.kind) == map.columns.end())
      map.columns.push_back(unit.kind);
  }
  constexpr std::size_t kMostCells = 20'000;  // more than can be told apart
  if (blocks.size() < 2 || blocks.size() * map.columns.size() > kMostCells) return std::nullopt;
  std::sort(blocks.begin(), blocks.end());
  map.cells.resize(blocks.size() * map.columns.size());
  for (const double block : blocks)
    map.rows.push_back(fmt::format("block {}", fixed_number(block, 0)));
  for (const UnitCost& unit : units) {
    if (!unit.block) continue;
    const auto row = std::find(blocks.begin(), blocks.end(), *unit.block) - blocks.begin();
    const auto column = std::find(map.columns.begin(), map.columns.end(), unit.kind);
    map.cells[static_cast<std::size_t>(row) * map.columns.size() +
              static_cast<std::size_t>(column - map.columns.begin())] = unit.value;
  }
  return chart_card(fmt::format("{}, by block", cost.heading), map);
}

Card ranking_card(std::vector<UnitCost> units, const CostKind& cost) {
  std::stable_sort(units.begin(), units.end(),
                   [](const UnitCost& a, const UnitCost& b) { return a.value > b.value; });
  std::string note;
  if (units.size() > kMaxRanked) {
    note = fmt::format("<p class=\"note\">The {} most sensitive of {}.</p>\n", kMaxRanked,
                       units.size());
    units.resize(kMaxRanked);
  }
  BarChart chart{fmt::format("{}, ranking", cost.heading), cost.unit, {}, /*is_cost=*/true};
  bool intervals = false;
  for (const UnitCost& unit : units) {
    chart.rows.push_back({unit.name, unit.value, unit.interval});
    intervals = intervals || unit.interval;
  }
  if (intervals) note += "<p class=\"note\">Lines: 95 % intervals.</p>\n";
  return chart_card(fmt::format("{}, most sensitive first", cost.heading), chart, note);
}

std::string sensitivity_of(const Json& sensitivity) {
  std::vector<Card> cards, rankings;
  for (const CostKind& cost : kCosts) {
    const std::vector<UnitCost> units = unit_costs(sensitivity, cost);
    if (units.empty()) continue;
    if (auto map = heat_card(units, cost)) cards.push_back(std::move(*map));
    rankings.push_back(ranking_card(units, cost));
  }
  if (rankings.empty()) return "";
  cards.insert(cards.end(), rankings.begin(), rankings.end());
  const Json high = sensitivity.value("high", Json());
  std::string words = text_in(sensitivity, "by");
  // Of several widths, the lowest is drawn.
  auto low = number_in(sensitivity, "low");
  for (const Json& bits : list_of(sensitivity, "low")) {
    if (bits.is_number()) low = std::min(low.value_or(32), bits.get<double>());
  }
  if (low) {
    words +=
        fmt::format("{}one unit at a time at {} bits, all others at {}", words.empty() ? "" : ": ",
                    fixed_number(*low, 0), text_in(high, "precision"));
  }
  if (const auto samples = number_in(sensitivity, "samples"))
    words += fmt::format(" · {} samples", short_number(*samples));
  if (const auto f1 = number_in(high, "f1"))
    words += fmt::format(" · F1 {} without", fixed_number(*f1, 2));
  return fmt::format("<p class=\"note\">{}</p>\n{}", html_escape(words), grid(cards));
}

// The points of front.json, else the rows of results.json that have a score and bits.
std::vector<Json> scored_points(const ReportRun& run) {
  const Json& points = list_of(run.front, "points");
  if (!points.empty()) return {points.begin(), points.end()};
  std::vector<Json> rows;
  for (Json row : list_of(run.results, "rows")) {
    const auto bits = number_in(row, "effective_bits");
    if (!bits) continue;
    row["bits"] = *bits;
    rows.push_back(std::move(row));
  }
  return rows;
}

Card scatter_card(const std::vector<Json>& points, const char* key, const char* x_name,
                  bool more_is_better, const std::string& note) {
  ScatterChart chart;
  chart.label = fmt::format("F1 against {}", x_name);
  chart.x_name = x_name;
  chart.y_name = "F1";
  chart.more_x_is_better = more_is_better;
  std::vector<std::string> groups;
  for (const Json& point : points) {
    const auto x = number_in(point, key), y = number_in(point, "f1");
    if (!x || !y) continue;
    const std::string group = text_in(point, "kind");
    const auto known = std::find(groups.begin(), groups.end(), group);
    const auto index = static_cast<std::size_t>(known - groups.begin());
    if (known == groups.end()) groups.push_back(group);
    chart.points.push_back({text_in(point, "name"),
                            {*x, *y},
                            number_in(point, "f1_standard_error").value_or(0),
                            index,
                            group != "random"});
  }
  if (chart.points.size() < 2) return {};
  return chart_card(chart.label, chart, legend_html(groups) + note);
}

// Sums of single costs: what the dynamic program promises.
Card promised_card(const Json& front) {
  ChartSeries line{"promised", {}};
  for (const Json& point : list_of(front, "predicted")) {
    const auto bits = number_in(point, "bits"), cost = number_in(point, "cost");
    if (bits && cost) line.points.push_back({*bits, *cost});
  }
  if (line.points.size() < 2) return {};
  const std::string cost = text_in(front, "cost");
  return chart_card(fmt::format("Sum of single costs ({}) against weight bits", cost),
                    LineChart{"Pareto front of single costs", "mean weight bits", {line}});
}

// Plans beside others on the same samples.
Card differences_card(const Json& front) {
  std::vector<std::vector<TableCell>> rows;
  for (const Json& found : list_of(front, "differences")) {
    const auto delta = number_in(found, "delta_f1"), error = number_in(found, "standard_error");
    if (!delta || !error) continue;
    TableCell range;
    if (const auto interval = interval_in(found, "interval"))
      range.text = fmt::format("{} .. {}", fixed_number(interval->first, 2, true),
                               fixed_number(interval->second, 2, true));
    rows.push_back(
        {{fmt::format("{} over {}", text_in(found, "plan"), text_in(found, "other"))},
         {fmt::format("{} ± {}", fixed_number(*delta, 2, true), fixed_number(*error, 2))},
         range});
  }
  if (rows.empty()) return {};
  std::string note;
  if (const auto samples = number_in(front, "samples"))
    note = fmt::format(
        "<p class=\"note\">Paired over {} samples; ± standard error, 95 % "
        "bootstrap interval.</p>\n",
        short_number(*samples));
  return table_card("Plans compared", table_html({"", "F1", "95 %"}, rows) + note, 3);
}

}  // namespace

std::string sensitivity_section(const std::vector<ReportRun>& runs) {
  std::string body;
  for (const ReportRun& run : runs) {
    if (!run.sensitivity.is_object()) continue;
    const std::string part = sensitivity_of(run.sensitivity);
    if (part.empty()) continue;
    if (!run.name.empty()) body += fmt::format("<h3>{}</h3>\n", html_escape(run.name));
    body += part;
  }
  return section("Sensitivity", body);
}

std::string front_section(const std::vector<ReportRun>& runs) {
  std::vector<Card> cards;
  for (const ReportRun& run : runs) {
    const std::vector<Json> points = scored_points(run);
    std::string note = "<p class=\"note\">Dashed: no other point is better in both.</p>\n";
    cards.push_back(scatter_card(points, "bits", "bits per weight", false, note));
    cards.push_back(scatter_card(points, "tokens_per_second", "tokens/s", true, note));
    cards.push_back(differences_card(run.front));
    cards.push_back(promised_card(run.front));
  }
  return section("Score against bits", grid(cards));
}

}  // namespace qalof::report
