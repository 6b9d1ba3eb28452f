// Charts of points: lines and scatter plots with labels that do not collide.
#include "report/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "report/html.h"
#include "report/svg_canvas.h"

namespace qalof::report {

namespace {

constexpr std::size_t kColours = 6;
constexpr std::size_t kMaxPoints = 150;

// The CSS class of a mark of a series: "line s1".
std::string colour(std::size_t index, std::string_view mark = "") {
  return fmt::format("{}{}s{}", mark, mark.empty() ? "" : " ", index % kColours + 1);
}

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  void add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return !(low <= high); }
};

std::vector<ChartPoint> finite_points(const std::vector<ChartPoint>& points) {
  std::vector<ChartPoint> result;
  for (const ChartPoint& point : points) {
    if (std::isfinite(point.x) && std::isfinite(point.y)) result.push_back(point);
  }
  return result;
}

// Averages neighbouring points so that at most kMaxPoints remain.
std::vector<ChartPoint> thinned(const std::vector<ChartPoint>& points) {
  const std::size_t stride = (points.size() + kMaxPoints - 1) / kMaxPoints;
  if (stride <= 1) return points;
  std::vector<ChartPoint> result;
  for (std::size_t begin = 0; begin < points.size(); begin += stride) {
    const std::size_t end = std::min(begin + stride, points.size());
    ChartPoint mean;
    const auto count = static_cast<double>(end - begin);
    for (std::size_t i = begin; i < end; ++i) {
      mean.x += points[i].x / count;  // a sum could overflow
      mean.y += points[i].y / count;
    }
    result.push_back(mean);
  }
  return result;
}

std::string dot(std::string_view css, double x, double y, double radius, std::string_view title) {
  return fmt::format("<circle class=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\">{}</circle>\n",
                     css, x, y, radius, svg_title(title));
}

// What wide charts are taller by than narrow ones: far less than they are wider.
double taller(double width) { return std::min((width - kThirdWidth) / 6, 80.0); }

std::string path(std::string_view css, const std::vector<ChartPoint>& points) {
  std::string d;
  for (const ChartPoint& point : points)
    d += fmt::format("{}{:.1f} {:.1f}", d.empty() ? "M" : "L", point.x, point.y);
  return fmt::format("<path class=\"{}\" d=\"{}\"/>\n", css, d);
}

}  // namespace

std::string legend_html(const std::vector<std::string>& names) {
  if (names.size() < 2) return "";
  std::string text = "<p class=\"legend\">";
  for (std::size_t i = 0; i < names.size(); ++i)
    text += fmt::format("<span><i class=\"{}\"></i>{}</span> ", colour(i), html_escape(names[i]));
  return text + "</p>\n";
}

std::string svg(const LineChart& chart, double width) {
  std::vector<std::vector<ChartPoint>> lines;
  Range x, y;
  for (const ChartSeries& series : chart.series) {
    lines.push_back(thinned(finite_points(series.points)));
    for (const ChartPoint& point : lines.back()) {
      x.add(point.x);
      y.add(point.y);
    }
  }
  if (x.empty()) return "";
  const bool log = y.low > 0 && y.high > 100 * y.low;
  const ChartAxis x_axis = linear_axis(x.low, x.high, static_cast<int>(width / 90));
  const ChartAxis y_axis = log ? log_axis(y.low, y.high, 10) : linear_axis(y.low, y.high, 5);
  const PlotArea area{52, 14, width - 52 - 14, 160 + taller(width)};
  std::string text = svg_begin(width, area.height + 54, chart.label);
  text += svg_axes(area, x_axis, y_axis, chart.x_name, "");
  for (std::size_t s = 0; s < lines.size(); ++s) {
    std::vector<ChartPoint> drawn;
    std::string marks;
    for (const ChartPoint& point : lines[s]) {
      drawn.push_back({area.x(x_axis, point.x), area.y(y_axis, point.y)});
      marks += dot(colour(s, "touch"), drawn.back().x, drawn.back().y, 4,
                   fmt::format("{}: {} {}, {}", chart.series[s].name, chart.x_name,
                               short_number(point.x), short_number(point.y)));
    }
    if (!drawn.empty()) text += path(colour(s, "line"), drawn) + marks;
  }
  return text + "</svg>\n";
}

namespace {

struct Box {
  double left, top, right, bottom;
  bool meets(const Box& other) const {
    return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
  }
};

// Labels next to points, placed where they overlap neither each other, nor a point, nor the edge.
std::string labels(const ScatterChart& chart, const std::vector<ChartPoint>& at,
                   const PlotArea& area, double chart_width) {
  std::vector<Box> taken;
  taken.reserve(2 * at.size());  // points, and their labels
  for (const ChartPoint& point : at)
    taken.push_back({point.x - 5, point.y - 5, point.x + 5, point.y + 5});
  const Box page{area.left, area.top - 12, chart_width, area.top + area.height};
  std::string text;
  for (std::size_t i = 0; i < at.size(); ++i) {
    if (!chart.points[i].labelled) continue;
    const std::string name = fitted(chart.points[i].name, 150);
    const double width = text_width(name), x = at[i].x, y = at[i].y;
    const struct {
      const char* anchor;
      double x, y, left;
    } places[] = {{"start", x + 8, y + 4, x + 8},       {"end", x - 8, y + 4, x - 8 - width},
                  {"middle", x, y + 18, x - width / 2}, {"middle", x, y - 9, x - width / 2},
                  {"start", x + 8, y + 17, x + 8},      {"end", x - 8, y + 17, x - 8 - width},
                  {"start", x + 8, y + 31, x + 8},      {"end", x - 8, y + 31, x - 8 - width}};
    for (const auto& place : places) {
      const Box box{place.left - 2, place.y - 10, place.left + width + 2, place.y + 3};
      const bool inside = box.left >= page.left && box.right <= page.right && box.top >= page.top &&
                          box.bottom <= page.bottom;
      const bool free = std::none_of(taken.begin(), taken.end(),
                                     [&](const Box& other) { return box.meets(other); });
      if (!inside || !free) continue;
      if (place.y > y + 30) {  // so far below that it could be another's
        const double side = place.x > x ? 1 : -1;
        text += svg_line("leader", x + 2 * side, y + 5, x + 9 * side, place.y - 10);
      }
      text += svg_text("mark", place.anchor, place.x, place.y, name);
      taken.push_back(box);
      break;
    }
  }
  return text;
}

// Indices of the points that no other point beats in both x and y, from the worst x to the best.
std::vector<std::size_t> undominated(const ScatterChart& chart) {
  const double sign = chart.more_x_is_better ? -1 : 1;
  std::vector<std::size_t> order(chart.points.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const ChartPoint &p = chart.points[a].at, &q = chart.points[b].at;
    return p.x != q.x ? sign * p.x < sign * q.x : p.y > q.y;
  });
  std::vector<std::size_t> front;
  for (const std::size_t i : order) {
    if (front.empty() || chart.points[i].at.y > chart.points[front.back()].at.y) front.push_back(i);
  }
  return front;
}

}  // namespace

std::string svg(const ScatterChart& chart, double width) {
  Range x, y;
  for (const ScatterPoint& point : chart.points) {
    x.add(point.at.x);
    y.add(point.at.y - point.error);
    y.add(point.at.y + point.error);
  }
  if (x.empty()) return "";
  const bool log = x.low > 0 && x.high > 4 * x.low;
  const ChartAxis x_axis =
      log ? log_axis(x.low, x.high, 2) : linear_axis(x.low, x.high, static_cast<int>(width / 72));
  const ChartAxis y_axis = linear_axis(y.low, y.high, 5);
  const PlotArea area{52, 34, width - 52 - 16, 190 + taller(width)};
  std::string text = svg_begin(width, area.height + 74, chart.label);
  text += svg_axes(area, x_axis, y_axis, chart.x_name, chart.y_name);
  std::vector<ChartPoint> stairs;
  for (const std::size_t i : undominated(chart)) {
    const ChartPoint next{area.x(x_axis, chart.points[i].at.x),
                          area.y(y_axis, chart.points[i].at.y)};
    if (!stairs.empty()) stairs.push_back({next.x, stairs.back().y});
    stairs.push_back(next);
  }
  if (stairs.size() > 1) text += path("stairs", stairs);
  std::vector<ChartPoint> at;
  for (const ScatterPoint& point : chart.points) {
    at.push_back({area.x(x_axis, point.at.x), area.y(y_axis, point.at.y)});
    if (point.error > 0) {
      text += svg_line(colour(point.group, "error"), at.back().x,
                       area.y(y_axis, point.at.y - point.error), at.back().x,
                       area.y(y_axis, point.at.y + point.error));
    }
    text += dot(colour(point.group, "dot"), at.back().x, at.back().y, 4,
                fmt::format("{}: {} {}, {} {}", point.name, short_number(point.at.x), chart.x_name,
                            chart.y_name, short_number(point.at.y)));
  }
  return text + labels(chart, at, area, width) + "</svg>\n";
}

}  // namespace qalof::report
