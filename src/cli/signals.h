// SIGINT and SIGTERM during long work, where the first asks it to finish its step and save and the
// second ends the process at once, and SIGINT in a conversation.
#pragma once

#include <csignal>

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

/// SIGINT interrupts an answer or a line that is typed, and nothing else, while this lives. Made
/// and used by one thread; the signal may reach any.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;
  /// Whether one came since forget().
  static bool seen();
  static void forget();
  /// Waits until descriptor can be read. False where an interrupt came first, after forget().
  static bool wait_for_input(int descriptor);

 private:
  struct sigaction before_ = {};
};

}  // namespace qalof::cli
