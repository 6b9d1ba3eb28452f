// Reads patterns into trees, by the syntax of Oniguruma.
#include "text/split_pattern_tree.h"

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "text/unicode.h"

namespace qalof::text {

void CodeSet::finish() {
  for (CodeSet& set : nested_) set.finish();
  for (std::uint32_t point = 0; point < ascii_.size(); ++point) ascii_[point] = search(point);
}

bool CodeSet::search(std::uint32_t point) const {
  bool found = (categories_ >> static_cast<std::uint32_t>(find_category(point)) & 1U) != 0;
  for (std::size_t i = 0; i < ranges_.size() && !found; ++i)
    found = point >= ranges_[i].first && point <= ranges_[i].last;
  for (std::size_t i = 0; i < nested_.size() && !found; ++i) found = nested_[i].contains(point);
  return found != negated_;
}

namespace split_pattern {

bool may_be_empty(const Node& node) {
  const auto is_empty = [](const NodePtr& child) { return may_be_empty(*child); };
  switch (node.kind) {
    case Kind::kSet:
      return false;
    case Kind::kSequence:
      return std::ranges::all_of(node.children, is_empty);
    case Kind::kChoice:
      return std::ranges::any_of(node.children, is_empty);
    case Kind::kRepeat:
      return node.low == 0 || may_be_empty(*node.children[0]);
    case Kind::kAtomic:
      return may_be_empty(*node.children[0]);
    default:
      return true;
  }
}

namespace {

constexpr std::size_t kMaxDepth = 20;  // of groups and of sets in sets
constexpr std::size_t kMaxSets = 512;
constexpr std::uint32_t kMaxRepeat = 1000;
constexpr std::uint32_t kLastPoint = 0x10ffff;

NodePtr make(Kind kind) { return std::make_unique<Node>(Node{kind}); }

// White_Space and the word characters of Oniguruma.
CodeSet white_space() {
  CodeSet set;
  set.add(0x09, 0x0d);
  set.add(0x85, 0x85);
  set.add_categories(category_bits("Z"));
  return set;
}
CodeSet word() {
  CodeSet set;
  for (const char* name : {"L", "M", "Nd", "Nl", "Pc"}) set.add_categories(category_bits(name));
  // Circled letters are alphabetic; superscripts and fractions of Latin-1 count too.
  for (const auto& [first, last] : {std::pair{0x24b6U, 0x24e9U},
                                    {0x1f130U, 0x1f149U},
                                    {0x1f150U, 0x1f169U},
                                    {0x1f170U, 0x1f189U},
                                    {0xb2U, 0xb3U},
                                    {0xb9U, 0xb9U},
                                    {0xbcU, 0xbeU}})
    set.add(first, last);
  return set;
}

class Parser {
 public:
  Parser(std::string_view pattern, std::string where, std::vector<CodeSet>* sets)
      : pattern_(pattern), where_(std::move(where)), sets_(sets) {}

  NodePtr parse() {
    NodePtr root = choice(0);
    check(at_ == pattern_.size(), "a \")\" without its \"(\"");
    return root;
  }

 private:
  void check(bool is_sound, const char* problem) const {
    QALOF_CHECK(is_sound, ErrorKind::kBadInput, "{}: the pattern has {} at byte {}", where_,
                problem, at_);
  }
  void check_known(bool is_known, std::string_view construct) const {
    QALOF_CHECK(is_known, ErrorKind::kUnsupported,
                "{}: the pattern uses {} at byte {}, which is not implemented", where_, construct,
                at_);
  }
  bool take(std::string_view text) {
    if (!pattern_.substr(at_).starts_with(text)) return false;
    at_ += text.size();
    return true;
  }
  bool is_at(char c) const { return at_ < pattern_.size() && pattern_[at_] == c; }
  char peek() const { return at_ < pattern_.size() ? pattern_[at_] : '\0'; }
  std::uint32_t point() {
    check(at_ < pattern_.size(), "its end where a character is expected");
    return next_code_point(pattern_, &at_);
  }
  std::uint32_t keep(CodeSet set) {
    set.finish();
    check_known(sets_->size() < kMaxSets, "so many sets that it");
    sets_->push_back(std::move(set));
    return static_cast<std::uint32_t>(sets_->size() - 1);
  }
  NodePtr set_node(CodeSet set) {
    NodePtr node = make(Kind::kSet);
    node->set = keep(std::move(set));
    return node;
  }

  NodePtr choice(std::size_t depth) {
    check_known(depth < kMaxDepth, "groups nested so deeply");
    NodePtr node = make(Kind::kChoice);
    do {
      node->children.push_back(sequence(depth));
    } while (take("|"));
    return node->children.size() == 1 ? std::move(node->children[0]) : std::move(node);
  }

  NodePtr sequence(std::size_t depth) {
    NodePtr node = make(Kind::kSequence);
    last_literal_ = 0;
    while (at_ < pattern_.size() && pattern_[at_] != '|' && pattern_[at_] != ')') {
      NodePtr part = atom(depth);
      while (at_ < pattern_.size() &&
             std::string_view("?*+{").find(pattern_[at_]) != std::string_view::npos)
        part = repeat(std::move(part));
      node->children.push_back(std::move(part));
    }
    return node;
  }

  NodePtr repeat(NodePtr part) {
    NodePtr node = make(Kind::kRepeat);
    const bool is_interval = is_at('{');
    last_literal_ = 0;
    if (take("?")) {
      node->high = 1;
    } else if (take("*")) {
      node->high = kUnbounded;
    } else if (take("+")) {
      node->low = 1;
      node->high = kUnbounded;
    } else {
      interval(node.get());
    }
    check_known(!is_at('?'), "lazy repetition (*?)");
    check_known(!is_interval || !is_at('+'), "{..}+");
    node->is_possessive = take("+");
    check_known(part->kind != Kind::kAssertion && part->kind != Kind::kAhead &&
                    part->kind != Kind::kNotAhead && !may_be_empty(*part),
                "repetition of what may be empty");
    node->children.push_back(std::move(part));
    return node;
  }

  void interval(Node* node) {
    take("{");
    const std::optional<std::uint32_t> low = number();
    std::optional<std::uint32_t> high = low;
    if (take(",")) {
      high = number();
      if (!high) high = kUnbounded;
      check_known(low.has_value() || high != kUnbounded, "{,}");
    }
    check_known(high.has_value() && take("}"), "a \"{\" that is no repetition");
    node->low = low.value_or(0);
    node->high = *high;
    check(node->low <= node->high && node->high > 0, "a repetition whose bounds cross");
  }
  std::optional<std::uint32_t> number() {
    if (peek() < '0' || peek() > '9') return std::nullopt;
    std::uint32_t value = 0;
    for (; peek() >= '0' && peek() <= '9'; ++at_) {
      value = 10 * value + static_cast<std::uint32_t>(peek() - '0');
      check_known(value <= kMaxRepeat, "a repetition over 1000");
    }
    return value;
  }

  NodePtr atom(std::size_t depth) {
    if (is_at('(')) return group(depth);
    if (is_at('[')) {
      last_literal_ = 0;
      return set_node(set(depth));
    }
    if (is_at('^') || is_at('$')) {
      last_literal_ = 0;
      return assertion(pattern_[at_++]);
    }
    if (take(".")) {
      last_literal_ = 0;
      CodeSet set;
      set.add('\n', '\n');
      set.negate();
      return set_node(std::move(set));
    }
    check(!is_at('?') && !is_at('*') && !is_at('+'), "a repetition of nothing");
    if (pattern_.substr(at_).starts_with("\\A") || pattern_.substr(at_).starts_with("\\z")) {
      at_ += 2;
      last_literal_ = 0;
      return assertion(pattern_[at_ - 1]);
    }
    CodeSet set;
    if (is_at('\\')) {
      const std::optional<std::uint32_t> literal = escape(&set);
      if (!literal) {
        last_literal_ = 0;
        return set_node(std::move(set));
      }
      return literal_node(*literal);
    }
    return literal_node(point());
  }
  static NodePtr assertion(char name) {
    NodePtr node = make(Kind::kAssertion);
    node->assertion = name;
    return node;
  }

  NodePtr literal_node(std::uint32_t literal) {
    CodeSet set;
    add_literal(literal, &set);
    if (ignores_case_) {
      // Unicode folds some single letters to such pairs, e.g. U+00DF to "ss".
      const std::uint32_t here = literal | 0x20U;
      for (const std::string_view pair : {"ss", "st", "ff", "fi", "fl"}) {
        check_known(last_literal_ != static_cast<std::uint32_t>(pair[0]) ||
                        here != static_cast<std::uint32_t>(pair[1]),
                    "letters in any case that stand for one letter");
      }
      last_literal_ = here;
    }
    return set_node(std::move(set));
  }
  // One code point, with its other cases under (?i:...).
  void add_literal(std::uint32_t literal, CodeSet* set) {
    set->add(literal, literal);
    if (!ignores_case_) return;
    check_known(literal < 0x80, "a letter beyond ASCII in any case");
    const std::uint32_t lower = literal | 0x20U;
    if (lower < 'a' || lower > 'z') return;
    set->add(lower, lower);
    set->add(lower - 0x20, lower - 0x20);
    if (lower == 's') set->add(0x17f, 0x17f);    // long s
    if (lower == 'k') set->add(0x212a, 0x212a);  // Kelvin sign
  }

  NodePtr group(std::size_t depth) {
    take("(");
    Kind kind = Kind::kSequence;
    const bool ignored_case = ignores_case_;
    if (take("?")) {
      if (take("i:")) {
        ignores_case_ = true;
      } else if (take("=")) {
        kind = Kind::kAhead;
      } else if (take("!")) {
        kind = Kind::kNotAhead;
      } else if (take(">")) {
        kind = Kind::kAtomic;
      } else {
        check_known(take(":"), std::string("(?") + std::string(pattern_.substr(at_, 2)));
      }
    }
    NodePtr inner = choice(depth + 1);
    check(take(")"), "a \"(\" without its \")\"");
    ignores_case_ = ignored_case;
    last_literal_ = 0;
    if (kind == Kind::kSequence) return inner;
    NodePtr node = make(kind);
    node->children.push_back(std::move(inner));
    return node;
  }

  // [...]: ranges, escapes and sets in sets.
  CodeSet set(std::size_t depth) {
    check_known(depth < kMaxDepth, "sets nested so deeply");
    take("[");
    CodeSet result;
    if (take("^")) result.negate();
    check_known(!is_at(']'), "a set that begins with \"]\"");
    while (!take("]")) {
      check(at_ < pattern_.size(), "a \"[\" without its \"]\"");
      check_known(!pattern_.substr(at_).starts_with("[:"), "[:...:]");
      check_known(!pattern_.substr(at_).starts_with("&&"), "&& in a set");
      if (is_at('[')) {
        result.add_set(set(depth + 1));
        continue;
      }
      const std::optional<std::uint32_t> first = set_member(&result);
      if (!first) continue;
      if (is_at('-') && at_ + 1 < pattern_.size() && pattern_[at_ + 1] != ']') {
        take("-");
        check_known(!is_at('['), "a range that ends in a set");
        const std::optional<std::uint32_t> last = set_member(&result);
        check(last.has_value() && *last >= *first, "a range whose ends cross");
        check_known(!ignores_case_, "a range in any case");
        result.add(*first, *last);
      } else {
        add_literal(*first, &result);
      }
    }
    return result;
  }
  // A literal, or nullopt where a class was added.
  std::optional<std::uint32_t> set_member(CodeSet* into) {
    return is_at('\\') ? escape(into) : std::optional(point());
  }

  // An escape: a literal, or a class that is added to `into`.
  std::optional<std::uint32_t> escape(CodeSet* into) {
    take("\\");
    check(at_ < pattern_.size(), "a \"\\\" at its end");
    const char name = pattern_[at_];
    constexpr std::string_view kControls = "trnfvae";
    constexpr std::string_view kControlCodes = "\t\r\n\f\v\a\x1b";
    if (const std::size_t control = kControls.find(name); control != std::string_view::npos) {
      ++at_;
      return static_cast<std::uint32_t>(kControlCodes[control]);
    }
    const bool is_letter_or_digit = (name >= '0' && name <= '9') || (name >= 'a' && name <= 'z') ||
                                    (name >= 'A' && name <= 'Z');
    if (!is_letter_or_digit) return point();
    if (name == 'x' || name == 'u') return hexadecimal();
    check_known(std::string_view("sSwWdDpP").find(name) != std::string_view::npos,
                std::string("\\") + name);
    check_known(!ignores_case_, "a class in any case");
    ++at_;
    CodeSet set;
    if (name == 's' || name == 'S') set = white_space();
    if (name == 'w' || name == 'W') set = word();
    if (name == 'd' || name == 'D') set.add_categories(category_bits("Nd"));
    if (name == 'p' || name == 'P') {
      check_known(take("{"), "\\p without braces");
      if (take("^")) set.negate();
      const std::size_t end = std::min(pattern_.find('}', at_), pattern_.size());
      const std::string_view property = pattern_.substr(at_, end - at_);
      const std::uint32_t bits = category_bits(property);
      check_known(bits != 0, fmt::format("\\p{{{:.20}}}", property));
      at_ = end;
      check(take("}"), "a \"{\" without its \"}\"");
      set.add_categories(bits);
    }
    if (name >= 'A' && name <= 'Z') set.negate();
    into->add_set(std::move(set));
    return std::nullopt;
  }
  // \xHH, \x{H...} and \uHHHH.
  std::uint32_t hexadecimal() {
    const bool is_long = pattern_[at_++] == 'u';
    const bool is_braced = !is_long && take("{");
    const std::size_t max_digits = is_long ? 4 : is_braced ? 8 : 2;
    std::uint32_t value = 0;
    std::size_t digits = 0;
    for (; digits < max_digits && at_ < pattern_.size(); ++digits, ++at_) {
      const char c = pattern_[at_];
      const std::size_t digit = std::string_view("0123456789abcdef")
                                    .find(c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c);
      if (digit == std::string_view::npos) break;
      value = value << 4 | static_cast<std::uint32_t>(digit);
    }
    check(digits == max_digits || (is_braced && digits > 0), "an incomplete number");
    check(!is_braced || take("}"), "a \"{\" without its \"}\"");
    const bool is_point = value <= kLastPoint && (value < 0xd800 || value > 0xdfff);
    check(is_point && (is_long || is_braced || value < 0x80), "a number that is no character");
    return value;
  }

  std::string_view pattern_;
  std::string where_;
  std::vector<CodeSet>* sets_;
  std::size_t at_ = 0;
  bool ignores_case_ = false;
  std::uint32_t last_literal_ = 0;  // a letter of (?i:...) that comes directly before
};

}  // namespace

NodePtr parse_tree(std::string_view pattern, const std::string& where, std::vector<CodeSet>* sets) {
  return Parser(pattern, where, sets).parse();
}

}  // namespace split_pattern

}  // namespace qalof::text
