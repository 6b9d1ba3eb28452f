// Parses patterns into a tree, compiles the tree into instructions, and matches by backtracking
// with an explicit stack and a bound on steps.
#include "text/split_pattern.h"

#include <algorithm>

#include "core/error.h"
#include "text/split_pattern_tree.h"
#include "text/unicode.h"

namespace qalof::text {

namespace {

constexpr std::size_t kMaxInstructions = 4096;

}  // namespace

// Turns the tree into instructions.
class PatternCompiler {
 public:
  using Node = split_pattern::Node;
  using Kind = split_pattern::Kind;
  using Op = SplitPattern::Op;

  explicit PatternCompiler(SplitPattern* pattern) : pattern_(pattern) {}

  void compile(const Node& node) {
    switch (node.kind) {
      case Kind::kSet:
        add({Op::kSet, node.set});
        return;
      case Kind::kSequence:
        for (const auto& child : node.children) compile(*child);
        return;
      case Kind::kChoice:
        choice(node);
        return;
      case Kind::kRepeat:
        repeat(node);
        return;
      case Kind::kAhead:
        enclose(Op::kAhead, *node.children[0]);
        return;
      case Kind::kNotAhead:
        enclose(Op::kNotAhead, *node.children[0]);
        return;
      case Kind::kAtomic:
        enclose(Op::kAtomic, *node.children[0]);
        return;
      case Kind::kAssertion:
        add({node.assertion == '^'   ? Op::kLineStart
             : node.assertion == '$' ? Op::kLineEnd
             : node.assertion == 'A' ? Op::kTextStart
                                     : Op::kTextEnd});
        return;
    }
  }
  void finish() { add({Op::kMatch}); }

 private:
  std::uint32_t here() const { return static_cast<std::uint32_t>(pattern_->program_.size()); }
  std::uint32_t add(SplitPattern::Instruction instruction) {
    QALOF_CHECK(here() < kMaxInstructions, ErrorKind::kUnsupported, "{}: the pattern is too long",
                pattern_->where_);
    pattern_->program_.push_back(instruction);
    return here() - 1;
  }
  void set_target(std::uint32_t at) { pattern_->program_[at].target = here(); }

  void choice(const Node& node) {
    std::vector<std::uint32_t> jumps;
    for (std::size_t i = 0; i + 1 < node.children.size(); ++i) {
      const std::uint32_t split = add({Op::kSplit});
      compile(*node.children[i]);
      jumps.push_back(add({Op::kJump}));
      set_target(split);
    }
    compile(*node.children.back());
    for (const std::uint32_t jump : jumps) set_target(jump);
  }

  void enclose(Op op, const Node& body) {
    const std::uint32_t start = add({op});
    compile(body);
    finish();
    set_target(start);
  }

  void repeat(const Node& node) {
    const Node& body = *node.children[0];
    if (body.kind == Kind::kSet) {
      add({node.is_possessive ? Op::kRunAll : Op::kRun, body.set, node.low, node.high});
      return;
    }
    const std::uint32_t atomic = node.is_possessive ? add({Op::kAtomic}) : 0;
    for (std::uint32_t i = 0; i < node.low; ++i) compile(body);
    if (node.high == split_pattern::kUnbounded) {
      const std::uint32_t split = add({Op::kSplit});
      compile(body);
      const std::uint32_t jump = add({Op::kJump});
      pattern_->program_[jump].target = split;
      set_target(split);
    } else {
      std::vector<std::uint32_t> splits;
      for (std::uint32_t i = node.low; i < node.high; ++i) {
        splits.push_back(add({Op::kSplit}));
        compile(body);
      }
      for (const std::uint32_t split : splits) set_target(split);
    }
    if (!node.is_possessive) return;
    finish();
    set_target(atomic);
  }

  SplitPattern* pattern_;
};

SplitPattern SplitPattern::parse(std::string_view pattern, const std::string& where) {
  SplitPattern result;
  result.where_ = where;
  check_utf8(pattern, where);
  const split_pattern::NodePtr root = split_pattern::parse_tree(pattern, where, &result.sets_);
  QALOF_CHECK(!split_pattern::may_be_empty(*root), ErrorKind::kUnsupported,
              "{}: the pattern matches the empty text, which is not implemented", where);
  PatternCompiler compiler(&result);
  compiler.compile(*root);
  compiler.finish();
  std::vector<bool> seen(result.program_.size());
  result.find_first_bytes(0, &seen);
  return result;
}

// Marks the bytes with which a match that begins at instruction pc may begin. A byte beyond ASCII
// stands for all of them.
void SplitPattern::find_first_bytes(std::uint32_t pc, std::vector<bool>* seen) {
  std::vector<std::uint32_t> open = {pc};
  while (!open.empty()) {
    const std::uint32_t at = open.back();
    open.pop_back();
    if ((*seen)[at]) continue;
    (*seen)[at] = true;
    const Instruction& one = program_[at];
    switch (one.op) {
      case Op::kSet:
      case Op::kRun:
      case Op::kRunAll:
        for (std::uint32_t byte = 0; byte < 256; ++byte)
          first_bytes_[byte] = first_bytes_[byte] || byte >= 0x80 || sets_[one.set].contains(byte);
        if (one.op != Op::kSet && one.low == 0) open.push_back(at + 1);
        break;
      case Op::kSplit:
      case Op::kAtomic:  // an empty group continues at its target
        open.push_back(at + 1);
        open.push_back(one.target);
        break;
      case Op::kJump:
      case Op::kAhead:
      case Op::kNotAhead:
        open.push_back(one.target);
        break;
      case Op::kMatch:
        break;
      default:
        open.push_back(at + 1);
    }
  }
}

std::optional<SplitPattern::Match> SplitPattern::find(Search& search, std::size_t from) const {
  const std::string_view text = search.text;
  for (std::size_t start = from; start < text.size();) {
    if (!first_bytes_[static_cast<unsigned char>(text[start])]) {
      ++start;  // inside a code point no byte is a first one but those beyond ASCII
      continue;
    }
    const std::size_t end = match_at(search, 0, start);
    if (end != kNoMatch) return Match{start, end};
    next_valid_code_point(text, &start);
  }
  return std::nullopt;
}

// Consumes a run of one set; pushes a frame for the shorter ones.
bool SplitPattern::run(Search& search, const Instruction& one, std::uint32_t pc,
                       std::size_t* position) const {
  const std::string_view text = search.text;
  const CodeSet& set = sets_[one.set];
  std::size_t at = *position, low = *position;
  std::uint32_t count = 0;
  while (count < one.high && at < text.size()) {
    std::size_t next = at;
    if (!set.contains(next_valid_code_point(text, &next))) break;
    at = next;
    if (++count == one.low) low = at;
  }
  if (count < one.low) return false;
  search.steps -= std::min<std::size_t>(search.steps, count);
  if (one.op == Op::kRun && at > low)
    search.frames.push_back({pc + 1, low, previous_code_point(text, at)});
  *position = at;
  return true;
}

// One instruction; false where it fails.
bool SplitPattern::step(Search& search, std::uint32_t* pc, std::size_t* position) const {
  const std::string_view text = search.text;
  const Instruction& one = program_[*pc];
  const std::size_t at = *position;
  bool goes_on = true;
  switch (one.op) {
    case Op::kSet:
      goes_on = at < text.size() && sets_[one.set].contains(next_valid_code_point(text, position));
      break;
    case Op::kRun:
    case Op::kRunAll:
      goes_on = run(search, one, *pc, position);
      break;
    case Op::kSplit:
      search.frames.push_back({one.target, at, at});
      break;
    case Op::kJump:
      *pc = one.target;
      return true;
    case Op::kAhead:
    case Op::kNotAhead:
      *pc = one.target;
      return (match_at(search, static_cast<std::uint32_t>(&one - program_.data()) + 1, at) !=
              kNoMatch) == (one.op == Op::kAhead);
    case Op::kAtomic:
      *position = match_at(search, *pc + 1, at);
      *pc = one.target;
      return *position != kNoMatch;
    case Op::kLineStart:
      goes_on = at == 0 || (text[at - 1] == '\n' && at < text.size());
      break;
    case Op::kLineEnd:
      goes_on = at == text.size() || text[at] == '\n';
      break;
    case Op::kTextStart:
      goes_on = at == 0;
      break;
    case Op::kTextEnd:
      goes_on = at == text.size();
      break;
    case Op::kMatch:
      break;
  }
  ++*pc;
  return goes_on;
}

std::size_t SplitPattern::match_at(Search& search, std::uint32_t pc, std::size_t position) const {
  const std::size_t base = search.frames.size();
  while (program_[pc].op != Op::kMatch) {
    QALOF_CHECK(search.steps > 0, ErrorKind::kBadInput,
                "{}: the pattern takes too many steps on a text of {} bytes", where_,
                search.text.size());
    --search.steps;
    if (step(search, &pc, &position)) continue;
    if (search.frames.size() == base) return kNoMatch;
    Search::Frame& frame = search.frames.back();
    pc = frame.pc;
    position = frame.position;
    if (frame.position > frame.low) {
      frame.position = previous_code_point(search.text, frame.position);
    } else {
      search.frames.pop_back();
    }
  }
  search.frames.resize(base, {});
  return position;
}

}  // namespace qalof::text
