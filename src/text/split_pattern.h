// A small regular-expression engine for the patterns in tokenizer.json, with the character classes
// of Unicode 16 and the leftmost-first matches of Oniguruma, which `tokenizers` uses
// (docs/decisions/0004-tokenizers.md says why it is our own).
//
// Not for: patterns of users (core/name_pattern.h). Back references, look-behind, lazy repetition,
// scripts and set intersection are refused by name.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qalof::text {

/// A set of code points.
class CodeSet {
 public:
  void add(std::uint32_t first, std::uint32_t last) { ranges_.push_back({first, last}); }
  void add_categories(std::uint32_t bits) { categories_ |= bits; }
  void add_set(CodeSet set) { nested_.push_back(std::move(set)); }
  void negate() { negated_ = !negated_; }
  /// Fills the table that answers for ASCII; call it once, after the last change.
  void finish();

  bool contains(std::uint32_t point) const {
    return point < ascii_.size() ? ascii_[point] : search(point);
  }

 private:
  struct Range {
    std::uint32_t first, last;
  };
  bool search(std::uint32_t point) const;

  std::array<bool, 128> ascii_{};
  std::uint32_t categories_ = 0;
  std::vector<Range> ranges_;
  std::vector<CodeSet> nested_;
  bool negated_ = false;
};

/// Immutable: threads may share it.
class SplitPattern {
 public:
  struct Match {
    std::size_t start, end;  // bytes
  };
  /// What one text may still cost, and reused memory; one per text.
  struct Search {
    struct Frame {
      std::uint32_t pc;
      std::size_t low, position;  // resumed at position, then one code point before it, ... low
    };
    explicit Search(std::string_view all) : text(all), steps(kFreeSteps + kSteps * all.size()) {}
    std::string_view text;  // UTF-8
    std::size_t steps;
    std::vector<Frame> frames;
  };

  /// Error{kUnsupported} for a construct that is not implemented and for patterns that match the
  /// empty text; {kBadInput} for one that is no pattern. where names its place in a file.
  static SplitPattern parse(std::string_view pattern, const std::string& where);

  /// The first match that begins at or after from. Error{kBadInput} where the pattern takes too
  /// many steps on this text.
  std::optional<Match> find(Search& search, std::size_t from) const;

 private:
  friend class PatternCompiler;
  enum class Op : std::uint8_t {
    kMatch,
    kSet,        // one code point of set
    kRun,        // low..high code points of set, as many as there are
    kRunAll,     // the same and never fewer
    kSplit,      // the next instruction follows, else the one at target
    kJump,       // to target
    kAhead,      // the next instructions up to kMatch match here; then target
    kNotAhead,   // they do not
    kAtomic,     // they match, and their first way is the only one; then target
    kLineStart,  // ^
    kLineEnd,    // $
    kTextStart,  // \A
    kTextEnd     // \z
  };
  struct Instruction {
    Op op;
    std::uint32_t set = 0, low = 0, high = 0, target = 0;
  };
  static constexpr std::size_t kFreeSteps = 1'000'000, kSteps = 2000;
  static constexpr std::size_t kNoMatch = SIZE_MAX;

  SplitPattern() = default;
  std::size_t match_at(Search& search, std::uint32_t pc, std::size_t position) const;
  bool step(Search& search, std::uint32_t* pc, std::size_t* position) const;
  bool run(Search& search, const Instruction& one, std::uint32_t pc, std::size_t* position) const;
  void find_first_bytes(std::uint32_t pc, std::vector<bool>* seen);

  std::vector<Instruction> program_;
  std::vector<CodeSet> sets_;
  std::array<bool, 256> first_bytes_{};  // that a match may begin with
  std::string where_;
};

}  // namespace qalof::text
