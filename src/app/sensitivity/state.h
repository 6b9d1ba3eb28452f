// Scores of a sensitivity analysis, stored as they are measured so that a killed run can be resumed
// (docs/file_formats.md, "Sensitivity state").
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "app/run_journal.h"
#include "core/process_group.h"
#include "tasks/samples.h"

namespace qalof::app {

/// What one pass over a batch gave.
struct MeasuredPass {
  std::vector<tasks::SampleScore> scores;
  double tokens_per_second = 0;  // 0: not measured
};

/// Not thread-safe.
class SensitivityState {
 public:
  /// Keeps scores in memory only.
  SensitivityState() = default;
  /// Resumes from the file where it belongs to the same run, else creates it. A truncated last
  /// record is dropped. Error{kUsage} where the file belongs to another run, unless overwrite;
  /// {kCorruptFile} where it is not a state file.
  SensitivityState(const std::string& path, const Json& identity, bool overwrite);

  /// The scores of a trial on a batch; null where not measured. Trial 0 is all-high.
  const std::vector<tasks::SampleScore>* find(std::size_t batch, std::size_t trial) const;
  /// The speed passed to add with the scores; 0 where none was.
  double tokens_per_second(std::size_t batch, std::size_t trial) const;
  /// Stores scores; when it returns they survive a kill of this process.
  void add(std::size_t batch, std::size_t trial, MeasuredPass pass);
  /// Every process of the group knows the passes that process 0 knows. Null: nothing to do.
  void share(ProcessGroup* group);
  /// Number of records found in the file at construction.
  std::size_t resumed() const { return resumed_; }

 private:
  void take(const Json& record, const std::string& where);

  std::map<std::pair<std::size_t, std::size_t>, MeasuredPass> passes_;
  std::string path_;  // "": in memory only
  Json header_;       // of a file that is created with the first record
  std::optional<RunJournal> journal_;
  std::size_t resumed_ = 0;
};

}  // namespace qalof::app
