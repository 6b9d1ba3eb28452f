// Small charts as inline SVG: colours and fonts come from the page's style sheet (classes s1..s6,
// grid, axis, ...), so that a chart follows light and dark. Every mark has its numbers in a
// <title>, which browsers show as a tooltip. Same data, same bytes. Text is escaped here.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace qalof::report {

/// Widths a chart can be drawn at, in view box units: a third, half and all of a wide page, which
/// shows a unit as about one pixel. Text has the same size at each.
constexpr double kThirdWidth = 360, kHalfWidth = 540, kFullWidth = 1080;

/// A range of numbers with round ticks.
struct ChartAxis {
  double low = 0, high = 1;
  bool log = false;
  std::vector<double> ticks;
  /// Position of a value: 0 at low, 1 at high, extrapolated beyond; NaN counts as low.
  double position(double value) const;
};
/// Ticks at 1, 2 or 5 times a power of ten, about count of them; low and high are moved out to
/// ticks. A range that is empty or too narrow to read is widened.
ChartAxis linear_axis(double low, double high, int count);
/// Ticks at powers of base (2 or 10), or at some of them where there are many; low and high should
/// be positive (others count as the smallest number).
ChartAxis log_axis(double low, double high, double base);

/// "0.25", "1e-05", "1,200", "3.5M" or "2e+09": short, for ticks and tooltips.
std::string short_number(double value);
/// That many decimals; with_plus: "+1.50". A value that rounds to zero has no sign, here and below.
std::string fixed_number(double value, int decimals, bool with_plus = false);
/// That many significant digits, as few as the value needs.
std::string rounded_number(double value, int digits);

struct ChartPoint {
  double x = 0, y = 0;
};
struct ChartSeries {
  std::string name;
  std::vector<ChartPoint> points;
};
/// Up to six lines over one x axis. The y axis is logarithmic where values span more than two
/// decades and are all positive. A line of more than 150 points is thinned by averaging.
struct LineChart {
  std::string label;  // description for screen readers
  std::string x_name;
  std::vector<ChartSeries> series;
};
std::string svg(const LineChart& chart, double width = kThirdWidth);

struct ScatterPoint {
  std::string name;
  ChartPoint at;
  double error = 0;  // half length of a bar along y
  std::size_t group = 0;
  bool labelled = true;
};
/// Points with labels where they fit; groups have colours. The undominated points (less x, more y)
/// are joined by a staircase. The x axis is logarithmic where x spans more than a factor of 4.
struct ScatterChart {
  std::string label, x_name, y_name;
  bool more_x_is_better = false;
  std::vector<ScatterPoint> points;
};
std::string svg(const ScatterChart& chart, double width = kThirdWidth);

struct BarRow {
  std::string name;
  double value = 0;
  std::optional<std::pair<double, double>> interval;
};
/// Horizontal bars from 0, in the order given, with intervals where there are any.
struct BarChart {
  std::string label, unit;
  std::vector<BarRow> rows;
  bool is_cost = true;  // chooses the colours of losses or of gains
};
std::string svg(const BarChart& chart, double width = kThirdWidth);

/// Cells shaded from 0 (empty) to the largest value (full colour); negative values have another
/// colour.
struct HeatMap {
  std::string label;
  std::vector<std::string> rows, columns;
  std::vector<std::optional<double>> cells;  // [row][column]
};
std::string svg(const HeatMap& map, double width = kThirdWidth);

/// A legend: names with the colours of series or groups 0, 1, ...; "" for fewer than two.
std::string legend_html(const std::vector<std::string>& names);

}  // namespace qalof::report
