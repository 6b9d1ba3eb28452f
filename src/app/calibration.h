// Token windows whose activations post-training methods calibrate on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tasks/table.h"

namespace qalof::app {

struct CalibrationOptions {
  std::string task = tasks::kDefaultTask;
  tasks::TaskSet tasks;       // their options
  tasks::DataOptions data;    // file and max_seq_length
  std::size_t samples = 128;  // windows, the first of the file
};

/// At most options.samples windows of at most the model's positions. Error{kUsage}, {kNotFound},
/// what the readers say, or {kBadInput} where the file holds no window.
std::vector<std::vector<std::int32_t>> calibration_windows(const tasks::Reading& reading,
                                                           const CalibrationOptions& options);

}  // namespace qalof::app
