// Where a training run begins: anew, or at a checkpoint of the same run.
#pragma once

#include <optional>
#include <string>

#include "app/train/processes.h"
#include "app/train/run.h"
#include "core/file.h"
#include "io/checkpoint.h"
#include "train/run_state.h"

namespace qalof::app {

struct ResumePoint {
  io::CheckpointDir checkpoint;
  train::RunState state;
  Json trainer_state;
  Json identity;  // as stored, with what the run found out before its first step
};

/// An output directory, locked while this lives, ready to be written by one run.
class RunDirectory {
 public:
  /// Makes or takes over the directory; where claim is not called, what was made is gone again.
  /// Error{kUsage} where it holds what another run wrote, unless --overwrite_output_dir;
  /// {kNotFound}, {kCorruptFile} where --resume_from_checkpoint names no whole checkpoint.
  /// Processes that do not lead leave it alone, and resume where the one that leads does.
  RunDirectory(const TrainRunOptions& options, const Json& identity, const Processes& processes);

  /// The checkpoint from which the run resumes, or nothing.
  const std::optional<ResumePoint>& resume() const { return resume_; }
  /// Writes run.json, which says which run the directory belongs to. Results of an earlier run are
  /// removed, and checkpoints of later steps than the one from which the run resumes.
  /// identity: the constructor's, perhaps with more, which does not tell runs apart.
  void claim(const Json& identity);

 private:
  std::optional<io::CheckpointDir> choose_checkpoint(Observer& observer);
  void check_empty(const char* what_else);
  void load(const io::CheckpointDir& checkpoint, Observer& observer);

  const TrainRunOptions& options_;
  const Processes& processes_;
  Json identity_;
  std::optional<NewDirectory> made_;
  std::optional<DirectoryLock> lock_;
  std::optional<ResumePoint> resume_;
};

/// Name of the file that holds a run's identity, in its directory and its checkpoints.
inline constexpr const char* kRunFile = "run.json";
/// each: micro-batches that every process was started with.
void write_identity(const std::string& directory, const Json& identity, std::size_t each);
/// Micro-batches of a step of the run that a directory holds, where it was started with this many
/// for each process; 0 where there is none.
std::size_t stored_micro_batches(const std::string& directory, std::size_t each);
/// The flag of theirs.
inline constexpr const char* kMicroBatches = "--gradient_accumulation_steps";

}  // namespace qalof::app
