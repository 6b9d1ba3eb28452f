// Chooses the parts of a progress line that fit a terminal, and draws its bar.
#include "cli/progress_bar.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace qalof::cli {

namespace {

constexpr std::size_t kGap = 2;           // between parts
constexpr std::size_t kLeastStatus = 14;  // columns of a status worth showing

bool begins_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U; }

std::size_t characters(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), begins_character));
}

std::string repeated(std::string_view text, std::size_t count) {
  std::string result;
  for (std::size_t i = 0; i < count; ++i) result += text;
  return result;
}

// "1,234,567"
std::string grouped(std::uint64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t at = text.size(); at > 3; at -= 3) text.insert(at - 3, 1, ',');
  return text;
}

double share_of(const BarLine& line) {
  if (line.total == 0) return 0;
  return std::min(static_cast<double>(line.done) / static_cast<double>(line.total), 1.0);
}

// "0:06:12"
std::string clock_text(double seconds) {
  constexpr double kLongest = 3600.0 * 1000;
  if (!(seconds < kLongest)) return "over 999 hours";
  const auto whole = std::lround(seconds);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string counts_text(const BarLine& line) {
  const std::string total = grouped(line.total);
  // As wide as it will ever be: what follows stands still.
  const std::string text = fmt::format("{:>{}}/{}", grouped(line.done), total.size(), total);
  return line.unit.empty() ? text : fmt::format("{} {}", text, line.unit);
}

std::string rate_text(const BarLine& line) {
  if (!line.rate || !(*line.rate > 0)) return "";
  const double rate = *line.rate;
  if (rate < 0.1) return fmt::format("{} s each", std::lround(std::min(1 / rate, 1e9)));
  const std::string number =
      rate < 10    ? fmt::format("{:.2g}", rate)
      : rate < 100 ? fmt::format("{:.3g}", rate)
                   : grouped(static_cast<std::uint64_t>(std::llround(std::min(rate, 1e15))));
  return line.unit.empty() ? number + "/s" : fmt::format("{} {}/s", number, line.unit);
}

std::string time_text(const BarLine& line) {
  if (line.left) return fmt::format("ETA {}", clock_text(*line.left));
  return line.elapsed < 1 ? "" : clock_text(line.elapsed);
}

std::vector<std::string> split_details(const std::string& detail) {
  std::vector<std::string> items;
  for (std::size_t begin = 0; begin < detail.size();) {
    const std::size_t end = std::min(detail.find(", ", begin), detail.size());
    items.push_back(detail.substr(begin, end - begin));
    begin = end + 2;
  }
  return items;
}

std::size_t bar_width(std::size_t columns) {
  return std::clamp<std::size_t>(columns / 4, 16, 48) - 8;
}

std::string draw_bar(double share, std::size_t width, BarStyle style) {
  if (!style.unicode) {
    const auto full = static_cast<std::size_t>(share * static_cast<double>(width - 2));
    const std::string tip = full < width - 2 ? ">" : "";
    return fmt::format("[{:<{}}]", std::string(full, '=') + tip, width - 2);
  }
  const auto halves = static_cast<std::size_t>(share * 2 * static_cast<double>(width));
  const std::size_t full = halves / 2, rest = width - full;
  const bool half = halves % 2 == 1;
  std::string drawn = repeated("\u2501", full) + (half ? "\u2578" : "");
  if (!style.colour) return drawn + std::string(rest - (half ? 1 : 0), ' ');
  if (rest == 0) return fmt::format("\x1b[36m{}\x1b[0m", drawn);
  // A half at the seam, so that the two colours do not touch.
  const std::string remainder = (half ? "" : "\u257a") + repeated("\u2501", rest - 1);
  return fmt::format("\x1b[36m{}\x1b[90m{}\x1b[0m", drawn, remainder);
}

// The status as it fits; "" where little of it would.
std::string status_text(const std::string& status, std::size_t columns, BarStyle style) {
  const std::string cut_mark = style.unicode ? "\u2026" : "...";
  if (status.empty() || columns < kLeastStatus) return "";
  if (characters(status) + 2 <= columns) return fmt::format("({})", status);
  return fmt::format("({}{})", first_characters(status, columns - 2 - characters(cut_mark)),
                     cut_mark);
}

}  // namespace

std::string first_characters(std::string_view text, std::size_t count) {
  std::size_t seen = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (begins_character(text[i]) && seen++ == count) return std::string(text.substr(0, i));
  }
  return std::string(text);
}

std::string bar_line(const BarLine& line, std::size_t columns, BarStyle style) {
  const double share = share_of(line);
  const std::size_t width = bar_width(columns);
  const std::string label = first_characters(line.label, columns);
  std::size_t room = columns - characters(label);
  // The part, where it still fits and is not empty.
  bool full = false;
  const auto fits = [&](std::size_t part) {
    full = full || part + kGap > room;
    if (part == 0 || full) return false;
    room -= part + kGap;
    return true;
  };
  const auto take = [&](const std::string& part) { return fits(characters(part)) ? part : ""; };
  // By what they tell, then put together as they are read.
  const std::string percent = take(fmt::format("{:3} %", static_cast<int>(share * 100)));
  const std::string time = take(time_text(line));
  const std::string bar = fits(width) ? draw_bar(share, width, style) : "";
  const std::string counts = take(counts_text(line));
  const std::string rate = take(rate_text(line));
  std::string detail;
  for (const std::string& item : split_details(line.detail)) {
    const std::string taken = take(item);
    if (!taken.empty()) detail += (detail.empty() ? "" : ", ") + taken;
  }
  const std::string status =
      full || room < kGap ? "" : status_text(line.status, room - kGap, style);
  std::string text = label;
  for (const std::string& part : {bar, percent, counts, rate, time, detail, status}) {
    if (!part.empty()) text += std::string(kGap, ' ') + part;
  }
  return text;
}

}  // namespace qalof::cli
