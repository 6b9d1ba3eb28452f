// The lexer of templates: text outside marks, tokens inside them.
#include "text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <optional>

#include "core/error.h"
#include "text/unicode.h"

namespace qalof::text::jinja {

namespace lexer_file {

bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_ascii_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_part(char c) { return is_name_start(c) || is_digit(c); }

// Every line end as "\n"; one at the very end is dropped, as Jinja does.
std::string with_plain_line_ends(std::string_view source) {
  std::string result;
  result.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      result += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      result += source[i];
    }
  }
  if (result.ends_with('\n')) result.pop_back();
  return result;
}

// Bytes of text up to the white space at its end.
std::size_t size_without_space(std::string_view text) {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < text.size();) {
    if (!is_python_space(next_code_point(text, &i))) kept = i;
  }
  return kept;
}

bool is_all_space(std::string_view text) { return size_without_space(text) == 0; }

class Lexer {
 public:
  Lexer(std::string_view source, std::string where)
      : source_(with_plain_line_ends(source)), where_(std::move(where)) {}

  std::vector<Token> run() {
    while (next_ < source_.size()) {
      const std::size_t mark = find_mark();
      if (mark == source_.npos) {
        add(Token::Kind::kText, source_.substr(next_));
        advance(source_.size());
        break;
      }
      take_text(mark);
      take_mark();
    }
    add(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorKind::kBadInput, "{}: line {}: {}", where_, line_,
         fmt::format(format, std::forward<Args>(args)...));
  }

  void add(Token::Kind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), line_});
  }

  void advance(std::size_t to) {
    line_ += static_cast<std::size_t>(
        std::count(source_.begin() + static_cast<std::ptrdiff_t>(next_),
                   source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    next_ = to;
  }

  char at(std::size_t position) const {
    return position < source_.size() ? source_[position] : '\0';
  }
  bool starts(std::string_view text) const {
    return std::string_view(source_).substr(next_).starts_with(text);
  }

  // Of the next {%, {{ or {#.
  std::size_t find_mark() const {
    for (std::size_t i = next_; i + 1 < source_.size(); ++i) {
      if (source_[i] == '{' &&
          (source_[i + 1] == '%' || source_[i + 1] == '{' || source_[i + 1] == '#'))
        return i;
    }
    return source_.npos;
  }

  // The text before a mark, less the white space that the mark removes.
  void take_text(std::size_t mark) {
    std::string_view text = std::string_view(source_).substr(next_, mark - next_);
    const bool is_variable = source_[mark + 1] == '{';
    const char sign = at(mark + 2);
    if (sign == '-') {
      text = text.substr(0, size_without_space(text));
    } else if (sign != '+' && !is_variable) {
      const std::size_t line_start = text.rfind('\n') + 1;  // npos + 1 is 0
      const std::string_view rest = text.substr(line_start);
      if ((line_start > 0 || at_line_start_) && !rest.empty() && is_all_space(rest))
        text = text.substr(0, line_start);
    }
    if (!text.empty()) add(Token::Kind::kText, std::string(text));
    advance(mark);
  }

  void take_mark() {
    const char kind = source_[next_ + 1];
    if (kind == '#') {
      const std::size_t body = next_ + (at(next_ + 2) == '-' || at(next_ + 2) == '+' ? 3 : 2);
      const std::size_t end = source_.find("#}", body);
      if (end == source_.npos) refuse("a comment has no end");
      const char sign = end > body ? source_[end - 1] : '\0';
      advance(end + 2);
      finish_mark(sign, true);
      return;
    }
    const bool block = kind == '%';
    std::size_t first = next_ + 2;
    if (at(first) == '-' || at(first) == '+') ++first;
    if (block && take_raw(first)) return;
    add(block ? Token::Kind::kBlockBegin : Token::Kind::kVariableBegin, block ? "{%" : "{{");
    advance(first);
    take_tokens(block);
  }

  // White space after a mark: all with '-', none with '+', else one line end after blocks and
  // comments.
  void finish_mark(char sign, bool trims_line_end) {
    const std::size_t begin = next_;
    std::size_t end = next_;
    if (sign == '-') {
      while (end < source_.size()) {
        std::size_t after = end;
        if (!is_python_space(next_code_point(source_, &after))) break;
        end = after;
      }
    } else if (sign != '+' && trims_line_end && at(end) == '\n') {
      ++end;
    }
    advance(end);
    at_line_start_ = end > begin && source_[end - 1] == '\n';
  }

  // {% raw %}...{% endraw %}; false where the block is another one.
  bool take_raw(std::size_t position) {
    const auto skip = [&](std::size_t from) {
      while (from < source_.size() && is_ascii_space(source_[from])) ++from;
      return from;
    };
    position = skip(position);
    if (source_.compare(position, 3, "raw") != 0 || is_name_part(at(position + 3))) return false;
    position = skip(position + 3);
    const char sign = at(position);
    if (sign == '-' || sign == '+') ++position;
    if (source_.compare(position, 2, "%}") != 0) refuse("{{% raw %}} takes nothing");
    const std::size_t start_line = line_;
    advance(position + 2);
    if (sign == '-') finish_mark('-', false);
    const std::size_t body = next_;
    for (std::size_t i = body; i + 1 < source_.size(); ++i) {
      if (source_[i] != '{' || source_[i + 1] != '%') continue;
      std::size_t inner = i + 2;
      const char before = at(inner);
      if (before == '-' || before == '+') ++inner;
      inner = skip(inner);
      if (source_.compare(inner, 6, "endraw") != 0) continue;
      inner = skip(inner + 6);
      const char after = at(inner);
      if (after == '-' || after == '+') ++inner;
      if (source_.compare(inner, 2, "%}") != 0) continue;
      std::string_view text = std::string_view(source_).substr(body, i - body);
      if (before == '-') {
        text = text.substr(0, size_without_space(text));
      } else if (before != '+') {
        const std::size_t line_start = text.rfind('\n') + 1;
        const std::string_view rest = text.substr(line_start);
        if (line_start > 0 && !rest.empty() && is_all_space(rest))
          text = text.substr(0, line_start);
      }
      if (!text.empty()) add(Token::Kind::kText, std::string(text));
      advance(inner + 2);
      finish_mark(after, true);
      return true;
    }
    fail(ErrorKind::kBadInput, "{}: line {}: {{% raw %}} has no {{% endraw %}}", where_,
         start_line);
  }

  // The inside of {% %} or {{ }}, up to and with its end.
  void take_tokens(bool block) {
    const std::size_t start_line = line_;
    const std::string end = block ? "%}" : "}}";
    std::string open;  // brackets
    while (next_ < source_.size()) {
      const char c = source_[next_];
      if (is_ascii_space(c)) {
        advance(next_ + 1);
        continue;
      }
      if (open.empty()) {
        const bool signed_end =
            (c == '-' || (c == '+' && block)) && source_.compare(next_ + 1, 2, end) == 0;
        if (signed_end || starts(end)) {
          add(block ? Token::Kind::kBlockEnd : Token::Kind::kVariableEnd, end);
          advance(next_ + (signed_end ? 3 : 2));
          finish_mark(signed_end ? c : '\0', block);
          return;
        }
      }
      if (is_name_start(c)) {
        std::size_t stop = next_;
        while (is_name_part(at(stop))) ++stop;
        add(Token::Kind::kName, source_.substr(next_, stop - next_));
        advance(stop);
      } else if (is_digit(c)) {
        take_number();
      } else if (c == '"' || c == '\'') {
        take_string();
      } else {
        take_operator(&open);
      }
    }
    fail(ErrorKind::kBadInput, "{}: line {}: {} has no {}", where_, start_line, block ? "{%" : "{{",
         end);
  }

  void take_number() {
    std::size_t stop = next_;
    const auto digits = [&] {
      while (is_digit(at(stop)) || (at(stop) == '_' && is_digit(at(stop + 1)))) ++stop;
    };
    digits();
    bool is_float = false;
    // "a.0.5" has two subscripts.
    const bool after_dot = !tokens_.empty() && tokens_.back().kind == Token::Kind::kOperator &&
                           tokens_.back().text == ".";
    if (!after_dot && at(stop) == '.' && is_digit(at(stop + 1))) {
      is_float = true;
      ++stop;
      digits();
    }
    if (!after_dot && (at(stop) == 'e' || at(stop) == 'E')) {
      const std::size_t sign = at(stop + 1) == '+' || at(stop + 1) == '-' ? 1 : 0;
      if (is_digit(at(stop + 1 + sign))) {
        is_float = true;
        stop += 1 + sign;
        digits();
      }
    }
    if (is_name_start(at(stop)))
      refuse("found {}, expected a decimal number", source_.substr(next_, stop + 1 - next_));
    std::string number = source_.substr(next_, stop - next_);
    std::erase(number, '_');
    add(is_float ? Token::Kind::kFloat : Token::Kind::kInteger, std::move(number));
    advance(stop);
  }

  void take_string() {
    const char quote = source_[next_];
    std::string value;
    std::size_t i = next_ + 1;
    for (;;) {
      if (i >= source_.size()) refuse("a string has no end");
      const char c = source_[i];
      if (c == quote) break;
      if (c != '\\') {
        value += c;
        ++i;
        continue;
      }
      i = take_escape(i + 1, &value);
    }
    add(Token::Kind::kString, std::move(value));
    advance(i + 1);
  }

  // The escape whose letter is at i; returns the position after it.
  std::size_t take_escape(std::size_t i, std::string* value) {
    const char c = at(i);
    static constexpr std::string_view kLetters = "ntr\\'\"abfv", kValues = "\n\t\r\\'\"\a\b\f\v";
    if (const std::size_t known = kLetters.find(c); c != '\0' && known != kLetters.npos) {
      *value += kValues[known];
      return i + 1;
    }
    if (c == '\n') return i + 1;
    if (c == 'N') {
      fail(ErrorKind::kUnsupported, "{}: line {}: the escape \\N is not implemented", where_,
           line_);
    }
    if (c >= '0' && c <= '7') return take_digits(i, 3, 8, value, false);
    if (c == 'x') return take_digits(i + 1, 2, 16, value, true);
    if (c == 'u') return take_digits(i + 1, 4, 16, value, true);
    if (c == 'U') return take_digits(i + 1, 8, 16, value, true);
    *value += '\\';
    return i;
  }

  std::size_t take_digits(std::size_t i, std::size_t count, std::uint32_t base, std::string* value,
                          bool exactly) {
    std::uint32_t point = 0;
    std::size_t found = 0;
    for (; found < count; ++found) {
      const char c = at(i + found);
      std::uint32_t digit = base;
      if (is_digit(c)) digit = static_cast<std::uint32_t>(c - '0');
      if (c >= 'a' && c <= 'f') digit = static_cast<std::uint32_t>(c - 'a' + 10);
      if (c >= 'A' && c <= 'F') digit = static_cast<std::uint32_t>(c - 'A' + 10);
      if (digit >= base || point > 0x110000) break;
      point = point * base + digit;
    }
    if ((exactly && found < count) || point > 0x10ffff || (point >= 0xd800 && point < 0xe000))
      refuse("a string has an escape that is no character");
    append_utf8(point, value);
    return i + found;
  }

  void take_operator(std::string* open) {
    static constexpr std::array<std::string_view, 6> kTwo = {"//", "**", "==", "!=", ">=", "<="};
    for (const std::string_view two : kTwo) {
      if (!starts(two)) continue;
      add(Token::Kind::kOperator, std::string(two));
      advance(next_ + 2);
      return;
    }
    const char c = source_[next_];
    static constexpr std::string_view kOne = "+-/*%~[](){}><=.:|,;";
    if (kOne.find(c) == kOne.npos || c == '\0') {
      std::size_t after = next_;
      next_code_point(source_, &after);
      refuse("found {}, which is no part of an expression", source_.substr(next_, after - next_));
    }
    if (c == '(' || c == '[' || c == '{') *open += c;
    if (c == ')' || c == ']' || c == '}') {
      const char partner = c == ')' ? '(' : c == ']' ? '[' : '{';
      if (open->empty() || open->back() != partner) refuse("found {}, which closes nothing", c);
      open->pop_back();
    }
    add(Token::Kind::kOperator, std::string(1, c));
    advance(next_ + 1);
  }

  std::string source_, where_;
  std::size_t next_ = 0, line_ = 1;
  bool at_line_start_ = true;
  std::vector<Token> tokens_;
};

}  // namespace lexer_file

std::vector<Token> split_template(std::string_view source, const std::string& where) {
  check_utf8(source, where);
  return lexer_file::Lexer(source, where).run();
}

}  // namespace qalof::text::jinja
