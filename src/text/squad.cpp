// Streams SQuAD files through nlohmann-json's SAX parser with a bounded buffer, tells JSON from
// JSON lines, and finds answers in contexts.
#include "text/squad.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <system_error>
#include <unordered_set>

#include "core/byte_order_mark.h"
#include "core/error.h"
#include "text/squad_handler.h"
#include "text/unicode.h"

namespace qalof::text {

namespace {

// The parser's input: a small buffer over the file, with a limit on the bytes of one value, so that
// an unterminated string cannot fill the memory.
class SquadInput {
 public:
  explicit SquadInput(const std::string& path) : path_(path), file_(open(path), &std::fclose) {
    size_ = std::fread(buffer_.data(), 1, buffer_.size(), file_.get());
    next_ = byte_order_mark({buffer_.data(), size_}, path_);
    check_buffer();
    if (next_ == size_) fill();
  }

  bool ended() const { return size_ == 0; }
  /// True at the end of the file, or of the line where lines are separate documents.
  bool at_end() const { return ended() || (stops_at_newline_ && at_line_end()); }
  char peek() const { return buffer_[next_]; }
  void advance() {
    ++value_bytes_;
    QALOF_CHECK(value_bytes_ <= kMaxValueBytes, ErrorKind::kBadInput,
                "{}: a value of more than {} bytes", path_, kMaxValueBytes);
    const char c = peek();
    blank_bytes_ = c == ' ' || c == '\t' || c == '\r' || c == '\n' ? blank_bytes_ + 1 : 0;
    QALOF_CHECK(blank_bytes_ <= kMaxBlankBytes, ErrorKind::kCorruptFile,
                "{}: more than {} bytes of white space", path_, kMaxBlankBytes);
    if (++next_ == size_) fill();
  }
  /// Moves past a line end.
  void skip_line_end() {
    const bool may_be_pair = !ended() && peek() == '\r';
    if (!ended()) advance();
    if (may_be_pair && !ended() && peek() == '\n') advance();
  }
  void stop_at_newline() { stops_at_newline_ = true; }
  /// Called when the parser has finished a value; resets the limit.
  void end_value() { value_bytes_ = 0; }

 private:
  // A string with escapes is longer in the file than in memory. The parser's buffers and its
  // message hold several copies of a value, which must stay within 64 MiB together.
  static constexpr std::size_t kMaxValueBytes = 2 * kMaxSquadString;
  static constexpr std::size_t kMaxBlankBytes = std::size_t{1} << 20;

  static std::FILE* open(const std::string& path) {
    std::error_code ignored;
    QALOF_CHECK(std::filesystem::exists(path, ignored), ErrorKind::kNotFound, "{}: no such file",
                path);
    QALOF_CHECK(std::filesystem::is_regular_file(path, ignored), ErrorKind::kBadInput,
                "{}: is not a regular file", path);
    std::FILE* file = std::fopen(path.c_str(), "rb");
    QALOF_CHECK(file != nullptr, ErrorKind::kResource, "{}: {}", path,
                std::generic_category().message(errno));
    return file;
  }
  bool at_line_end() const { return peek() == '\n' || peek() == '\r'; }
  void fill() {
    size_ = std::fread(buffer_.data(), 1, buffer_.size(), file_.get());
    next_ = 0;
    check_buffer();
  }
  void check_buffer() const {
    // The parser would take a NUL byte for the end of the file.
    QALOF_CHECK(std::memchr(buffer_.data(), 0, size_) == nullptr, ErrorKind::kCorruptFile,
                "{}: not valid JSON: it has a NUL byte", path_);
    QALOF_CHECK(size_ > 0 || std::ferror(file_.get()) == 0, ErrorKind::kResource,
                "{}: could not be read: {}", path_, std::generic_category().message(errno));
  }

  const std::string& path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::array<char, std::size_t{1} << 16> buffer_;
  std::size_t next_ = 0, size_ = 0, value_bytes_ = 0, blank_bytes_ = 0;
  bool stops_at_newline_ = false;
};

// Input iterator for the parser; without an input it is the end.
class InputIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;

  InputIterator() = default;
  explicit InputIterator(SquadInput* input) : input_(input) {}
  char operator*() const { return input_->peek(); }
  InputIterator& operator++() {
    input_->advance();
    return *this;
  }
  bool operator==(const InputIterator& other) const { return is_end() == other.is_end(); }
  bool operator!=(const InputIterator& other) const { return !(*this == other); }

 private:
  bool is_end() const { return input_ == nullptr || input_->at_end(); }
  SquadInput* input_ = nullptr;
};

// Tells the input where values end, and passes all events to the handler.
class Events {
 public:
  Events(SquadHandler* handler, SquadInput* input) : handler_(handler), input_(input) {}
  bool null() { return value(handler_->null()); }
  bool boolean(bool v) { return value(handler_->boolean(v)); }
  bool number_integer(std::int64_t v) { return value(handler_->number_integer(v)); }
  bool number_unsigned(std::uint64_t v) { return value(handler_->number_unsigned(v)); }
  bool number_float(double v, const std::string& s) { return value(handler_->number_float(v, s)); }
  bool string(std::string& v) { return value(handler_->string(v)); }
  bool binary(nlohmann::json::binary_t& v) { return value(handler_->binary(v)); }
  bool start_object(std::size_t n) { return value(handler_->start_object(n)); }
  bool key(std::string& name) { return value(handler_->key(name)); }
  bool end_object() { return value(handler_->end_object()); }
  bool start_array(std::size_t n) { return value(handler_->start_array(n)); }
  bool end_array() { return value(handler_->end_array()); }
  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::detail::exception& error) {
    return handler_->parse_error(position, token, error);
  }

 private:
  bool value(bool goes_on) {
    input_->end_value();
    return goes_on;
  }
  SquadHandler* handler_;
  SquadInput* input_;
};

// Looks at the top-level keys of the first document: keys of an example mean JSON lines.
class FormPeek : public nlohmann::json::json_sax_t {
 public:
  explicit FormPeek(SquadInput* input) : input_(input) {}
  bool is_json_lines() const { return is_json_lines_; }

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(std::int64_t) override { return value(); }
  bool number_unsigned(std::uint64_t) override { return value(); }
  bool number_float(double, const std::string&) override { return value(); }
  bool string(std::string&) override { return value(); }
  bool binary(nlohmann::json::binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(); }
  bool start_array(std::size_t) override { return depth_ > 0 && open(); }  // stops at a list
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    if (depth_ != 1) return value();
    is_json_lines_ |= name == "question" || name == "context" || name == "id" || name == "answers";
    if (name == "data") is_json_lines_ = false;
    return name != "data" && value();
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;  // the reading pass reports it
  }

 private:
  static constexpr std::size_t kMaxDepth = 64;
  bool value() {
    input_->end_value();
    return true;
  }
  bool open() { return ++depth_ <= kMaxDepth && value(); }
  bool close() { return --depth_ > 0 && value(); }
  SquadInput* input_;
  std::size_t depth_ = 0;
  bool is_json_lines_ = false;
};

bool is_json_lines(const std::string& path) {
  SquadInput input(path);
  FormPeek peek(&input);
  nlohmann::json::sax_parse(InputIterator(&input), InputIterator(), &peek,
                            nlohmann::json::input_format_t::json, /*strict=*/false);
  return peek.is_json_lines();
}

void read_lines(SquadInput* input, SquadHandler* handler, Events* events) {
  input->stop_at_newline();
  for (std::uint64_t line = 1; !input->ended() && !handler->stopped(); ++line) {
    while (!input->at_end() && std::strchr(" \t", input->peek()) != nullptr) input->advance();
    input->end_value();
    if (!input->at_end()) {
      handler->begin_line(line);
      nlohmann::json::sax_parse(InputIterator(input), InputIterator(), events);
    }
    if (!handler->stopped()) input->skip_line_end();
  }
}

}  // namespace

std::string_view to_string(SquadForm form) {
  switch (form) {
    case SquadForm::kNested:
      return "nested JSON";
    case SquadForm::kFlat:
      return "flat JSON";
    case SquadForm::kJsonLines:
      break;
  }
  return "JSON lines";
}

SquadSummary read_squad(const std::string& path,
                        const std::function<bool(SquadParagraph&&)>& on_paragraph) {
  SquadSummary summary;
  const bool lines = is_json_lines(path);
  SquadInput input(path);
  SquadHandler handler(path, on_paragraph, &summary);
  Events events(&handler, &input);
  if (lines) {
    summary.form = SquadForm::kJsonLines;
    read_lines(&input, &handler, &events);
  } else {
    nlohmann::json::sax_parse(InputIterator(&input), InputIterator(), &events);
    QALOF_CHECK(handler.found_list(), ErrorKind::kBadInput,
                "{}: holds no list of examples, expected {{\"data\": [...]}}", path);
  }
  QALOF_CHECK(summary.questions > 0 || handler.stopped(), ErrorKind::kBadInput,
              "{}: holds no questions", path);
  return summary;
}

SquadSummary scan_squad(const std::string& path) {
  std::uint64_t moved = 0, lost = 0;
  SquadSummary summary = read_squad(path, [&](SquadParagraph&& paragraph) {
    for (const SquadQuestion& question : paragraph.questions) {
      for (const SquadAnswer& answer : question.answers) {
        const std::int64_t found = find_answer(paragraph.context, answer);
        moved += found >= 0 && found != answer.start ? 1 : 0;
        lost += found < 0 ? 1 : 0;
      }
    }
    return true;
  });
  summary.moved_answers = moved;
  summary.lost_answers = lost;
  return summary;
}

std::unordered_map<std::string, std::uint64_t> repeated_ids(const std::string& path,
                                                            std::uint64_t max_questions) {
  const auto for_each_id = [&](const auto& take) {
    std::uint64_t taken = 0;
    read_squad(path, [&](SquadParagraph&& paragraph) {
      for (SquadQuestion& question : paragraph.questions) {
        if (max_questions > 0 && taken++ == max_questions) return false;
        take(question.id);
      }
      return true;
    });
  };
  const std::hash<std::string> hash;
  std::vector<std::size_t> hashes;
  for_each_id([&](const std::string& id) { hashes.push_back(hash(id)); });
  std::sort(hashes.begin(), hashes.end());
  std::unordered_set<std::size_t> repeated;
  for (std::size_t i = 1; i < hashes.size(); ++i) {
    if (hashes[i] == hashes[i - 1]) repeated.insert(hashes[i]);
  }
  std::unordered_map<std::string, std::uint64_t> counts;
  if (repeated.empty()) return counts;
  for_each_id([&](const std::string& id) {
    if (repeated.count(hash(id)) > 0) ++counts[id];
  });
  std::erase_if(counts, [](const auto& entry) { return entry.second == 1; });
  return counts;
}

std::int64_t find_answer(std::string_view context, const SquadAnswer& answer) {
  const std::string_view text = answer.text;
  if (text.empty()) return -1;
  const std::int64_t start = std::max<std::int64_t>(answer.start, 0);
  std::size_t byte = 0;
  for (std::int64_t point = 0; point < start && byte < context.size(); ++point) {
    next_code_point(context, &byte);
  }
  if (byte < context.size() && context.substr(byte).starts_with(text)) return start;

  // Knuth, Morris and Pratt (1977): the length of the longest border of each prefix of the answer.
  std::vector<std::size_t> border(text.size() + 1, 0);
  for (std::size_t i = 1, matched = 0; i < text.size(); ++i) {
    while (matched > 0 && text[i] != text[matched]) matched = border[matched];
    if (text[i] == text[matched]) ++matched;
    border[i + 1] = matched;
  }
  const auto length = static_cast<std::int64_t>(count_code_points(text));
  std::int64_t best = -1, points = 0;  // code points up to and including this byte
  std::size_t matched = 0;
  for (std::size_t i = 0; i < context.size(); ++i) {
    if ((context[i] & 0xc0) != 0x80) ++points;
    while (matched > 0 && (matched == text.size() || context[i] != text[matched])) {
      matched = border[matched];
    }
    if (context[i] == text[matched]) ++matched;
    if (matched < text.size()) continue;
    const std::int64_t found = points - length;
    if (best < 0 || std::abs(found - start) < std::abs(best - start)) best = found;
  }
  return best;
}

}  // namespace qalof::text
