// One line of a terminal that says how far work is: a bar, percent, counts, rate and the time left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace qalof::cli {

/// What a terminal can show.
struct BarStyle {
  bool unicode = false;
  bool colour = false;
};

struct BarLine {
  std::string label;  // "train w8"
  std::uint64_t done = 0, total = 1;
  std::string unit;            // "steps"; "" where the label names what is counted
  std::optional<double> rate;  // units a second
  std::optional<double> left;  // seconds
  double elapsed = 0;          // seconds; shown while the time left is unknown
  std::string detail;          // "loss 1.2, lr 1e-3": the most telling part first
  std::string status;          // what the current unit is doing
};

/// At most that many columns. Where they are too few, parts are left out whole, the least telling
/// first: status (which is cut before), details from the last, rate, counts, bar, time, percent.
/// The bar's width depends on columns alone, so that it stands still while numbers grow.
std::string bar_line(const BarLine& line, std::size_t columns, BarStyle style);

/// The first characters of UTF-8 text.
std::string first_characters(std::string_view text, std::size_t count);

}  // namespace qalof::cli
