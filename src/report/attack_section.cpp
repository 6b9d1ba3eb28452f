// Report section on attacks: accuracy under attack by precision, or a table of defences.
#include <fmt/format.h>

#include <algorithm>

#include "report/html.h"
#include "report/parts.h"
#include "report/report.h"
#include "report/svg_chart.h"

namespace qalof::report {

namespace {

// Accuracy, 0-100, with its 95 % interval.
struct Accuracy {
  double value = 0;
  std::optional<std::pair<double, double>> interval;
};

std::optional<Accuracy> accuracy_in(const Json& object, const char* key, const char* interval) {
  const auto value = number_in(object, key);
  if (!value) return std::nullopt;
  return Accuracy{*value, interval_in(object, interval)};
}

std::string words(const Accuracy& accuracy) {
  std::string value = fixed_number(accuracy.value, 1);
  if (!accuracy.interval) return value;
  return fmt::format("{} [{}, {}]", value, fixed_number(accuracy.interval->first, 1),
                     fixed_number(accuracy.interval->second, 1));
}

constexpr const char* kIntervalNote =
    "<p class=\"note\">Percent of samples, with Wilson's 95 % interval. A sample that is "
    "classified wrongly without attack counts as wrong.</p>\n";

// attack_results.json
std::vector<Card> attack_cards(const Json& results) {
  BarChart chart{"Accuracy under attack", "%", {}, /*is_cost=*/false};
  std::vector<std::vector<TableCell>> rows;
  const auto add = [&](const Json& score) {
    const auto clean = accuracy_in(score, "clean_accuracy", "clean_ci95");
    const auto attacked = accuracy_in(score, "adversarial_accuracy", "ci95");
    if (!clean || !attacked) return;
    const std::string name = text_in(score, "precision");
    chart.rows.push_back({name, attacked->value, attacked->interval});
    rows.push_back({{name}, {words(*clean)}, {words(*attacked)}, {""}});
  };
  const Json& each = list_of(results, "per_precision");
  // A defender with random precision is not among per_precision; add it first.
  if (each.empty() || text_in(results, "precision") != text_in(each[0], "precision")) add(results);
  for (const Json& score : each) add(score);
  if (rows.empty()) return {};
  std::string note = kIntervalNote;
  if (const auto samples = number_in(results, "samples"))
    note += fmt::format("<p class=\"note\">{} samples.</p>\n", short_number(*samples));
  const std::string table =
      table_html({"answers at", "without attack", "under attack", ""}, rows) + note;
  return {chart_card(chart.label, chart), table_card("Without and under attack", table, 3)};
}

// attack_table.json of tools/attack_results.py
std::vector<Card> table_cards(const Json& table) {
  struct Column {
    std::string texts, heading;
  };
  std::vector<Column> columns = {{"clean", "without attack"}};
  for (const Json& target : list_of(table, "targets"))
    columns.push_back({text_in(target, "id"), "attack on " + text_in(target, "name")});
  struct Row {
    std::string defence, name;
    std::vector<std::optional<Accuracy>> cells;
  };
  std::vector<Row> found;
  for (const Json& cell : list_of(table, "cells")) {
    const auto share = number_in(cell, "share"), low = number_in(cell, "low"),
               high = number_in(cell, "high");
    const auto column = std::find_if(columns.begin(), columns.end(), [&](const Column& one) {
      return one.texts == text_in(cell, "texts");
    });
    if (!share || !low || !high || column == columns.end()) continue;
    const std::string defence = text_in(cell, "defence");
    auto row = std::find_if(found.begin(), found.end(),
                            [&](const Row& one) { return one.defence == defence; });
    if (row == found.end())
      row = found.insert(row, {defence, text_in(cell, "name"),
                               std::vector<std::optional<Accuracy>>(columns.size())});
    row->cells[static_cast<std::size_t>(column - columns.begin())] =
        Accuracy{100 * *share, std::pair{100 * *low, 100 * *high}};
  }
  if (found.empty()) return {};
  std::vector<std::string> headings = {"defence"};
  for (const Column& column : columns) headings.push_back(column.heading);
  headings.emplace_back();
  std::vector<std::vector<TableCell>> rows;
  BarChart clean{"Accuracy without attack", "%", {}, /*is_cost=*/false};
  BarChart least{"Accuracy under the attack that does most", "%", {}, /*is_cost=*/false};
  for (const Row& row : found) {
    std::vector<TableCell> cells = {{row.name}};
    const Accuracy* worst = nullptr;
    for (std::size_t i = 0; i < row.cells.size(); ++i) {
      const std::optional<Accuracy>& cell = row.cells[i];
      cells.push_back({cell ? words(*cell) : ""});
      if (i > 0 && cell && (worst == nullptr || cell->value < worst->value)) worst = &*cell;
    }
    cells.push_back({""});
    rows.push_back(std::move(cells));
    if (row.cells[0]) clean.rows.push_back({row.name, row.cells[0]->value, row.cells[0]->interval});
    if (worst != nullptr) least.rows.push_back({row.name, worst->value, worst->interval});
  }
  const std::string title = text_in(table, "title");
  return {chart_card(title + ": " + clean.label, clean),
          chart_card(title + ": " + least.label, least),
          table_card(title + ": who keeps what", table_html(headings, rows) + kIntervalNote, 6)};
}

}  // namespace

std::string attack_section(const std::vector<ReportRun>& runs) {
  std::vector<Card> cards;
  for (const ReportRun& run : runs) {
    for (auto& some : {attack_cards(run.attack_results), table_cards(run.attack_table)})
      cards.insert(cards.end(), some.begin(), some.end());
  }
  return section("Under attack", grid(cards));
}

}  // namespace qalof::report
