// A pattern is parsed into a tree, the tree written out as an automaton, and the automaton followed
// in all its states at once, which takes time proportional to states times bytes at worst.
#include "quant/name_pattern.h"

#include <cctype>
#include <memory>
#include <utility>

#include "core/error.h"

namespace qalof::quant {

namespace {

constexpr std::size_t kMaxPatternBytes = 256;
// Parts of a pattern once its counts are written out; with it the time of a match is bounded.
constexpr int kMaxParts = 1024;
constexpr int kMaxCount = 255;
constexpr int kUnbounded = -1;

// A pattern as a tree; turned into states afterwards.
struct Node {
  enum class Kind { kBytes, kSequence, kAlternatives, kRepeat } kind = Kind::kSequence;
  std::vector<bool> bytes;                      // kBytes
  std::vector<std::unique_ptr<Node>> children;  // kSequence, kAlternatives; one for kRepeat
  int min = 0, max = kUnbounded;                // kRepeat
};

}  // namespace

class NamePatternParser {
 public:
  NamePatternParser(std::string_view pattern, std::string_view where)
      : pattern_(pattern), where_(where) {}

  std::vector<NamePattern::State> compile(int* start) {
    const std::unique_ptr<Node> root = parse_alternatives(0);
    if (position_ != pattern_.size()) refuse("has ) without (");
    const int accept = add_state();
    *start = emit(*root, accept);
    return std::move(states_);
  }

 private:
  using State = NamePattern::State;

  [[noreturn]] void refuse(std::string_view what) const {
    fail(ErrorKind::kBadInput,
         "{}: pattern \"{:.80}\" {} (at {}); supported are . [] () | * + ? {{m,n}} and \\", where_,
         pattern_, what, position_);
  }
  bool at_end() const { return position_ == pattern_.size(); }
  char peek() const { return pattern_[position_]; }

  std::unique_ptr<Node> parse_alternatives(int depth) {
    if (depth > 32) refuse("is nested too deeply");
    auto node = std::make_unique<Node>();
    node->kind = Node::Kind::kAlternatives;
    node->children.push_back(parse_sequence(depth));
    while (!at_end() && peek() == '|') {
      ++position_;
      node->children.push_back(parse_sequence(depth));
    }
    return node;
  }
  std::unique_ptr<Node> parse_sequence(int depth) {
    auto node = std::make_unique<Node>();
    while (!at_end() && peek() != '|' && peek() != ')') {
      // Every match is a full one, so anchors at the ends say nothing new.
      const bool is_anchor =
          (peek() == '^' && position_ == 0) || (peek() == '$' && position_ + 1 == pattern_.size());
      if (is_anchor) {
        ++position_;
      } else {
        node->children.push_back(parse_repeat(depth));
      }
    }
    return node;
  }
  std::unique_ptr<Node> parse_repeat(int depth) {
    std::unique_ptr<Node> node = parse_atom(depth);
    while (!at_end() && (peek() == '*' || peek() == '+' || peek() == '?' || peek() == '{')) {
      auto repeat = std::make_unique<Node>();
      repeat->kind = Node::Kind::kRepeat;
      const char c = pattern_[position_++];
      if (c == '+') repeat->min = 1;
      if (c == '?') repeat->max = 1;
      if (c == '{') parse_counts(repeat.get());
      repeat->children.push_back(std::move(node));
      node = std::move(repeat);
    }
    return node;
  }
  // The rest of {m}, {m,} or {m,n}.
  void parse_counts(Node* repeat) {
    repeat->min = repeat->max = parse_count();
    if (!at_end() && peek() == ',') {
      ++position_;
      repeat->max = !at_end() && peek() == '}' ? kUnbounded : parse_count();
    }
    if (at_end() || peek() != '}') refuse("has { without }");
    if (repeat->max != kUnbounded && repeat->max < repeat->min) {
      refuse("has counts from high to low");
    }
    ++position_;
  }
  int parse_count() {
    int count = 0;
    const std::size_t first = position_;
    while (!at_end() && peek() >= '0' && peek() <= '9' && count <= kMaxCount) {
      count = 10 * count + (pattern_[position_++] - '0');
    }
    if (position_ == first) refuse("has { without a number");
    if (count > kMaxCount) refuse(fmt::format("has a count above {}", kMaxCount));
    return count;
  }
  std::unique_ptr<Node> parse_atom(int depth) {
    const char c = peek();
    if (c == '(') {
      ++position_;
      if (!at_end() && peek() == '?') {
        if (pattern_.substr(position_, 2) != "?:") refuse("uses a special group");
        position_ += 2;
      }
      std::unique_ptr<Node> inner = parse_alternatives(depth + 1);
      if (at_end()) refuse("has ( without )");
      ++position_;
      return inner;
    }
    auto node = std::make_unique<Node>();
    node->kind = Node::Kind::kBytes;
    node->bytes.assign(256, false);
    ++position_;
    switch (c) {
      case '.':
        node->bytes.assign(256, true);
        return node;
      case '[':
        parse_class(&node->bytes);
        return node;
      case '\\':
        parse_escape(&node->bytes);
        return node;
      case '*':
      case '+':
      case '?':
      case '{':
      case '}':
      case '^':
      case '$':
      case ']':
        --position_;
        refuse(fmt::format("has an unsupported or misplaced {}", c));
      default:
        node->bytes[static_cast<unsigned char>(c)] = true;
        return node;
    }
  }
  void parse_escape(std::vector<bool>* bytes) {
    if (at_end()) refuse("ends in \\");
    const char c = pattern_[position_++];
    const bool is_digit_class = c == 'd', is_word_class = c == 'w';
    if (is_digit_class || is_word_class) {
      for (int b = 0; b < 128; ++b) {
        const bool digit = b >= '0' && b <= '9';
        const bool letter = (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') || b == '_';
        if (digit || (is_word_class && letter)) (*bytes)[static_cast<std::size_t>(b)] = true;
      }
    } else if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      refuse(fmt::format("has an unsupported \\{}", c));
    } else {
      (*bytes)[static_cast<unsigned char>(c)] = true;
    }
  }
  void parse_class(std::vector<bool>* bytes) {
    const bool negated = !at_end() && peek() == '^';
    if (negated) ++position_;
    bool first = true;
    for (; !at_end() && (peek() != ']' || first); first = false) {
      const auto low = static_cast<unsigned char>(pattern_[position_++]);
      if (low == '\\') {
        parse_escape(bytes);
        continue;
      }
      unsigned char high = low;
      if (position_ + 1 < pattern_.size() && peek() == '-' && pattern_[position_ + 1] != ']') {
        high = static_cast<unsigned char>(pattern_[position_ + 1]);
        if (high == '\\') refuse("has a range that ends in \\");
        position_ += 2;
      }
      if (high < low) refuse("has a range from high to low");
      for (std::size_t b = low; b <= high; ++b) (*bytes)[b] = true;
    }
    if (at_end()) refuse("has [ without ]");
    ++position_;
    if (negated) bytes->flip();
  }

  int add_state() {
    states_.emplace_back();
    return static_cast<int>(states_.size()) - 1;
  }
  // States that match node and go on to next; returns the first.
  int emit(const Node& node, int next) {
    if (++num_parts_ > kMaxParts) refuse(fmt::format("has more than {} parts", kMaxParts));
    switch (node.kind) {
      case Node::Kind::kBytes: {
        const int state = add_state();
        states_[static_cast<std::size_t>(state)] = {State::Kind::kByte, node.bytes, next, -1};
        return state;
      }
      case Node::Kind::kSequence:
        for (std::size_t i = node.children.size(); i-- > 0;) next = emit(*node.children[i], next);
        return next;
      case Node::Kind::kAlternatives: {
        int start = emit(*node.children.back(), next);
        for (std::size_t i = node.children.size() - 1; i-- > 0;) {
          const int branch = emit(*node.children[i], next);
          const int split = add_state();
          states_[static_cast<std::size_t>(split)] = {State::Kind::kSplit, {}, branch, start};
          start = split;
        }
        return start;
      }
      case Node::Kind::kRepeat:
        return emit_repeat(node, next);
    }
    return next;
  }
  // Built from the back: what may repeat or be left out first, then the copies that must stand.
  int emit_repeat(const Node& node, int next) {
    const Node& body = *node.children.front();
    int start = next;
    int num_required = node.min;
    if (node.max == kUnbounded) {
      const int split = add_state();
      const int first = emit(body, split);
      states_[static_cast<std::size_t>(split)] = {State::Kind::kSplit, {}, first, next};
      start = node.min == 0 ? split : first;
      if (node.min > 0) --num_required;
    }
    for (int i = node.min; i < node.max; ++i) {
      const int first = emit(body, start);
      const int split = add_state();
      states_[static_cast<std::size_t>(split)] = {State::Kind::kSplit, {}, first, next};
      start = split;
    }
    for (int i = 0; i < num_required; ++i) start = emit(body, start);
    return start;
  }

  std::string_view pattern_, where_;
  std::size_t position_ = 0;
  int num_parts_ = 0;
  std::vector<State> states_;
};

NamePattern::NamePattern(std::string_view pattern, std::string_view where) {
  QALOF_CHECK(!pattern.empty() && pattern.size() <= kMaxPatternBytes, ErrorKind::kBadInput,
              "{}: a pattern of {} bytes, expected 1..{}", where, pattern.size(), kMaxPatternBytes);
  states_ = NamePatternParser(pattern, where).compile(&start_);
}

bool NamePattern::matches(std::string_view name) const {
  std::vector<bool> active(states_.size()), following(states_.size());
  std::vector<int> stack;
  // Marks a state and all it reaches without reading a byte.
  auto enter = [&](std::vector<bool>& set, int state) {
    stack.push_back(state);
    while (!stack.empty()) {
      const auto s = static_cast<std::size_t>(stack.back());
      stack.pop_back();
      if (set[s]) continue;
      set[s] = true;
      if (states_[s].kind == State::Kind::kSplit) {
        stack.push_back(states_[s].next);
        stack.push_back(states_[s].other);
      }
    }
  };
  enter(active, start_);
  for (const char c : name) {
    following.assign(states_.size(), false);
    for (std::size_t s = 0; s < states_.size(); ++s) {
      if (active[s] && states_[s].kind == State::Kind::kByte &&
          states_[s].bytes[static_cast<unsigned char>(c)]) {
        enter(following, states_[s].next);
      }
    }
    std::swap(active, following);
  }
  for (std::size_t s = 0; s < states_.size(); ++s) {
    if (active[s] && states_[s].kind == State::Kind::kAccept) return true;
  }
  return false;
}

}  // namespace qalof::quant
