// Drawing primitives of charts: coordinates of the plot area, and marks as SVG text.
#pragma once

#include <string>
#include <string_view>

#include "report/svg_chart.h"

namespace qalof::report {

/// The area between a chart's axes, in view box units.
struct PlotArea {
  double left = 0, top = 0, width = 0, height = 0;
  double x(const ChartAxis& axis, double value) const {
    return left + width * axis.position(value);
  }
  double y(const ChartAxis& axis, double value) const {
    return top + height * (1 - axis.position(value));
  }
};

std::string svg_begin(double width, double height, std::string_view label);
std::string svg_line(std::string_view css, double x1, double y1, double x2, double y2);
/// anchor: "start", "middle" or "end".
std::string svg_text(std::string_view css, std::string_view anchor, double x, double y,
                     std::string_view text);
/// A `<title>` element, which browsers show as a tooltip.
std::string svg_title(std::string_view text);
/// Grid, ticks and names of both axes.
std::string svg_axes(const PlotArea& area, const ChartAxis& x, const ChartAxis& y,
                     std::string_view x_name, std::string_view y_name);
/// Text cut to about a width in units, with an ellipsis.
std::string fitted(std::string_view text, double width);
/// Estimated width of text in units.
double text_width(std::string_view text);

}  // namespace qalof::report
