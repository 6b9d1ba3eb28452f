// qalof report: one HTML file with the results, training curves, sensitivity, Pareto front and
// commands found in a directory. The file needs no network and no script.
#pragma once

#include <string>
#include <vector>

#include "core/json.h"

namespace qalof::report {

struct ReportOptions {
  std::string directory;
  std::string output;  // "" = report.html in the directory
};
struct ReportResult {
  std::string file;
  std::vector<std::string> sources;  // files that were read, relative to the directory, in order
};
/// Reads the directory and its subdirectories (one level, in order of their names) and writes the
/// page. Error{kNotFound} where there is nothing to show; {kCorruptFile} for a file that is not
/// JSON. Values that are missing or of another type are left out. The same files give the same
/// bytes.
ReportResult run_report(const ReportOptions& options);

/// The files of one directory, parsed; null where a file is missing.
struct ReportRun {
  std::string name;           // relative to the report's directory; "" = itself
  std::vector<Json> metrics;  // lines of metrics.jsonl
  Json trainer_state, all_results, run, results, eval_results, sensitivity, front, attack_results,
      attack_table;
  std::vector<std::string> sources;
};

// Parts of the page, each a <section>; "" where no run has data for it.
std::string results_section(const std::vector<ReportRun>& runs);
std::string training_section(const std::vector<ReportRun>& runs);
std::string sensitivity_section(const std::vector<ReportRun>& runs);
std::string front_section(const std::vector<ReportRun>& runs);
std::string attack_section(const std::vector<ReportRun>& runs);
std::string commands_section(const std::vector<ReportRun>& runs);

/// The whole page: style sheet, heading, sections.
std::string report_page(const std::string& title, const std::string& summary,
                        const std::string& sections);

}  // namespace qalof::report
