// Report sections on results: headline figures, a table of scores, and the commands that made them.
#include <fmt/format.h>

#include <algorithm>

#include "report/html.h"
#include "report/parts.h"
#include "report/report.h"
#include "report/svg_chart.h"

namespace qalof::report {

namespace {

// A score, from whichever file holds it.
struct ScoredRow {
  std::string name, precision;
  std::optional<double> exact_match, f1, error, accuracy, loss, bits, bytes, seconds;
};

std::optional<double> first_of(const Json& object, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    if (const auto value = number_in(object, key)) return value;
  }
  return std::nullopt;
}

ScoredRow scored_row(const std::string& name, const Json& json) {
  ScoredRow row;
  row.name = name;
  row.precision = text_in(json, "precision");
  row.exact_match = first_of(json, {"exact_match", "eval_exact_match"});
  row.f1 = first_of(json, {"f1", "eval_f1"});
  row.error = number_in(json, "f1_standard_error");
  row.accuracy = first_of(json, {"accuracy", "eval_accuracy"});
  row.loss = first_of(json, {"loss", "eval_loss"});
  row.bits = first_of(json, {"effective_bits", "bits_per_weight", "effective_weight_bits"});
  row.bytes = first_of(json, {"bytes", "total_bytes", "packed_bytes"});
  row.seconds = number_in(json, "seconds");
  return row;
}

std::vector<ScoredRow> scored_rows(const std::vector<ReportRun>& runs) {
  std::vector<ScoredRow> rows;
  for (const ReportRun& run : runs) {
    for (const Json& row : list_of(run.results, "rows"))
      rows.push_back(scored_row(text_in(row, "name"), row));
    if (run.eval_results.is_object())
      rows.push_back(scored_row(run.name.empty() ? "eval" : run.name, run.eval_results));
    for (const Json& score : list_of(run.trainer_state, "phase_scores"))
      rows.push_back(scored_row(run.name.empty() ? "after training" : run.name, score));
  }
  return rows;
}

TableCell cell(const std::optional<double>& value, int digits, bool barred = false) {
  if (!value) return {};
  TableCell cell{fixed_number(*value, digits)};
  if (barred) cell.share = *value / 100;
  return cell;
}

std::string tile(const std::string& number, const std::string& text) {
  return fmt::format("<div class=\"tile\"><b>{}</b><span>{}</span></div>\n", html_escape(number),
                     html_escape(text));
}

std::string tiles(const std::vector<ScoredRow>& rows) {
  std::string text;
  const auto scored = [](const ScoredRow& row) { return row.f1 || row.accuracy; };
  const auto score = [](const ScoredRow& row) { return row.f1 ? *row.f1 : *row.accuracy; };
  const char* const metric =
      std::any_of(rows.begin(), rows.end(), [](const ScoredRow& row) { return row.f1; })
          ? "F1"
          : "accuracy";
  const ScoredRow *best = nullptr, *fewest = nullptr;
  for (const ScoredRow& row : rows) {
    if (!scored(row)) continue;
    if (best == nullptr || score(row) > score(*best)) best = &row;
    if (!row.bits) continue;
    const bool fewer = fewest == nullptr || *row.bits < *fewest->bits ||
                       (*row.bits == *fewest->bits && score(row) > score(*fewest));
    if (fewer) fewest = &row;
  }
  if (best != nullptr)
    text += tile(fixed_number(score(*best), 2), fmt::format("best {}: {}", metric, best->name));
  if (fewest != nullptr) {
    text += tile(
        fixed_number(score(*fewest), 2),
        fmt::format("{} at {} bits: {}", metric, fixed_number(*fewest->bits, 2), fewest->name));
    if (fewest->bytes)
      text += tile(fixed_number(*fewest->bytes / 1e6, 2) + " MB",
                   fmt::format("size of {}", fewest->name));
  }
  return text.empty() ? "" : fmt::format("<div class=\"tiles\">\n{}</div>\n", text);
}

// Quotes a value for a shell.
std::string quoted(const std::string& text) {
  const bool plain = !text.empty() && text.find_first_not_of(
                                          "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                          "0123456789_-+=./,:@%") == std::string::npos;
  if (plain) return text;
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

std::string value_text(const Json& value) {
  if (value.is_string()) return quoted(value.get<std::string>());
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// The command line of a run from the flags in run.json. Switches that are off and empty texts are
// left out.
std::string train_command(const Json& flags) {
  std::string text = "qalof train";
  for (const auto& [name, value] : flags.items()) {
    if (value.is_null() || value == false || value == "") continue;
    text += fmt::format(" {}", quoted(name));
    if (value == true) continue;
    if (!value.is_array()) {
      text += fmt::format(" {}", value_text(value));
      continue;
    }
    for (const Json& part : value) text += fmt::format(" {}", value_text(part));
  }
  return text;
}

}  // namespace

std::string results_section(const std::vector<ReportRun>& runs) {
  const std::vector<ScoredRow> rows = scored_rows(runs);
  if (rows.empty()) return "";
  std::vector<std::vector<TableCell>> table;
  for (const ScoredRow& row : rows) {
    TableCell f1 = cell(row.f1, 2, true);
    if (row.f1 && row.error) f1.text += " ± " + fixed_number(*row.error, 2);
    TableCell size;
    if (row.bytes) size.text = fixed_number(*row.bytes / 1e6, 2) + " MB";
    table.push_back({{row.name},
                     f1,
                     cell(row.exact_match, 2),
                     cell(row.accuracy, 2, true),
                     cell(row.loss, 4),
                     cell(row.bits, 2),
                     size,
                     cell(row.seconds, 1),
                     {row.precision}});
  }
  return section("Results",
                 tiles(rows) + table_html({"", "F1", "Exact match", "Accuracy", "Loss",
                                           "Bits per weight", "Size", "Seconds", "Precision"},
                                          table));
}

std::string commands_section(const std::vector<ReportRun>& runs) {
  std::string body;
  for (const ReportRun& run : runs) {
    std::string lines;
    for (const Json& command : list_of(run.results, "commands")) {
      if (command.is_string()) lines += command.get<std::string>() + "\n";
    }
    const Json identity = run.run.is_object() ? run.run.value("run", Json()) : Json();
    const Json flags = identity.is_object() ? identity.value("flags", Json()) : Json();
    if (lines.empty() && flags.is_object() && !flags.empty()) lines = train_command(flags) + "\n";
    if (lines.empty()) continue;
    body += fmt::format("<h3>{}</h3>\n<pre>{}</pre>\n", html_escape(run_title(run.name)),
                        html_escape(lines));
    std::string hashes;
    for (const auto& [key, words] : {std::pair{"base_sha256", "base model"},
                                     std::pair{"train_file_sha256", "training file"}}) {
      const std::string hash = text_in(identity, key);
      if (!hash.empty())
        hashes += fmt::format("{}sha256 of the {}: {}", hashes.empty() ? "" : "; ", words, hash);
    }
    if (!hashes.empty()) body += fmt::format("<p class=\"note\">{}</p>\n", html_escape(hashes));
  }
  return section("Commands", body);
}

}  // namespace qalof::report
