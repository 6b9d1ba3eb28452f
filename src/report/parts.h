// What the sections of a report share: reading of loose JSON and pieces of HTML.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"

namespace qalof::report {

std::optional<double> number_in(const Json& object, const char* key);
std::string text_in(const Json& object, const char* key);
/// A list of two numbers.
std::optional<std::pair<double, double>> interval_in(const Json& object, const char* key);
/// The list, or an empty one.
const Json& list_of(const Json& object, const char* key);

/// A card with a heading, a chart and what stands below it; "" without a chart.
std::string card(std::string_view heading, const std::string& chart, const std::string& below = "");
/// Cards side by side where the page is wide.
std::string grid(const std::string& cards);
std::string section(std::string_view heading, const std::string& body);

struct TableCell {
  std::string text;
  std::optional<double> share = std::nullopt;  // 0..1: a bar behind the number
};
/// The first column and the last are text, the others are numbers; columns that are empty
/// throughout are left out.
std::string table_html(const std::vector<std::string>& columns,
                       const std::vector<std::vector<TableCell>>& rows);

/// Plain text of a run's name: "this directory" for "".
std::string run_title(const std::string& name);

}  // namespace qalof::report
