#include "cli/terminal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>

namespace qalof::cli {

namespace {

using Clock = std::chrono::steady_clock;

std::string duration_text(double seconds) {
  constexpr double kLongest = 1e12;  // of what is left of very many steps
  const auto whole = static_cast<long>(std::min(seconds, kLongest) + 0.5);
  if (whole < 60) return fmt::format("{}s", whole);
  if (whole < 3600) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  return fmt::format("{}h{:02}m", whole / 3600, whole % 3600 / 60);
}

class TerminalObserver final : public Observer {
 public:
  explicit TerminalObserver(bool quiet) : quiet_(quiet), is_terminal_(isatty(STDERR_FILENO) == 1) {}
  ~TerminalObserver() override { clear_line(); }

  void info(std::string_view line) override {
    if (!quiet_) print_line(line);
  }
  void warn(std::string_view line) override { print_line(fmt::format("warning: {}", line)); }

  void progress(std::string_view what, std::uint64_t done, std::uint64_t total,
                std::string_view detail) override {
    if (quiet_) return;
    const Clock::time_point now = Clock::now();
    if (what != what_ || done < done_) {
      what_ = what;
      start_ = now;
      first_ = done;
      shown_ = Clock::time_point{};
    }
    done_ = done;
    const bool finished = total > 0 && done >= total;
    const auto interval =
        is_terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(10000);
    if (!is_terminal_ && shown_ == Clock::time_point{} && !finished) shown_ = now;
    if (!finished && now - shown_ < interval) return;
    shown_ = now;
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    std::string line =
        total > 0 ? fmt::format("{} {}/{}", what, done, total) : fmt::format("{} {}", what, done);
    if (!detail.empty()) line += fmt::format("  {}", detail);
    if (finished) {
      line += fmt::format("  {}", duration_text(elapsed));
    } else if (total > 0 && done > first_) {
      line += fmt::format("  {} left", duration_text(elapsed * static_cast<double>(total - done) /
                                                     static_cast<double>(done - first_)));
    }
    if (is_terminal_ && !finished) {
      fmt::print(stderr, "\r\x1b[K{}", line);
      std::fflush(stderr);
      line_open_ = true;
    } else {
      print_line(line);
    }
  }

 private:
  void clear_line() {
    if (line_open_) fmt::print(stderr, "\r\x1b[K");
    line_open_ = false;
  }
  void print_line(std::string_view line) {
    clear_line();
    fmt::print(stderr, "{}\n", line);
  }

  bool quiet_;
  bool is_terminal_;
  bool line_open_ = false;
  std::string what_;
  std::uint64_t done_ = 0, first_ = 0;
  Clock::time_point start_{}, shown_{};
};

}  // namespace

std::unique_ptr<Observer> make_terminal_observer(bool quiet) {
  return std::make_unique<TerminalObserver>(quiet);
}

}  // namespace qalof::cli
