// Remembers that a signal asked the process to stop. See signals.h.
#include "cli/signals.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace qalof::cli {

namespace {

// Written by the handler alone.
volatile std::sig_atomic_t received_signal = 0;

extern "C" void remember_signal(int signal) {
  received_signal = signal;
  // A second one is not caught: the default action ends the process.
  std::signal(signal, SIG_DFL);
}

// A byte in the pipe is an interrupt: one that comes just before a wait ends the wait, too.
std::array<int, 2> interrupt_pipe{-1, -1};

extern "C" void remember_interrupt(int) {
  const int error = errno;
  [[maybe_unused]] const ssize_t written = ::write(interrupt_pipe[1], "", 1);
  errno = error;
}

bool can_be_read(int descriptor) {
  pollfd wait{descriptor, POLLIN, 0};
  return ::poll(&wait, 1, 0) > 0;
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

Interrupts::Interrupts() {
  QALOF_CHECK(::pipe2(interrupt_pipe.data(), O_NONBLOCK | O_CLOEXEC) == 0, ErrorKind::kResource,
              "no pipe can be made: {}", std::strerror(errno));
  struct sigaction action = {};
  action.sa_handler = remember_interrupt;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, &before_);
}

Interrupts::~Interrupts() {
  sigaction(SIGINT, &before_, nullptr);
  for (int& end : interrupt_pipe) {
    ::close(end);
    end = -1;
  }
}

bool Interrupts::seen() { return can_be_read(interrupt_pipe[0]); }

void Interrupts::forget() {
  std::array<char, 64> bytes;
  while (::read(interrupt_pipe[0], bytes.data(), bytes.size()) > 0) {
  }
}

bool Interrupts::wait_for_input(int descriptor) {
  // Without a conversation the second is -1, which poll passes over.
  std::array<pollfd, 2> wait{{{descriptor, POLLIN, 0}, {interrupt_pipe[0], POLLIN, 0}}};
  while (::poll(wait.data(), wait.size(), -1) < 0 && errno == EINTR) {
  }
  return wait[1].revents == 0;
}

}  // namespace qalof::cli
