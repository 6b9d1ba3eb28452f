// Reads TSV and CSV files of labelled texts: finds columns by header or position, and counts
// classes from 0.
#include "text/classification.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "core/ascii.h"
#include "core/error.h"
#include "text/records.h"

namespace qalof::text {

namespace {

constexpr std::size_t kMaxLabels = 1000;

using Fields = std::vector<std::string>;

bool is_csv(const std::string& path) {
  if (path.ends_with(".csv")) return true;
  QALOF_CHECK(path.ends_with(".tsv"), ErrorKind::kUsage,
              "{}: expected a name that ends in .tsv (sentence, tab, label) or .csv (class, title, "
              "description)",
              path);
  return false;
}

RecordReader open_records(const std::string& path) {
  if (is_csv(path))
    return {path, {',', /*quotes=*/true, "class, title and description between commas"}};
  return {path, {'\t', /*quotes=*/false, "a sentence, a tab and a label"}};
}

// What a column contains, by its name in the header.
enum class Column { kText, kLabel, kClassIndex, kRowNumber, kUnknown };

Column column_named(std::string_view name) {
  std::string lower = lower_ascii(std::string(name));
  const std::size_t first = std::min(lower.find_first_not_of(' '), lower.size());
  lower = lower.substr(first, lower.find_last_not_of(' ') + 1 - first);
  struct Known {
    std::string_view name;
    Column column;
  };
  static constexpr Known kKnown[] = {{"sentence", Column::kText},
                                     {"text", Column::kText},
                                     {"review", Column::kText},
                                     {"content", Column::kText},
                                     {"title", Column::kText},
                                     {"description", Column::kText},
                                     {"label", Column::kLabel},
                                     {"labels", Column::kLabel},
                                     {"class index", Column::kClassIndex},
                                     {"class", Column::kClassIndex},
                                     {"idx", Column::kRowNumber},
                                     {"index", Column::kRowNumber},
                                     {"unnamed: 0", Column::kRowNumber},
                                     {"", Column::kRowNumber}};
  for (const Known& known : kKnown) {
    if (lower == known.name) return known.column;
  }
  return Column::kUnknown;
}

// Positions of the parts of an example in a record.
struct Layout {
  bool has_header = false;
  std::size_t columns = 0, label = 0;
  std::vector<std::size_t> texts;
  int first_class = 0;
  // A column "label" should count classes from 0, but in a CSV it may count from 1: then no label
  // is 0, and the file is refused.
  bool must_hold_class_0 = false;
};

// True where fields are column names: none is a number and at least one is known.
bool is_header(const Fields& fields) {
  const auto is_number = [](const std::string& field) {
    return parse_whole_number(field).has_value();
  };
  const auto is_name = [](const std::string& field) {
    const Column column = column_named(field);
    return column != Column::kUnknown && column != Column::kRowNumber;
  };
  return std::none_of(fields.begin(), fields.end(), is_number) &&
         std::any_of(fields.begin(), fields.end(), is_name);
}

Layout layout_of_header(const Fields& names, bool csv, const RecordReader& reader) {
  Layout layout;
  layout.has_header = true;
  layout.columns = names.size();
  std::optional<std::size_t> label, unknown;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Column column = column_named(names[i]);
    if (column == Column::kText) layout.texts.push_back(i);
    if (column == Column::kUnknown) {
      if (unknown)
        reader.check(false,
                     fmt::format("columns \"{:.40}\" and \"{:.40}\"", names[*unknown], names[i]));
      unknown = i;
    }
    if (column != Column::kLabel && column != Column::kClassIndex) continue;
    reader.check(!label, "two columns of labels");
    label = i;
    layout.first_class = column == Column::kClassIndex ? 1 : 0;
    layout.must_hold_class_0 = csv && column == Column::kLabel;
  }
  reader.check(label.has_value(), "a header without a column of labels, as in test sets");
  layout.label = *label;
  // Where no column is known to be the text, the only unknown column is.
  if (unknown && layout.texts.empty())
    layout.texts.push_back(*std::exchange(unknown, std::nullopt));
  reader.check(!unknown, fmt::format("column \"{:.40}\"", unknown ? names[*unknown] : ""));
  reader.check(!layout.texts.empty(), "a header without a column of texts");
  return layout;
}

Layout layout_of(const Fields& fields, bool csv, RecordReader& reader) {
  Layout layout;
  if (is_header(fields)) {
    reader.set_expected(
        "label (from 0) or Class Index (from 1), and sentence, text, review, content, or title and "
        "description");
    layout = layout_of_header(fields, csv, reader);
    reader.set_expected(fmt::format("{}, as line {} names them", fields.size(), reader.line()));
    return layout;
  }
  layout.columns = fields.size();
  reader.check(csv ? layout.columns == 2 || layout.columns == 3 : layout.columns == 2,
               fmt::format("{} fields", layout.columns));
  layout.label = csv ? 0 : 1;
  layout.first_class = csv ? 1 : 0;
  for (std::size_t i = 0; i < layout.columns; ++i) {
    if (i != layout.label) layout.texts.push_back(i);
  }
  return layout;
}

// Parses a label and converts it to a class counted from 0.
std::int32_t label_of(const std::string& field, const Layout& layout, const std::string& path,
                      std::size_t line) {
  const std::optional<std::int64_t> number = parse_whole_number(field);
  const int first = layout.first_class, last = static_cast<int>(kMaxLabels) - 1 + first;
  if (number && *number >= first && *number <= last) {
    return static_cast<std::int32_t>(*number - first);
  }
  const char* hint = "";
  if (number && *number == -1) {
    hint =
        "; -1 marks a text without a label, as in GLUE's test sets (classes -1 and 1 are to be "
        "written as 0 and 1)";
  } else if (number && *number == 0) {
    hint =
        "; classes without a header or under Class Index begin at 1, those of a column named label "
        "at 0";
  }
  fail(ErrorKind::kBadInput, "{}: line {}: label \"{:.40}\", expected {}..{}{}", path, line, field,
       first, last, hint);
}

std::string text_of(const Fields& fields, const Layout& layout, const RecordReader& reader) {
  std::string text;
  bool is_empty = true;
  for (const std::size_t column : layout.texts) {
    if (column != layout.texts.front()) text += ' ';
    text += fields[column];
    is_empty = is_empty && fields[column].empty();
  }
  reader.check(!is_empty, "an empty sentence");
  return text;
}

// True where some record has label 0.
bool holds_class_0(const std::string& path, const Layout& layout) {
  RecordReader reader = open_records(path);
  Fields fields;
  reader.next(&fields);  // the header
  while (reader.next(&fields)) {
    if (fields.size() == layout.columns && parse_whole_number(fields[layout.label]) == 0) {
      return true;
    }
  }
  return false;
}

// read_classification; returns the number of the first class in the file, 0 or 1.
int read_examples(const std::string& path, const std::function<bool(LabeledText&&)>& take) {
  const bool csv = is_csv(path);
  RecordReader reader = open_records(path);
  Fields fields;
  if (!reader.next(&fields)) return csv ? 1 : 0;
  const Layout layout = layout_of(fields, csv, reader);
  bool more = !layout.has_header || reader.next(&fields);
  QALOF_CHECK(
      !more || !layout.must_hold_class_0 || holds_class_0(path, layout), ErrorKind::kBadInput,
      "{}: a column \"label\" counts classes from 0, and no label is 0; where classes begin at "
      "1, name it \"Class Index\"",
      path);
  for (; more; more = reader.next(&fields)) {
    reader.check(fields.size() == layout.columns, fmt::format("{} fields", fields.size()));
    LabeledText example;
    example.line = reader.line();
    example.label = label_of(fields[layout.label], layout, path, reader.line());
    example.text = text_of(fields, layout, reader);
    if (!take(std::move(example))) break;
  }
  return layout.first_class;
}

}  // namespace

void read_classification(const std::string& path, const std::function<bool(LabeledText&&)>& take) {
  read_examples(path, take);
}

ClassificationFile scan_classification(const std::string& path) {
  ClassificationFile file;
  std::vector<std::size_t> first_lines;  // by label; 0: no example yet
  const int first_class = read_examples(path, [&](LabeledText&& example) {
    const auto label = static_cast<std::size_t>(example.label);
    first_lines.resize(std::max(first_lines.size(), label + 1), 0);
    if (first_lines[label] == 0) first_lines[label] = example.line;
    ++file.examples;
    return true;
  });
  for (std::size_t label = 0; label < first_lines.size(); ++label) {
    file.label_names.push_back(std::to_string(static_cast<int>(label) + first_class));
    QALOF_CHECK(first_lines[label] > 0, ErrorKind::kBadInput,
                "{}: line {}: label {}, but none of the file is {}", path, first_lines.back(),
                static_cast<int>(first_lines.size()) - 1 + first_class, file.label_names.back());
  }
  file.num_labels = first_lines.size();
  QALOF_CHECK(file.num_labels >= 2, ErrorKind::kBadInput,
              "{}: holds {} classes, expected at least 2", path, file.num_labels);
  return file;
}

}  // namespace qalof::text
