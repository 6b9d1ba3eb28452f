// Checkpoints of a training run: directories checkpoint-<step> that are either complete or absent,
// and that are verified before they are used (docs/file_formats.md, "Checkpoint"). Not for: the
// meaning of the files in them (app/train/checkpoint.h).
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
/// Error{kNotFound} where path is not a directory, {kCorruptFile} for the first difference,
/// {kUnsupported} for an unknown format_version. Files that the manifest does not name are ignored,
/// since nothing reads them.
std::int64_t verify_checkpoint(const std::string& path);

/// The newest valid checkpoint; a warning for each newer one that fails verification.
std::optional<CheckpointDir> newest_checkpoint(const std::string& output_dir, Observer& observer);

/// A checkpoint being written. The caller puts files into directory(); they become part of
/// output_dir only when commit() returns. Not thread-safe; the caller holds the directory's lock.
class CheckpointWriter {
 public:
  /// Error{kResource} where the directory cannot be made.
  CheckpointWriter(const std::string& output_dir, std::int64_t step);
  /// Removes the files unless they were committed.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  const std::string& directory() const { return temporary_; }
  /// Flushes every file, writes the manifest, flushes the directories, and renames. An older
  /// checkpoint of the same step is replaced. On Error{kResource} the previous state is intact.
  void commit();

 private:
  std::string output_dir_, temporary_, path_;
  std::int64_t step_;
  bool committed_ = false;
};

/// Removes a checkpoint: it is renamed first, so that a partly removed one is never taken for
/// valid.
void remove_checkpoint(const CheckpointDir& checkpoint);
/// Removes checkpoints later than step (-1: all).
void remove_checkpoints_after(const std::string& output_dir, std::int64_t step);
/// Removes the oldest checkpoints until `limit` are left; 0 keeps all.
void limit_checkpoints(const std::string& output_dir, std::size_t limit);
/// Removes temporary directories left by killed runs. The caller holds the directory's lock.
void remove_unfinished_checkpoints(const std::string& output_dir);

}  // namespace qalof::io
