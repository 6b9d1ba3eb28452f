// Writes progress to standard error, and watches the clock for it.
#include "cli/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <thread>

#include "cli/progress_display.h"
#include "core/ascii.h"

namespace qalof::cli {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kTick{250};

bool can_redraw() {
  const char* term = std::getenv("TERM");
  return isatty(STDERR_FILENO) == 1 && (term == nullptr || std::string_view(term) != "dumb");
}

// A variable that is set and not empty.
std::string_view variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Of the character set by POSIX's order of variables.
bool has_utf8() {
  std::string locale;
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    if (locale.empty()) locale = variable(name);
  }
  locale = lower_ascii(std::move(locale));
  return locale.find("utf-8") != std::string::npos || locale.find("utf8") != std::string::npos;
}

BarStyle bar_style() { return {/*unicode=*/has_utf8(), /*colour=*/variable("NO_COLOR").empty()}; }

class TerminalObserver final : public Observer {
 public:
  explicit TerminalObserver(bool quiet)
      : quiet_(quiet),
        is_terminal_(can_redraw()),
        display_(is_terminal_, Clock::now(), bar_style()) {
    if (is_terminal_) display_.set_columns(terminal_columns(STDERR_FILENO));
  }
  ~TerminalObserver() override {
    {
      const std::lock_guard lock(mutex_);
      stops_ = true;
      write(display_.end());
    }
    wake_.notify_all();
    if (ticker_.joinable()) ticker_.join();
  }

  void info(std::string_view line) override {
    if (quiet_) return;
    const std::lock_guard lock(mutex_);
    write(display_.line(Clock::now(), line));
  }
  void warn(std::string_view line) override {
    const std::lock_guard lock(mutex_);
    write(display_.line(Clock::now(), fmt::format("warning: {}", line)));
  }
  void progress(std::string_view what, std::uint64_t done, std::uint64_t total,
                std::string_view detail, std::string_view unit) override {
    if (quiet_) return;
    const std::lock_guard lock(mutex_);
    write(display_.progress(Clock::now(), what, done, total, detail, unit));
    start_ticker();
  }
  void status(std::string_view what) override {
    if (quiet_) return;
    const std::lock_guard lock(mutex_);
    write(display_.status(Clock::now(), what));
    start_ticker();
  }

 private:
  static void write(const std::string& text) {
    if (text.empty()) return;
    std::fwrite(text.data(), 1, text.size(), stderr);
    std::fflush(stderr);
  }

  // Signals are the other threads'. Without a thread to spare, reports alone show progress.
  void start_ticker() {
    if (ticker_.joinable() || failed_) return;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      ticker_ = std::thread([this] { tick(); });
    } catch (const std::system_error&) {
      failed_ = true;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  void tick() {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, kTick, [this] { return stops_; })) {
      if (is_terminal_) display_.set_columns(terminal_columns(STDERR_FILENO));
      write(display_.tick(Clock::now()));
    }
  }

  bool quiet_;
  bool is_terminal_;
  std::mutex mutex_;  // of all below
  std::condition_variable wake_;
  ProgressDisplay display_;
  bool stops_ = false, failed_ = false;
  std::thread ticker_;
};

}  // namespace

std::size_t terminal_columns(int descriptor) {
  winsize size{};
  return ioctl(descriptor, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

std::unique_ptr<Observer> make_terminal_observer(bool quiet) {
  return std::make_unique<TerminalObserver>(quiet);
}

}  // namespace qalof::cli
