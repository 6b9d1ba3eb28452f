// Helpers shared by the sections of a report: lenient reading of JSON, and pieces of HTML.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"

namespace qalof::report {

/// The member of an object, or nothing ("") where it is missing or of another type.
std::optional<double> number_in(const Json& object, const char* key);
std::string text_in(const Json& object, const char* key);
/// A member that is a list of two numbers.
std::optional<std::pair<double, double>> interval_in(const Json& object, const char* key);
/// A member that is a list; an empty list where it is not.
const Json& list_of(const Json& object, const char* key);

/// A card with a heading, a chart and the HTML below it; "" without a chart.
std::string card(std::string_view heading, const std::string& chart, const std::string& below = "");
/// Cards side by side where the page is wide.
std::string grid(const std::string& cards);
std::string section(std::string_view heading, const std::string& body);

struct TableCell {
  std::string text;
  std::optional<double> share = std::nullopt;  // 0..1: length of a bar drawn behind the number
};
/// An HTML table. The first and the last column are text, the others numbers; columns whose cells
/// are all empty are left out.
std::string table_html(const std::vector<std::string>& columns,
                       const std::vector<std::vector<TableCell>>& rows);

/// A run's name as plain text; "this directory" for "".
std::string run_title(const std::string& name);

}  // namespace qalof::report
