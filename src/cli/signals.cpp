// Remembers that a signal asked the process to stop. See signals.h.
#include "cli/signals.h"

#include <csignal>

namespace qalof::cli {

namespace {

// Written by the handler alone.
volatile std::sig_atomic_t received_signal = 0;

extern "C" void remember_signal(int signal) {
  received_signal = signal;
  // A second one is not caught: the default action ends the process.
  std::signal(signal, SIG_DFL);
}

}  // namespace

StopSignals::StopSignals() {
  std::signal(SIGINT, remember_signal);
  std::signal(SIGTERM, remember_signal);
}

StopSignals::~StopSignals() {
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

int StopSignals::received() { return received_signal; }

}  // namespace qalof::cli
