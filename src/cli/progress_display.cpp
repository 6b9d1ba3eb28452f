// When progress is drawn, and as which line.
#include "cli/progress_display.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace qalof::cli {

namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr milliseconds kRedraw{100};  // where work reports
constexpr seconds kSilence{1};        // where it does not
constexpr const char* kClear = "\r\x1b[K";

double seconds_of(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

std::string duration_text(double duration) {
  constexpr double kLongest = 1e12;  // of what is left of very many steps
  const auto whole = std::lround(std::min(duration, kLongest));
  if (whole < 60) return fmt::format("{}s", whole);
  if (whole < 3600) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  return fmt::format("{}h{:02}m", whole / 3600, whole % 3600 / 60);
}

}  // namespace

ProgressDisplay::Duration ProgressDisplay::interval(Time now) const {
  const Duration since = now - start_;
  return since < minutes(1) ? seconds(10) : since < minutes(10) ? seconds(30) : seconds(60);
}

std::optional<double> ProgressDisplay::seconds_each() const {
  if (!has_mark_ || done_ <= mark_) return std::nullopt;
  return seconds_of(last_time_ - mark_time_) / static_cast<double>(done_ - mark_);
}

std::optional<double> ProgressDisplay::seconds_left(Time now) const {
  const auto each = seconds_each();
  if (total_ == 0 || !each) return std::nullopt;
  const double left = *each * static_cast<double>(total_ - done_) - seconds_of(now - last_time_);
  return std::max(left, 0.0);
}

// The current activity, and how long it has been silent.
std::string ProgressDisplay::status_text(Time now) const {
  const Duration since = now - status_begun_;
  if (status_.empty() || since < kSilence) return status_;
  return fmt::format("{} {}", status_, duration_text(seconds_of(since)));
}

std::string ProgressDisplay::text(Time now) const {
  const std::string status = status_text(now);
  if (!counts_) return printable(status);
  std::string text = total_ > 0 ? fmt::format("{} {}/{}", what_, done_, total_)
                                : fmt::format("{} {}", what_, done_);
  if (!detail_.empty()) text += "  " + detail_;
  if (const auto left = seconds_left(now)) {
    text += fmt::format("  {} left", duration_text(*left));
  } else if (now - begun_ >= kSilence) {
    text += "  " + duration_text(seconds_of(now - begun_));
  }
  if (!status.empty()) text += fmt::format("  ({})", status);
  return printable(text);
}

std::string ProgressDisplay::bar(Time now, std::size_t columns) const {
  BarLine line;
  line.label = printable(what_);
  line.done = done_;
  line.total = total_;
  line.unit = printable(unit_);
  const auto each = seconds_each();
  if (each && *each > 0) line.rate = 1 / *each;
  line.left = seconds_left(now);
  line.elapsed = seconds_of(now - begun_);
  line.detail = printable(detail_);
  line.status = printable(status_text(now));
  return bar_line(line, columns, style_);
}

std::string ProgressDisplay::keep(Time now, const std::string& line) {
  shown_ = now;
  return end() + line + "\n";
}

std::string ProgressDisplay::show(Time now) {
  if (!is_terminal_) return keep(now, text(now));
  shown_ = now;
  line_open_ = true;
  constexpr std::size_t kUnknown = 100;
  const std::size_t columns = columns_ > 1 ? columns_ - 1 : kUnknown;  // the last one may wrap
  if (counts_ && total_ > 0) return kClear + bar(now, columns);
  return kClear + (columns_ > 1 ? first_characters(text(now), columns) : text(now));
}

std::string ProgressDisplay::line(Time now, std::string_view text) {
  return keep(now, printable(std::string(text)));
}

std::string ProgressDisplay::progress(Time now, std::string_view what, std::uint64_t done,
                                      std::uint64_t total, std::string_view detail,
                                      std::string_view unit) {
  const bool is_told = !counts_ && total > 0 && what == what_ && done == done_ && total == total_;
  status_.clear();
  if (is_told && done >= total) return "";  // that all are done
  if (!counts_ || what != what_ || done < done_) {
    what_ = what;
    begun_ = last_time_ = now;
    has_mark_ = false;
    done_ = done;
  }
  if (done > done_) {
    if (!has_mark_) {
      mark_ = done;
      mark_time_ = now;
      has_mark_ = true;
    }
    done_ = done;
    last_time_ = now;
  }
  total_ = total;
  detail_ = detail;
  unit_ = unit;
  counts_ = total == 0 || done < total;
  if (!counts_) {
    std::string text = fmt::format("{} {}/{}", what_, done_, total_);
    if (!detail_.empty()) text += "  " + detail_;
    return line(now, text + "  " + duration_text(seconds_of(now - begun_)));
  }
  return now - shown_ < (is_terminal_ ? Duration(kRedraw) : interval(now)) ? "" : show(now);
}

std::string ProgressDisplay::status(Time now, std::string_view what) {
  status_ = what;
  status_begun_ = now;
  if (!status_.empty()) return "";  // what is done at once needs no line: tick shows it
  counts_ = false;
  what_.clear();
  return end();
}

std::string ProgressDisplay::tick(Time now) {
  if (!is_active() || now - shown_ < (is_terminal_ ? Duration(kSilence) : interval(now))) return "";
  return show(now);
}

std::string ProgressDisplay::end() {
  if (!line_open_) return "";
  line_open_ = false;
  return kClear;
}

}  // namespace qalof::cli
