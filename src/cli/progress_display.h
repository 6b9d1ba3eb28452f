// What a terminal or a log file shows during long work, and when: a function of the calls and of
// the times given with them. It has no clock and no output of its own (terminal.h has both).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cli/progress_bar.h"

namespace qalof::cli {

/// On a terminal one line that is redrawn, with a bar where the work's extent is known, at most ten
/// times a second where work reports and once a second where it is silent. In a log plain lines:
/// one where ten seconds passed since the last of any kind, after a minute of the command thirty,
/// after ten minutes sixty. Each function returns the bytes to write now, often none.
class ProgressDisplay {
 public:
  using Time = std::chrono::steady_clock::time_point;

  ProgressDisplay(bool is_terminal, Time start, BarStyle style = {})
      : is_terminal_(is_terminal), style_(style), start_(start) {
    shown_ = start;
  }
  /// Width to which lines of a terminal are cut; 0: unknown.
  void set_columns(std::size_t columns) { columns_ = columns; }

  /// A line that stays.
  std::string line(Time now, std::string_view text);
  /// As Observer's. The time left is told once two units are done.
  std::string progress(Time now, std::string_view what, std::uint64_t done, std::uint64_t total,
                       std::string_view detail, std::string_view unit = "");
  std::string status(Time now, std::string_view what);
  /// For calls at short intervals: time has passed.
  std::string tick(Time now);
  /// Clears what would be redrawn.
  std::string end();

 private:
  using Duration = std::chrono::steady_clock::duration;
  bool is_active() const { return counts_ || !status_.empty(); }
  Duration interval(Time now) const;
  std::optional<double> seconds_each() const;
  std::optional<double> seconds_left(Time now) const;
  std::string text(Time now) const;
  std::string bar(Time now, std::size_t columns) const;
  std::string status_text(Time now) const;
  std::string show(Time now);
  std::string keep(Time now, const std::string& line);

  bool is_terminal_;
  BarStyle style_;
  std::size_t columns_ = 0;
  Time start_, shown_;      // of the command; of the last line
  bool line_open_ = false;  // on a terminal: a line that will be redrawn

  // Units of work.
  bool counts_ = false;  // there are some, and not all are done
  std::string what_, detail_, unit_;
  std::uint64_t done_ = 0, total_ = 0;
  Time begun_{};           // the first unit began
  bool has_mark_ = false;  // a unit has ended: the first is slower than the rest as a rule
  std::uint64_t mark_ = 0;
  Time mark_time_{}, last_time_{};  // when units done became mark_ and done_

  std::string status_;
  Time status_begun_{};
};

}  // namespace qalof::cli
