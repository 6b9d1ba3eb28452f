// Pieces of pages: cards that fill rows, tables, values of loose JSON.
#include "report/parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <tuple>

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

namespace {

// The sixths of a page that each card gets. Of all ways to fill rows with one, two or three cards
// of the same width, the one whose cards differ least, and the wider ones first.
std::vector<int> sixths_of(const std::vector<const Card*>& cards) {
  struct Way {
    int cost = 0;
    std::size_t first_row = 0;  // cards in it
  };
  std::vector<Way> from(cards.size() + 1);  // the best way for cards i, i + 1, ...
  for (std::size_t i = cards.size(); i-- > 0;) {
    from[i].cost = INT_MAX;
    for (std::size_t row = 1; row <= std::min<std::size_t>(3, cards.size() - i); ++row) {
      const int sixths = 6 / static_cast<int>(row);
      const bool fits = std::all_of(&cards[i], &cards[i] + row, [&](const Card* card) {
        return row == 1 || card->least_sixths <= sixths;
      });
      const int cost = static_cast<int>(row) * sixths * sixths + from[i + row].cost;
      if (fits && cost < from[i].cost) from[i] = {cost, row};
    }
  }
  std::vector<int> sixths;
  for (std::size_t i = 0; i < cards.size(); i += from[i].first_row)
    sixths.insert(sixths.end(), from[i].first_row, 6 / static_cast<int>(from[i].first_row));
  return sixths;
}

// The chart at each width the card can have: the style sheet shows the one that fits.
std::string drawings(const Card& card, int sixths) {
  std::string text;
  for (const auto& [least, width, css] :
       {std::tuple{2, kThirdWidth, "third"}, {3, kHalfWidth, "half"}, {6, kFullWidth, "full"}}) {
    if (sixths >= least) text += fmt::format("<div class=\"{}\">{}</div>", css, card.chart(width));
  }
  return text;
}

}  // namespace

Card table_card(std::string heading, std::string table, int least_sixths) {
  return {std::move(heading), nullptr, std::move(table), least_sixths};
}

std::string grid(const std::vector<Card>& cards) {
  std::vector<const Card*> shown;
  for (const Card& card : cards) {
    if (card.chart ? !card.chart(kThirdWidth).empty() : !card.below.empty()) shown.push_back(&card);
  }
  if (shown.empty()) return "";
  const std::vector<int> sixths = sixths_of(shown);
  std::string text = "<div class=\"grid\">\n";
  for (std::size_t i = 0; i < shown.size(); ++i) {
    text += fmt::format("<div class=\"card six{}\"><h4>{}</h4>\n{}{}</div>\n", sixths[i],
                        html_escape(shown[i]->heading),
                        shown[i]->chart ? drawings(*shown[i], sixths[i]) : "", shown[i]->below);
  }
  return text + "</div>\n";
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
