// Scores of a sensitivity analysis as they are measured, kept in a file so that a killed run goes
// on (docs/file_formats.md, "Sensitivity state").
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/file.h"
#include "core/json.h"
#include "tasks/samples.h"

namespace qalof::app {

/// Not thread-safe.
class SensitivityState {
 public:
  /// Keeps scores in memory alone.
  SensitivityState() = default;
  /// Takes up the file where it is of the same run, else begins it. A last record that was cut off
  /// is dropped. Error{kUsage} where the file is of another run, unless overwrite; {kCorruptFile}
  /// where it is no such file.
  SensitivityState(const std::string& path, const Json& identity, bool overwrite);

  /// Null where it has not been measured. trial 0 is all-high.
  const std::vector<tasks::SampleScore>* find(std::size_t batch, std::size_t trial) const;
  /// What add was given with the scores; 0 where nothing was.
  double tokens_per_second(std::size_t batch, std::size_t trial) const;
  /// On disk when it returns, as far as a killed process is concerned.
  void add(std::size_t batch, std::size_t trial, std::vector<tasks::SampleScore> scores,
           double tokens_per_second = 0);
  /// Records that were there at the beginning.
  std::size_t resumed() const { return resumed_; }

 private:
  void read(const std::string& path, const Json& identity);
  struct Pass {
    std::vector<tasks::SampleScore> scores;
    double tokens_per_second = 0;
  };
  std::map<std::pair<std::size_t, std::size_t>, Pass> passes_;
  std::string path_, header_;  // of a file that the first record makes
  std::unique_ptr<AppendFile> file_;
  std::size_t resumed_ = 0;
};

}  // namespace qalof::app
