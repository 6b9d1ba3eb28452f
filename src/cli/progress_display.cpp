#include "cli/progress_display.h"

#include <fmt/format.h>

#include <algorithm>

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
  const auto whole = static_cast<long>(std::min(duration, kLongest) + 0.5);
  if (whole < 60) return fmt::format("{}s", whole);
  if (whole < 3600) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  return fmt::format("{}h{:02}m", whole / 3600, whole % 3600 / 60);
}

// The first characters of UTF-8 text.
std::string cut(const std::string& text, std::size_t characters) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool continues = (static_cast<unsigned char>(text[i]) & 0xC0U) == 0x80U;
    if (!continues && count++ == characters) return text.substr(0, i);
  }
  return text;
}

}  // namespace

ProgressDisplay::Duration ProgressDisplay::interval(Time now) const {
  const Duration since = now - start_;
  return since < minutes(1) ? seconds(10) : since < minutes(10) ? seconds(30) : seconds(60);
}

// How long the units will take or, where that is not known yet, have taken.
std::string ProgressDisplay::time_text(Time now) const {
  if (total_ > 0 && has_mark_ && done_ > mark_) {
    const double each = seconds_of(last_time_ - mark_time_) / static_cast<double>(done_ - mark_);
    const double left = each * static_cast<double>(total_ - done_) - seconds_of(now - last_time_);
    return fmt::format("  {} left", duration_text(std::max(left, 0.0)));
  }
  return now - begun_ < kSilence ? "" : "  " + duration_text(seconds_of(now - begun_));
}

std::string ProgressDisplay::text(Time now) const {
  const Duration since = now - status_begun_;
  const std::string status =
      since < kSilence ? status_ : fmt::format("{} {}", status_, duration_text(seconds_of(since)));
  if (!counts_) return printable(status);
  std::string text = total_ > 0 ? fmt::format("{} {}/{}", what_, done_, total_)
                                : fmt::format("{} {}", what_, done_);
  if (!detail_.empty()) text += "  " + detail_;
  text += time_text(now);
  if (!status_.empty()) text += fmt::format("  ({})", status);
  return printable(text);
}

std::string ProgressDisplay::keep(Time now, const std::string& line) {
  shown_ = now;
  return end() + line + "\n";
}

std::string ProgressDisplay::show(Time now) {
  if (!is_terminal_) return keep(now, text(now));
  shown_ = now;
  line_open_ = true;
  return kClear + (columns_ > 1 ? cut(text(now), columns_ - 1) : text(now));
}

std::string ProgressDisplay::line(Time now, std::string_view text) {
  return keep(now, printable(std::string(text)));
}

std::string ProgressDisplay::progress(Time now, std::string_view what, std::uint64_t done,
                                      std::uint64_t total, std::string_view detail) {
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
