// Helpers shared by the sections of a report: lenient reading of JSON, and pieces of HTML.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"
#include "report/svg_chart.h"

namespace qalof::report {

/// The member of an object, or nothing ("") where it is missing or of another type.
std::optional<double> number_in(const Json& object, const char* key);
std::string text_in(const Json& object, const char* key);
/// A member that is a list of two numbers.
std::optional<std::pair<double, double>> interval_in(const Json& object, const char* key);
/// A member that is a list; an empty list where it is not.
const Json& list_of(const Json& object, const char* key);

/// A box with a heading, a chart drawn at the width it gets, and what stands below it.
struct Card {
  std::string heading;
  std::function<std::string(double width)> chart;  // "" where there is nothing to draw
  std::string below;                               // HTML
  int least_sixths = 2;                            // of a wide page, that it needs: 2, 3 or 6
};
/// A card of any of svg_chart.h's charts.
template <typename Chart>
Card chart_card(std::string heading, Chart chart, std::string below = "") {
  return {std::move(heading),
          [chart = std::move(chart)](double width) { return svg(chart, width); }, std::move(below)};
}
/// A card of HTML alone, which on a wide page has that many sixths of it or more.
Card table_card(std::string heading, std::string table, int least_sixths);
/// Cards in rows of one to three that fill the page where it is wide; those with nothing to show
/// are left out.
std::string grid(const std::vector<Card>& cards);
std::string section(std::string_view heading, const std::string& body);

struct TableCell {
  std::string text;
  std::optional<double> share = std::nullopt;  // 0..1: length of a bar drawn behind the number
};
/// The first column and the last are text, the others are numbers; columns that are empty
/// throughout are left out. What is wider than its place scrolls there, and says so.
std::string table_html(const std::vector<std::string>& columns,
                       const std::vector<std::vector<TableCell>>& rows);

/// A run's name as plain text; "this directory" for "".
std::string run_title(const std::string& name);

}  // namespace qalof::report
