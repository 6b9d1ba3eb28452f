// Checkpoints of a training run: directories checkpoint-<step> that are there whole or not at all,
// and that are verified before they are used (docs/file_formats.md, "Checkpoint").
// Not for: what the files in them mean (app/train_checkpoint.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/progress.h"

namespace qalof::io {

struct CheckpointDir {
  std::string path;
  std::int64_t step = 0;
};

/// Directories named `checkpoint-<step>` in output_dir, newest first, valid or not.
std::vector<CheckpointDir> list_checkpoints(const std::string& output_dir);

/// Compares the manifest with its checksum and every file with the manifest. Returns the step.
/// Error{kNotFound} where path is no directory, {kCorruptFile} for the first difference,
/// {kUnsupported} for an unknown format_version. A file the manifest does not name is passed over:
/// nothing reads it.
std::int64_t verify_checkpoint(const std::string& path);

/// The newest checkpoint that verifies; a warning for each newer one that does not.
std::optional<CheckpointDir> newest_checkpoint(const std::string& output_dir, Observer& observer);

/// A checkpoint being written. Files go below directory(); they are part of output_dir only once
/// commit() returns. Not thread-safe; the caller holds the directory's lock.
class CheckpointWriter {
 public:
  /// Error{kResource} where the directory cannot be made.
  CheckpointWriter(const std::string& output_dir, std::int64_t step);
  /// Removes what was not committed.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  const std::string& directory() const { return temporary_; }
  /// Flushes every file, writes the manifest, flushes the directories, and renames. An older
  /// checkpoint of the same step is replaced. Error{kResource}: whatever was there before is still
  /// there.
  void commit();

 private:
  std::string output_dir_, temporary_, path_;
  std::int64_t step_;
  bool committed_ = false;
};

/// Takes a checkpoint away: it is renamed first, so that it is never half there.
void remove_checkpoint(const CheckpointDir& checkpoint);
/// Removes checkpoints later than step (-1: all).
void remove_checkpoints_after(const std::string& output_dir, std::int64_t step);
/// Removes the oldest until `limit` are left; 0 keeps all.
void limit_checkpoints(const std::string& output_dir, std::size_t limit);
/// Removes what killed runs left under temporary names. The caller holds the directory's lock.
void remove_unfinished_checkpoints(const std::string& output_dir);

}  // namespace qalof::io
