// Charts of rows and cells: bars with intervals, heat maps.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/svg_canvas.h"
#include "report/svg_chart.h"

namespace qalof::report {

namespace {

constexpr double kRow = 19;

const char* sign_css(double cost) { return cost < 0 ? "gain" : "loss"; }

std::string rectangle(std::string_view css, double x, double y, double width, double height,
                      std::string_view title, double opacity = 1) {
  const std::string shade = opacity < 1 ? fmt::format(" fill-opacity=\"{:.2f}\"", opacity) : "";
  return fmt::format(
      "<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" "
      "rx=\"2\"{}>{}</rect>\n",
      css, x, y, width, height, shade, svg_title(title));
}

}  // namespace

std::string svg(const BarChart& chart, double width) {
  if (chart.rows.empty()) return "";
  double low = 0, high = 0, widest = 0;
  for (const BarRow& row : chart.rows) {
    low = std::min({low, row.value, row.interval ? row.interval->first : 0});
    high = std::max({high, row.value, row.interval ? row.interval->second : 0});
    widest = std::max(widest, text_width(row.name));
  }
  const double left = std::clamp(widest + 10, 40.0, 0.47 * width);
  const double numbers = 50;
  const PlotArea area{left, 6, width - left - numbers,
                      kRow * static_cast<double>(chart.rows.size())};
  const ChartAxis axis = linear_axis(low, high, static_cast<int>(width / 120));
  std::string text = svg_begin(width, area.height + 46, chart.label);
  const double bottom = area.top + area.height;
  for (const double tick : axis.ticks) {
    const double at = area.x(axis, tick);
    text += svg_line(tick == 0 ? "axis" : "grid", at, area.top, at, bottom);
    text += svg_text("tick", "middle", at, bottom + 16, short_number(tick));
  }
  text += svg_text("name", "end", width - 4, bottom + 32, chart.unit);
  for (std::size_t i = 0; i < chart.rows.size(); ++i) {
    const BarRow& row = chart.rows[i];
    const double top = area.top + kRow * static_cast<double>(i), middle = top + kRow / 2;
    const double zero = area.x(axis, 0), end = area.x(axis, row.value);
    std::string title = fmt::format("{}: {}", row.name, short_number(row.value));
    if (row.interval) {
      title += fmt::format(" [{}, {}]", short_number(row.interval->first),
                           short_number(row.interval->second));
    }
    text += svg_text("row", "end", left - 6, middle + 4, fitted(row.name, left - 6));
    text += rectangle(chart.is_cost ? sign_css(row.value) : "plain", std::min(zero, end), top + 3,
                      std::max(std::abs(end - zero), 0.5), kRow - 6, title);
    if (row.interval) {
      text += svg_line("whisker", area.x(axis, row.interval->first), middle,
                       area.x(axis, row.interval->second), middle);
    }
    text += svg_text(
        "value", "end", width - 4, middle + 4,
        std::abs(row.value) < 1000 ? rounded_number(row.value, 3) : short_number(row.value));
  }
  return text + "</svg>\n";
}

std::string svg(const HeatMap& map, double width) {
  double most = 0, widest = 0, tallest = 0;
  for (const auto& cell : map.cells) {
    if (cell) most = std::max(most, std::abs(*cell));
  }
  for (const std::string& row : map.rows) widest = std::max(widest, text_width(row));
  for (const std::string& column : map.columns) tallest = std::max(tallest, text_width(column));
  const double left = std::min(widest + 12, 90.0);
  const auto columns = static_cast<double>(std::max<std::size_t>(map.columns.size(), 1));
  // Column names lie flat where they fit, else they rise at 40 degrees; what is right of the last
  // column must fit too.
  const bool flat = columns * (tallest + 8) <= width - left - 6;
  const double tail = std::min(tallest, 110.0) * 0.77;
  const double right = flat ? 6 : std::clamp(tail - 20, 6.0, 70.0);
  const double cell_width = (width - left - right) / columns;
  const double top = flat ? 22 : std::min(tallest, 110.0) * 0.64 + 16;
  std::string text =
      svg_begin(width, top + kRow * static_cast<double>(map.rows.size()) + 6, map.label);
  for (std::size_t c = 0; c < map.columns.size(); ++c) {
    const double middle = left + cell_width * (static_cast<double>(c) + 0.5), x = middle - 3;
    if (flat) {
      text += svg_text("row", "middle", middle, top - 6, map.columns[c]);
      continue;
    }
    text += fmt::format("<g transform=\"translate({:.1f} {:.1f}) rotate(-40)\">{}</g>\n", x,
                        top - 6, svg_text("row", "start", 0, 0, fitted(map.columns[c], 110)));
  }
  for (std::size_t r = 0; r < map.rows.size(); ++r) {
    const double y = top + kRow * static_cast<double>(r);
    text += svg_text("row", "end", left - 7, y + kRow / 2 + 4, fitted(map.rows[r], left - 7));
    for (std::size_t c = 0; c < map.columns.size(); ++c) {
      const auto& cell = map.cells[r * map.columns.size() + c];
      if (!cell) continue;
      const double x = left + cell_width * static_cast<double>(c);
      const double share = most > 0 ? std::abs(*cell) / most : 0;
      text += rectangle(sign_css(*cell), x + 1, y + 1, cell_width - 2, kRow - 2,
                        fmt::format("{}, {}: {}", map.rows[r], map.columns[c], short_number(*cell)),
                        std::min(0.04 + 0.78 * share, 0.99));
      const std::string value = rounded_number(*cell, 2);
      if (text_width(value) <= cell_width - 4) {
        text += svg_text("cell", "middle", x + cell_width / 2, y + kRow / 2 + 4, value);
      }
    }
  }
  return text + "</svg>\n";
}

}  // namespace qalof::report
