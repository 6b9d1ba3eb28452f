// Reads what a directory and those below it hold, and writes the page.
#include "report/report.h"

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "text/records.h"

namespace qalof::report {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{256} << 20;
constexpr std::size_t kMaxRuns = 64;

// Reads JSON lines; ignores an unfinished last line, which a running training may leave.
std::vector<Json> read_lines(const std::string& path) {
  const std::string bytes = read_file(path, kMaxFileBytes);
  std::vector<Json> lines;
  text::for_each_whole_line(bytes, [&](std::string_view line, std::size_t number) {
    lines.push_back(parse_json(line, fmt::format("{}: line {}", path, number)));
  });
  return lines;
}

ReportRun read_run(const std::string& directory, const std::string& name) {
  ReportRun run;
  run.name = name;
  const std::string place = name.empty() ? directory : directory + "/" + name;
  const auto here = [&](const char* file) {
    const bool found = path_exists(place + "/" + file);
    if (found) run.sources.push_back(name.empty() ? file : name + "/" + file);
    return found;
  };
  if (here("metrics.jsonl")) run.metrics = read_lines(place + "/metrics.jsonl");
  const struct {
    const char* file;
    Json& into;
  } files[] = {{"trainer_state.json", run.trainer_state},
               {"all_results.json", run.all_results},
               {"run.json", run.run},
               {"results.json", run.results},
               {"eval_results.json", run.eval_results},
               {"sensitivity.json", run.sensitivity},
               {"front.json", run.front},
               {"attack_results.json", run.attack_results},
               {"attack_table.json", run.attack_table}};
  for (const auto& [file, into] : files) {
    if (here(file)) into = read_json_file(place + "/" + file, kMaxFileBytes);
  }
  return run;
}

std::vector<std::string> directories_in(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code ignored;
    if (entry->is_directory(ignored)) names.push_back(entry->path().filename().string());
  }
  QALOF_CHECK(!error, ErrorKind::kNotFound, "{}: cannot be listed: {}", directory, error.message());
  std::sort(names.begin(), names.end());
  return names;
}

// The last part of a path: "demo" for "out/demo/".
std::string base_name(const std::string& directory) {
  std::error_code ignored;
  const fs::path whole = fs::weakly_canonical(directory, ignored);
  return whole.filename().empty() ? directory : whole.filename().string();
}

}  // namespace

ReportResult run_report(const ReportOptions& options) {
  const std::string& directory = options.directory;
  QALOF_CHECK(is_directory(directory), ErrorKind::kNotFound, "{}: no such directory", directory);
  std::vector<ReportRun> runs = {read_run(directory, "")};
  std::size_t below = 0;
  for (const std::string& name : directories_in(directory)) {
    // Checkpoints repeat files of the run's own directory.
    if (name.starts_with("checkpoint-") || name.starts_with(".")) continue;
    ReportRun run = read_run(directory, name);
    if (run.sources.empty()) continue;
    QALOF_CHECK(++below <= kMaxRuns, ErrorKind::kBadInput,
                "{}: more than {} directories with results, expected one experiment", directory,
                kMaxRuns);
    runs.push_back(std::move(run));
  }
  ReportResult result;
  for (const ReportRun& run : runs)
    result.sources.insert(result.sources.end(), run.sources.begin(), run.sources.end());
  const std::string sections = results_section(runs) + front_section(runs) +
                               sensitivity_section(runs) + attack_section(runs) +
                               training_section(runs) + commands_section(runs);
  QALOF_CHECK(!sections.empty(), ErrorKind::kNotFound,
              "{}: nothing to report; expected metrics.jsonl, trainer_state.json, "
              "all_results.json, results.json, eval_results.json, sensitivity.json, front.json, "
              "attack_results.json, attack_table.json or run.json there or in a directory below",
              directory);
  std::string places;
  for (const ReportRun& run : runs) {
    if (run.sources.empty()) continue;
    places += (places.empty() ? "" : ", ") + (run.name.empty() ? "the directory itself" : run.name);
  }
  const std::string summary = fmt::format("From {} files of {}.", result.sources.size(), places);
  result.file = options.output.empty() ? directory + "/report.html" : options.output;
  for (const std::string& source : result.sources) {
    QALOF_CHECK(!is_same_file(result.file, directory + "/" + source), ErrorKind::kUsage,
                "{}: is {}, which is read; choose another name for the report", result.file,
                source);
  }
  write_file_atomic(result.file, report_page(base_name(directory), summary, sections));
  return result;
}

}  // namespace qalof::report
