#include "text/classification.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "core/file.h"
#include "text/unicode.h"

namespace qalof::text {

namespace {

constexpr std::size_t kMaxLabels = 1000;
// Of a record: more than any text that a model's positions could take.
constexpr std::size_t kMaxRecordBytes = std::size_t{4} << 20;
constexpr std::size_t kMaxFields = 16;

enum class Form { kTsv, kCsv };

Form form_of(const std::string& path) {
  if (path.ends_with(".tsv")) return Form::kTsv;
  if (path.ends_with(".csv")) return Form::kCsv;
  fail(ErrorKind::kUsage,
       "{}: expected a name that ends in .tsv (sentence, tab, label) or .csv (class, title, "
       "description)",
       path);
}

// Cuts a file into records of fields.
class RecordReader {
 public:
  RecordReader(const std::string& path, Form form)
      : file_(MappedFile::open(path)),
        bytes_(reinterpret_cast<const char*>(file_.bytes().data()), file_.bytes().size()),
        form_(form) {}

  bool done() const { return next_ == bytes_.size(); }
  std::size_t line() const { return record_line_; }

  std::vector<std::string> next() {
    record_line_ = line_;
    first_ = next_;
    std::vector<std::string> fields(1);
    while (!done()) {
      check_length();
      const char c = bytes_[next_];
      if (c == '"' && form_ == Form::kCsv && fields.back().empty()) {
        fields.back() = quoted();
        check_end_of_quoted();
        continue;
      }
      ++next_;
      if (c == '\n') break;
      if (c == (form_ == Form::kCsv ? ',' : '\t')) {
        check(fields.size() < kMaxFields, "too many fields");
        fields.emplace_back();
      } else {
        check(c != '"' || form_ == Form::kTsv, "a quotation mark inside a field without quotes");
        fields.back() += c;
      }
    }
    ++line_;
    if (fields.back().ends_with('\r')) fields.back().pop_back();
    for (const std::string& field : fields) {
      check(field.find('\0') == std::string::npos, "a NUL byte");
      check(find_invalid_utf8(field) == std::string_view::npos, "bytes that are not UTF-8");
    }
    return fields;
  }

  void check(bool condition, std::string_view found) const {
    QALOF_CHECK(condition, ErrorKind::kBadInput, "{}: line {}: {}, expected {}", file_.path(),
                record_line_, found,
                form_ == Form::kTsv ? "a sentence, a tab and a label"
                                    : "class, title and description between commas");
  }

 private:
  // Behind the opening mark; "" stands for a mark.
  std::string quoted() {
    std::string field;
    for (++next_;; ++next_) {
      check(!done(), "a quoted field that does not end");
      check_length();
      const char c = bytes_[next_];
      line_ += c == '\n' ? 1 : 0;
      if (c != '"') {
        field += c;
        continue;
      }
      if (next_ + 1 == bytes_.size() || bytes_[next_ + 1] != '"') break;
      field += c;
      ++next_;
    }
    ++next_;
    return field;
  }
  void check_end_of_quoted() const {
    check(done() || bytes_[next_] == ',' || bytes_[next_] == '\n' ||
              bytes_.substr(next_, 2) == "\r\n",
          "text behind a quoted field");
  }
  void check_length() const {
    QALOF_CHECK(next_ - first_ <= kMaxRecordBytes, ErrorKind::kBadInput,
                "{}: line {}: more than {} bytes", file_.path(), record_line_, kMaxRecordBytes);
  }

  MappedFile file_;
  std::string_view bytes_;
  Form form_;
  std::size_t next_ = 0, first_ = 0, line_ = 1, record_line_ = 1;
};

// A label counted from 0.
std::optional<std::int32_t> parse_label(const std::string& text, Form form) {
  if (text.empty() || text.size() > 4 ||
      text.find_first_not_of("0123456789") != std::string::npos ||
      (text.size() > 1 && text[0] == '0')) {
    return std::nullopt;
  }
  const int label = std::stoi(text) - (form == Form::kCsv ? 1 : 0);
  if (label < 0 || label >= static_cast<int>(kMaxLabels)) return std::nullopt;
  return label;
}

bool is_header(const std::vector<std::string>& fields, Form form) {
  if (form == Form::kTsv) return fields == std::vector<std::string>{"sentence", "label"};
  return fields.front() == "Class Index" || fields.front() == "class" || fields.front() == "label";
}

}  // namespace

void read_classification(const std::string& path, const std::function<bool(LabeledText&&)>& take) {
  const Form form = form_of(path);
  RecordReader reader(path, form);
  const std::size_t num_fields = form == Form::kTsv ? 2 : 3;
  for (bool first = true; !reader.done(); first = false) {
    std::vector<std::string> fields = reader.next();
    reader.check(fields.size() == num_fields, fmt::format("{} fields", fields.size()));
    if (first && is_header(fields, form)) continue;
    const std::string& label_field = form == Form::kTsv ? fields[1] : fields[0];
    const std::optional<std::int32_t> label = parse_label(label_field, form);
    const int base = form == Form::kTsv ? 0 : 1;
    QALOF_CHECK(label, ErrorKind::kBadInput, "{}: line {}: label \"{:.40}\", expected {}..{}", path,
                reader.line(), label_field, base, static_cast<int>(kMaxLabels) - 1 + base);
    LabeledText example;
    example.label = *label;
    example.line = reader.line();
    example.text =
        form == Form::kTsv ? std::move(fields[0]) : fmt::format("{} {}", fields[1], fields[2]);
    reader.check(!example.text.empty(), "an empty sentence");
    if (!take(std::move(example))) return;
  }
}

ClassificationFile scan_classification(const std::string& path) {
  ClassificationFile file;
  std::vector<std::size_t> first_lines;  // by label; 0 = has none
  read_classification(path, [&](LabeledText&& example) {
    const auto label = static_cast<std::size_t>(example.label);
    first_lines.resize(std::max(first_lines.size(), label + 1), 0);
    if (first_lines[label] == 0) first_lines[label] = example.line;
    ++file.examples;
    return true;
  });
  const int base = form_of(path) == Form::kTsv ? 0 : 1;
  for (std::size_t label = 0; label < first_lines.size(); ++label) {
    file.label_names.push_back(std::to_string(static_cast<int>(label) + base));
    QALOF_CHECK(first_lines[label] > 0, ErrorKind::kBadInput,
                "{}: line {}: label {}, but none of the file is {}", path, first_lines.back(),
                static_cast<int>(first_lines.size()) - 1 + base, file.label_names.back());
  }
  file.num_labels = first_lines.size();
  QALOF_CHECK(file.num_labels >= 2, ErrorKind::kBadInput,
              "{}: holds {} classes, expected at least 2", path, file.num_labels);
  return file;
}

}  // namespace qalof::text
