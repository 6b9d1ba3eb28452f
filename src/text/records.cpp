// Splits TSV and CSV files into records, reads plain texts with Python's line-end rules, and parses
// whole numbers.
#include "text/records.h"

#include <algorithm>

#include "core/byte_order_mark.h"
#include "core/error.h"
#include "text/unicode.h"

namespace qalof::text {

namespace {

constexpr std::size_t kMaxFields = 16;
// Per record: more than any text that fits a model's positions.
constexpr std::size_t kMaxRecordBytes = std::size_t{4} << 20;
constexpr std::size_t kMaxDigits = 10;

}  // namespace

RecordReader::RecordReader(const std::string& path, Form form)
    : file_(MappedFile::open(path)),
      bytes_(reinterpret_cast<const char*>(file_.bytes().data()), file_.bytes().size()),
      form_(std::move(form)) {
  bytes_.remove_prefix(byte_order_mark(bytes_, path));
}

bool RecordReader::next(std::vector<std::string>* fields) {
  while (skip_blank_line()) {
  }
  record_line_ = line_;
  first_ = next_;
  if (done()) return false;
  fields->assign(1, "");
  while (!done() && !at_line_end()) {
    check_length();
    const char c = bytes_[next_];
    if (c == '"' && form_.quotes && fields->back().empty()) {
      fields->back() = quoted();
      check(done() || at_line_end() || bytes_[next_] == form_.separator,
            "text after a quoted field");
      continue;
    }
    ++next_;
    if (c == form_.separator) {
      check(fields->size() < kMaxFields, "too many fields");
      fields->emplace_back();
    } else {
      check(c != '"' || !form_.quotes, "a quotation mark inside a field without quotes");
      fields->back() += c;
    }
  }
  check_bytes();
  skip_line_end();
  return true;
}

void RecordReader::check(bool condition, std::string_view found) const {
  QALOF_CHECK(condition, ErrorKind::kBadInput, "{}: line {}: {}, expected {}", file_.path(),
              record_line_, found, form_.expected);
}

// Skips and counts a line end; does nothing at the end of the file.
void RecordReader::skip_line_end() {
  if (done()) return;
  next_ += bytes_.substr(next_).starts_with("\r\n") ? 2 : 1;
  ++line_;
}

bool RecordReader::skip_blank_line() {
  const std::size_t end = std::min(bytes_.find_first_not_of(' ', next_), bytes_.size());
  if (done() || (end < bytes_.size() && bytes_[end] != '\n' && bytes_[end] != '\r')) return false;
  next_ = end;
  skip_line_end();
  return true;
}

// Reads a field after its opening mark; "" inside it is one mark.
std::string RecordReader::quoted() {
  std::string field;
  for (++next_;; ++next_) {
    check(!done(), "a quoted field that does not end");
    check_length();
    const char c = bytes_[next_];
    // "\r\n" counts as one line end, at its second byte.
    const bool is_pair = c == '\r' && bytes_.substr(next_).starts_with("\r\n");
    line_ += (c == '\n' || c == '\r') && !is_pair ? 1 : 0;
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

void RecordReader::check_length() const {
  QALOF_CHECK(next_ - first_ <= kMaxRecordBytes, ErrorKind::kBadInput,
              "{}: line {}: more than {} bytes", file_.path(), record_line_, kMaxRecordBytes);
}

void RecordReader::check_bytes() const {
  const std::string_view record = bytes_.substr(first_, next_ - first_);
  check(record.find('\0') == std::string_view::npos, "a NUL byte");
  const std::size_t invalid = find_invalid_utf8(record);
  if (invalid == std::string_view::npos) return;
  const std::size_t mark = file_.bytes().size() - bytes_.size();
  fail(ErrorKind::kBadInput, "{}: line {}: bytes that are not UTF-8, at byte {} of the file",
       file_.path(), record_line_, mark + first_ + invalid);
}

std::string PlainText::changes(const std::string& path) const {
  return fmt::format(
      "{}: read without its {}{}{}", path, had_mark ? "byte order mark" : "",
      had_mark && had_other_line_ends ? " and its " : "",
      had_other_line_ends ? "carriage returns, each line end being a line feed" : "");
}

PlainText read_plain_text(const std::string& path, std::size_t max_bytes) {
  PlainText result;
  std::string& text = result.text;
  text = read_file(path, max_bytes);
  const std::size_t mark = byte_order_mark(text, path);
  if (const std::size_t invalid = find_invalid_utf8(text); invalid != std::string::npos) {
    const auto end = text.begin() + static_cast<std::ptrdiff_t>(invalid);
    fail(ErrorKind::kBadInput, "{}: line {}: bytes that are not UTF-8, at byte {} of the file",
         path, 1 + std::count(text.begin(), end, '\n'), invalid);
  }
  result.had_mark = mark > 0;
  std::size_t kept = 0;
  for (std::size_t i = mark; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\r') result.had_other_line_ends = true;
    if (c == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
    text[kept++] = c == '\r' ? '\n' : c;
  }
  text.resize(kept);
  return result;
}

std::size_t for_each_whole_line(
    std::string_view text,
    const std::function<void(std::string_view line, std::size_t number)>& take) {
  std::size_t first = 0, number = 0;
  for (std::size_t end = text.find('\n'); end != std::string_view::npos;
       first = end + 1, end = text.find('\n', first)) {
    ++number;
    const std::string_view line = text.substr(first, end - first);
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) take(line, number);
  }
  return first;
}

std::optional<std::int64_t> parse_whole_number(std::string_view text) {
  const std::size_t first = text.find_first_not_of(' ');
  if (first == std::string_view::npos) return std::nullopt;
  text = text.substr(first, text.find_last_not_of(' ') + 1 - first);
  const bool is_negative = text.starts_with('-');
  if (is_negative) text.remove_prefix(1);
  // A fraction is allowed if it is 0.
  if (const std::size_t point = text.find('.'); point != std::string_view::npos) {
    const std::string_view fraction = text.substr(point + 1);
    if (fraction.empty() || fraction.find_first_not_of('0') != std::string_view::npos) {
      return std::nullopt;
    }
    text = text.substr(0, point);
  }
  if (text.empty() || text.size() > kMaxDigits || (text.size() > 1 && text[0] == '0') ||
      text.find_first_not_of("0123456789") != std::string_view::npos) {
    return std::nullopt;
  }
  std::int64_t number = 0;
  for (const char digit : text) number = 10 * number + (digit - '0');
  return is_negative ? -number : number;
}

}  // namespace qalof::text
