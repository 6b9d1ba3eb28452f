// Lines, texts and axes as SVG.
#include "report/svg_canvas.h"

#include <fmt/format.h>

#include <algorithm>

#include "report/html.h"

namespace qalof::report {

namespace {

// Mean width of a character of the chart font, whose size is 11.5 units.
constexpr double kCharacter = 6.2;

bool begins_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U; }

std::size_t characters(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), begins_character));
}

}  // namespace

std::string svg_begin(double width, double height, std::string_view label) {
  return fmt::format("<svg viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-label=\"{}\">\n", width,
                     height, html_escape(label));
}

std::string svg_line(std::string_view css, double x1, double y1, double x2, double y2) {
  return fmt::format(
      "<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", css, x1, y1,
      x2, y2);
}

std::string svg_text(std::string_view css, std::string_view anchor, double x, double y,
                     std::string_view text) {
  return fmt::format("<text class=\"{}\" text-anchor=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n",
                     css, anchor, x, y, html_escape(text));
}

std::string svg_title(std::string_view text) {
  return fmt::format("<title>{}</title>", html_escape(text));
}

std::string svg_axes(const PlotArea& area, const ChartAxis& x, const ChartAxis& y,
                     std::string_view x_name, std::string_view y_name) {
  const double bottom = area.top + area.height, right = area.left + area.width;
  std::string text;
  for (const double tick : y.ticks) {
    const double at = area.y(y, tick);
    text += svg_line("grid", area.left, at, right, at);
    text += svg_text("tick", "end", area.left - 7, at + 4, short_number(tick));
  }
  for (const double tick : x.ticks) {
    const double at = area.x(x, tick);
    text += svg_line("axis", at, bottom, at, bottom + 4);
    text += svg_text("tick", "middle", at, bottom + 17, short_number(tick));
  }
  text += svg_line("axis", area.left, bottom, right, bottom);
  text += svg_text("name", "end", right, bottom + 33, x_name);
  if (!y_name.empty()) text += svg_text("name", "start", 4, area.top - 10, y_name);
  return text;
}

std::string fitted(std::string_view text, double width) {
  const auto room = static_cast<std::size_t>(std::max(width / kCharacter, 2.0));
  if (characters(text) <= room) return std::string(text);
  std::string cut;
  std::size_t count = 0;
  for (const char byte : text) {
    if (begins_character(byte) && count++ == room - 1) break;
    cut += byte;
  }
  return cut + "\xE2\x80\xA6";
}

double text_width(std::string_view text) {
  return kCharacter * static_cast<double>(characters(text));
}

}  // namespace qalof::report
