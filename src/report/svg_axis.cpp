// Axes of charts: ranges, round ticks, numbers as text.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/svg_chart.h"

namespace qalof::report {

namespace {

// Numbers beyond these are drawn at the edge: their differences and steps would overflow.
constexpr double kLargest = 1e307, kSmallest = 1e-300;
// A range narrower than this share of its numbers reads as one number, and its steps would approach
// the spacing of doubles.
constexpr double kNarrowest = 1e-9;

// NaN counts as low.
double bounded(double value, double low, double high) {
  return value >= low ? std::min(value, high) : low;
}

// first, first + step, ... last; few, because of the choice of steps.
std::vector<double> counted(double first, double last, double step) {
  const auto count = static_cast<int>(bounded((last - first) / step, 0, 1000));
  std::vector<double> numbers;
  for (int i = 0; i <= count; ++i) numbers.push_back(first + i * step);
  return numbers;
}

}  // namespace

double ChartAxis::position(double value) const {
  const double inside = bounded(value, low, high);
  if (log) return (std::log(inside) - std::log(low)) / (std::log(high) - std::log(low));
  return (inside - low) / (high - low);
}

ChartAxis linear_axis(double low, double high, int count) {
  low = bounded(low, -kLargest, kLargest);
  high = bounded(high, low, kLargest);
  const double size = std::max(std::abs(low), std::abs(high));
  if (high - low <= std::max(kNarrowest * size, kSmallest)) {
    const double extent = size <= kSmallest ? 1 : size / 2;
    low = size <= kSmallest ? -extent : low - extent;
    high = low + 2 * extent;
  }
  const double rough = (high - low) / std::max(count, 1);
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * 0.999) {
      step = factor * power;
      break;
    }
  }
  ChartAxis axis;
  for (const double i : counted(std::floor(low / step + 1e-9), std::ceil(high / step - 1e-9), 1))
    axis.ticks.push_back(i == 0 ? 0 : i * step);
  axis.low = axis.ticks.front();
  axis.high = axis.ticks.back();
  return axis;
}

ChartAxis log_axis(double low, double high, double base) {
  low = bounded(low, kSmallest, kLargest);
  high = bounded(high, low, kLargest);
  const double first = std::floor(std::log(low) / std::log(base) + 1e-9);
  double last = std::ceil(std::log(high) / std::log(base) - 1e-9);
  if (last <= first) last = first + 1;
  ChartAxis axis;
  axis.log = true;
  for (const double i : counted(first, last, std::ceil((last - first) / 6)))
    axis.ticks.push_back(std::pow(base, i));
  axis.low = axis.ticks.front();
  axis.high = std::pow(base, last);
  return axis;
}

std::string short_number(double value) {
  if (value == 0) return "0";  // of either sign
  const double size = std::abs(value);
  if (!(size < 999.5e6)) return fmt::format("{:.3g}", value);
  if (size >= 999'999.5) return fmt::format("{:.3g}M", value / 1e6);
  if (size >= 1000) {
    const auto whole = static_cast<long>(std::lround(size));
    return fmt::format("{}{},{:03}", value < 0 ? "-" : "", whole / 1000, whole % 1000);
  }
  return fmt::format("{:.4g}", value);
}

std::string fixed_number(double value, int decimals, bool with_plus) {
  std::string text = fmt::format("{:.{}f}", value, decimals);
  if (text.find_first_of("123456789ni") == std::string::npos) {  // zero, neither nan nor inf
    if (text.front() == '-') text.erase(0, 1);
    return text;
  }
  return fmt::format("{}{}", with_plus && !std::signbit(value) ? "+" : "", text);
}

std::string rounded_number(double value, int digits) {
  return value == 0 ? "0" : fmt::format("{:.{}g}", value, digits);
}

}  // namespace qalof::report
