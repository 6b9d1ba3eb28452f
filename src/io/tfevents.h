// TensorBoard event files: scalars over steps (docs/file_formats.md, "Event file").
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/file.h"

namespace qalof::io {

/// Frames a payload as a TFRecord: length, checksum of the length, payload, checksum of the
/// payload.
std::string tf_record(std::string_view payload);

/// One run's scalars. Not thread-safe.
class EventFile {
 public:
  /// Creates events.out.tfevents.SECONDS.HOST.PID.N in directory. With first_step, readers
  /// discard what earlier files of the directory hold for that step and later ones.
  /// Error{kResource}.
  EventFile(const std::string& directory, std::optional<std::int64_t> first_step);
  /// wall_time in seconds since 1970.
  void scalar(std::string_view tag, std::int64_t step, double value, double wall_time);
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::unique_ptr<AppendFile> file_;
};

}  // namespace qalof::io
