// SIGINT and SIGTERM during long work: the first asks it to finish its step and save, the second
// ends the process at once.
#pragma once

namespace qalof::cli {

/// Handles the signals while it lives.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  /// The signal received since the process began, or 0.
  static int received();
};

}  // namespace qalof::cli
