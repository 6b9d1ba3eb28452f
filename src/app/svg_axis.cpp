// Axes of charts: ranges, round ticks, numbers as text.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "app/svg_chart.h"

namespace qalof::app {

double ChartAxis::position(double value) const {
  if (log) return (std::log(value) - std::log(low)) / (std::log(high) - std::log(low));
  return (value - low) / (high - low);
}

ChartAxis linear_axis(double low, double high, int count) {
  if (!(high > low)) {
    const double extent = low == 0 ? 1 : std::abs(low) / 2;
    low -= extent;
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
  const double first = std::floor(low / step + 1e-9), last = std::ceil(high / step - 1e-9);
  ChartAxis axis;
  for (double i = first; i <= last; ++i) axis.ticks.push_back(i == 0 ? 0 : i * step);
  axis.low = axis.ticks.front();
  axis.high = axis.ticks.back();
  return axis;
}

ChartAxis log_axis(double low, double high, double base) {
  const double first = std::floor(std::log(low) / std::log(base) + 1e-9);
  double last = std::ceil(std::log(high) / std::log(base) - 1e-9);
  if (last <= first) last = first + 1;
  const double step = std::ceil((last - first) / 6);
  ChartAxis axis;
  axis.log = true;
  for (double i = first; i <= last; i += step) axis.ticks.push_back(std::pow(base, i));
  axis.low = axis.ticks.front();
  axis.high = std::pow(base, last);
  return axis;
}

std::string short_number(double value) {
  const double size = std::abs(value);
  if (size >= 1e6) return fmt::format("{:.3g}M", value / 1e6);
  if (size >= 1000) {
    const auto whole = static_cast<long>(std::lround(size));
    return fmt::format("{}{},{:03}", value < 0 ? "-" : "", whole / 1000, whole % 1000);
  }
  return fmt::format("{:.4g}", value);
}

}  // namespace qalof::app
