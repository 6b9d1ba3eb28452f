// Progress reporting for long operations; never prints. The library reports, src/cli decides what a
// terminal, a log file or --json shows, and when.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace qalof {

/// Receives the reports of a running command. Called from one thread at a time. A call is cheap
/// compared with a pass through a network, so work reports as often as it likes.
class Observer {
 public:
  virtual ~Observer() = default;
  /// One line of information, e.g. the effective precision.
  virtual void info(std::string_view line) { (void)line; }
  /// One line the user should act on.
  virtual void warn(std::string_view line) { (void)line; }
  /// done of total units of what; total 0 means unknown. detail is short, e.g. "loss 1.23, lr
  /// 0.01", the most telling part first. unit names what is counted, e.g. "steps"; "" where what
  /// does. The first call comes before the work begins, so that something shows before its first
  /// unit ends.
  virtual void progress(std::string_view what, std::uint64_t done, std::uint64_t total,
                        std::string_view detail, std::string_view unit) {
    (void)what, (void)done, (void)total, (void)detail, (void)unit;
  }
  void progress(std::string_view what, std::uint64_t done, std::uint64_t total,
                std::string_view detail) {
    progress(what, done, total, detail, "");
  }
  /// The current activity, shown until the next progress or status: "reading train.json", or a part
  /// of a long unit. "" clears it and ends the display of progress.
  virtual void status(std::string_view what) { (void)what; }
};

}  // namespace qalof
