// Lenient JSON lookups and the HTML of cards, grids, sections and tables.
#include "report/parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/html.h"

namespace qalof::report {

std::optional<double> number_in(const Json& object, const char* key) {
  if (!object.is_object()) return std::nullopt;
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return std::nullopt;
  const double value = found->get<double>();
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

std::string text_in(const Json& object, const char* key) {
  if (!object.is_object()) return "";
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

std::optional<std::pair<double, double>> interval_in(const Json& object, const char* key) {
  const Json& ends = list_of(object, key);
  if (ends.size() != 2 || !ends[0].is_number() || !ends[1].is_number()) return std::nullopt;
  return std::pair{ends[0].get<double>(), ends[1].get<double>()};
}

const Json& list_of(const Json& object, const char* key) {
  static const Json none = Json::array();
  if (!object.is_object()) return none;
  const auto found = object.find(key);
  return found != object.end() && found->is_array() ? *found : none;
}

std::string card(std::string_view heading, const std::string& chart, const std::string& below) {
  if (chart.empty()) return "";
  return fmt::format("<div class=\"card\"><h4>{}</h4>\n{}{}</div>\n", html_escape(heading), chart,
                     below);
}

std::string grid(const std::string& cards) {
  return cards.empty() ? "" : fmt::format("<div class=\"grid\">\n{}</div>\n", cards);
}

std::string section(std::string_view heading, const std::string& body) {
  if (body.empty()) return "";
  return fmt::format("<section><h2>{}</h2>\n{}</section>\n", html_escape(heading), body);
}

std::string table_html(const std::vector<std::string>& columns,
                       const std::vector<std::vector<TableCell>>& rows) {
  if (rows.empty()) return "";
  std::vector<bool> used(columns.size(), false);
  for (const auto& row : rows) {
    for (std::size_t c = 0; c < columns.size(); ++c) used[c] = used[c] || !row[c].text.empty();
  }
  const auto css = [&](std::size_t column) {
    return column + 1 == columns.size() ? " class=\"words\"" : "";
  };
  std::string text = "<div class=\"scroll\"><table>\n<thead><tr>";
  for (std::size_t c = 0; c < columns.size(); ++c) {
    if (used[c]) text += fmt::format("<th{}>{}</th>", css(c), html_escape(columns[c]));
  }
  text += "</tr></thead>\n<tbody>\n";
  for (const auto& row : rows) {
    text += "<tr>";
    for (std::size_t c = 0; c < columns.size(); ++c) {
      if (!used[c]) continue;
      const std::string content = html_escape(row[c].text);
      if (row[c].share) {
        text += fmt::format("<td class=\"bar\"><i style=\"width:{:.1f}%\"></i><b>{}</b></td>",
                            100 * std::clamp(*row[c].share, 0.0, 1.0), content);
      } else {
        text += fmt::format("<td{}>{}</td>", css(c), content);
      }
    }
    text += "</tr>\n";
  }
  return text + "</tbody></table></div>\n";
}

std::string run_title(const std::string& name) { return name.empty() ? "this directory" : name; }

}  // namespace qalof::report
