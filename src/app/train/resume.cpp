// Chooses the checkpoint that a run resumes from, and locks its directory. See resume.h.
#include "app/train/resume.h"

#include <filesystem>
#include <set>

#include "app/train/checkpoint.h"
#include "app/train/data.h"
#include "core/error.h"
#include "core/format_version.h"

namespace qalof::app {

namespace fs = std::filesystem;

namespace {

constexpr int kFormatVersion = 1;
constexpr const char* kAuto = "auto";
constexpr const char* kResultsFile = "all_results.json";

std::optional<Json> read_identity(const std::string& directory) {
  const std::string path = directory + "/" + kRunFile;
  if (!path_exists(path)) return std::nullopt;
  const Json json = read_json_file(path);
  read_format_version(json, path, kFormatVersion);
  QALOF_CHECK(json.contains("run"), ErrorKind::kBadInput, "{}: run is missing", path);
  return json["run"];
}

bool is_same_run(const std::string& directory, const Json& identity) {
  const std::optional<Json> there = read_identity(directory);
  return there && identity_difference(*there, identity).empty();
}

// Files that a killed run may leave while it writes one of its own.
void remove_unfinished_files(const std::string& directory) {
  static const std::set<std::string> ours = {kRunFile,     "metrics.jsonl", "trainer_state.json",
                                             kResultsFile, "qalof.json",    kSelfTextFile};
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    const std::size_t mark = name.find(".tmp-");
    if (mark != std::string::npos && ours.contains(name.substr(0, mark))) {
      fs::remove(entry.path(), ignored);
    }
  }
}

// A run that was asked to stop tells its results too.
bool is_complete(const std::string& directory) {
  const std::string path = directory + "/" + kResultsFile;
  return path_exists(path) && !read_json_file(path).value("interrupted", false);
}

bool is_parent(const std::string& directory, const std::string& path) {
  std::error_code ignored;
  return fs::equivalent(fs::path(path) / "..", directory, ignored);
}

bool holds_nothing_but_the_lock(const std::string& directory) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().filename() != ".lock") return false;
  }
  return true;
}

}  // namespace

void write_identity(const std::string& directory, const Json& identity, std::size_t each) {
  const std::string path = directory + "/" + kRunFile;
  const Json json = {
      {"format_version", kFormatVersion}, {"run", identity}, {"micro_batches_each", each}};
  write_file_atomic(path, dump_json(json, path, 2) + "\n");
}

std::size_t stored_micro_batches(const std::string& directory, std::size_t each) {
  const std::string path = directory + "/" + kRunFile;
  if (!path_exists(path)) return 0;
  const Json json = read_json_file(path);
  const auto member = [](const Json& object, const char* key) {
    return object.is_object() ? object.value(key, Json()) : Json();
  };
  if (member(json, "micro_batches_each") != each) return 0;
  const Json total = member(member(member(json, "run"), "flags"), kMicroBatches);
  return total.is_number_unsigned() ? total.get<std::size_t>() : 0;
}

RunDirectory::RunDirectory(const TrainRunOptions& options, const Json& identity,
                           const Processes& processes)
    : options_(options), processes_(processes), identity_(identity) {
  std::optional<io::CheckpointDir> from;
  // Path and step, or nothing.
  const std::string chosen = processes.of_leader([&]() -> std::string {
    made_.emplace(options.output_dir);
    lock_.emplace(options.output_dir);
    io::remove_unfinished_checkpoints(options.output_dir);
    remove_unfinished_files(options.output_dir);
    from = choose_checkpoint(processes.observer());
    return from ? Json{from->path, from->step}.dump() : "";
  });
  if (chosen.empty()) return;
  if (!from) {
    const Json told = Json::parse(chosen);
    from = {told[0].get<std::string>(), told[1].get<std::int64_t>()};
  }
  load(*from, processes.observer());
}

void RunDirectory::claim(const Json& identity) {
  if (!processes_.lead()) return;
  const bool goes_on = resume_ && is_parent(options_.output_dir, resume_->checkpoint.path);
  io::remove_checkpoints_after(options_.output_dir, goes_on ? resume_->checkpoint.step : -1);
  std::error_code ignored;
  fs::remove(options_.output_dir + "/" + kResultsFile, ignored);
  write_identity(options_.output_dir, identity, options_.micro_batches_each);
}

std::optional<io::CheckpointDir> RunDirectory::choose_checkpoint(Observer& observer) {
  const std::string& directory = options_.output_dir;
  const std::string& asked = options_.resume_from_checkpoint;
  if (!asked.empty() && asked != kAuto) {
    const std::int64_t step = io::verify_checkpoint(asked);
    if (!is_parent(directory, asked) && !options_.overwrite_output_dir) check_empty("");
    return io::CheckpointDir{asked, step};
  }
  if (asked.empty() && options_.overwrite_output_dir) return std::nullopt;
  const auto newest = io::newest_checkpoint(directory, observer);
  if (newest) return newest;
  QALOF_CHECK(asked.empty(), ErrorKind::kNotFound,
              "--resume_from_checkpoint auto: {} holds no whole checkpoint", directory);
  // A run that was killed before its first checkpoint begins again.
  if (is_same_run(directory, identity_) && !is_complete(directory)) {
    observer.info(fmt::format("{}: an earlier start of this run left no checkpoint; it starts over",
                              directory));
    return std::nullopt;
  }
  check_empty(" and holds no whole checkpoint");
  return std::nullopt;
}

void RunDirectory::check_empty(const char* what_else) {
  QALOF_CHECK(holds_nothing_but_the_lock(options_.output_dir), ErrorKind::kUsage,
              "{}: is not empty{}; --overwrite_output_dir replaces what a run writes",
              options_.output_dir, what_else);
}

void RunDirectory::load(const io::CheckpointDir& checkpoint, Observer& observer) {
  const std::optional<Json> there = read_identity(checkpoint.path);
  QALOF_CHECK(there.has_value(), ErrorKind::kCorruptFile, "{}: {} is missing", checkpoint.path,
              kRunFile);
  const std::string difference = identity_difference(*there, identity_);
  QALOF_CHECK(difference.empty(), ErrorKind::kUsage,
              "{}: belongs to another run: {}; the flags of that run resume it, "
              "--overwrite_output_dir starts over",
              checkpoint.path, difference);
  ResumePoint point;
  point.checkpoint = checkpoint;
  point.identity = *there;
  point.state = read_run_state(checkpoint.path + "/state.safetensors");
  point.trainer_state = read_json_file(checkpoint.path + "/trainer_state.json");
  QALOF_CHECK(point.state.global_step() == checkpoint.step, ErrorKind::kCorruptFile,
              "{}: its state is that of step {}", checkpoint.path, point.state.global_step());
  observer.info(fmt::format("resuming from {} after step {}", checkpoint.path, checkpoint.step));
  resume_ = std::move(point);
}

}  // namespace qalof::app
