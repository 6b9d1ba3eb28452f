// Cuts the first windows from SQuAD, classification or plain text files.
#include "app/calibration.h"

#include "core/error.h"
#include "core/file.h"

namespace qalof::app {

std::vector<std::vector<std::int32_t>> calibration_windows(const tasks::Reading& reading,
                                                           const CalibrationOptions& options) {
  const std::string& file = options.data.file;
  QALOF_CHECK(!file.empty(), ErrorKind::kUsage, "--calibration_file is missing");
  QALOF_CHECK(path_exists(file), ErrorKind::kNotFound, "{}: no such file", file);
  QALOF_CHECK(options.samples > 0, ErrorKind::kUsage,
              "--calibration_samples: found 0, expected at least 1");
  const tasks::Task& task = options.tasks.at(options.task, tasks::Use::kCalibrate);
  std::vector<std::vector<std::int32_t>> windows =
      task.windows(reading, options.data, options.samples);
  std::erase_if(windows, [](const auto& window) { return window.empty(); });
  QALOF_CHECK(!windows.empty(), ErrorKind::kBadInput, "{}: holds nothing to calibrate on", file);
  return windows;
}

}  // namespace qalof::app
