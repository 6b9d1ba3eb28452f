// Regular expressions for module names, in time linear in the name: plans come from outside, and a
// backtracking matcher can be made to run for years. Supports literals, '.', [...], (...), |, *, +,
// ?, {m,n}, \d, \w, escaped punctuation, and ^ and $ at the ends, where they change nothing. Not
// for text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qalof::quant {

/// A compiled pattern. Immutable: threads may share it.
class NamePattern {
 public:
  /// Error{kBadInput} with where for a pattern that is malformed, too long (256 bytes), too large
  /// once its counts are written out, or uses what is not supported.
  NamePattern(std::string_view pattern, std::string_view where);
  /// True where the whole name matches.
  bool matches(std::string_view name) const;

 private:
  // One state of a nondeterministic automaton (Thompson, 1968).
  struct State {
    enum class Kind { kByte, kSplit, kAccept } kind = Kind::kAccept;
    std::vector<bool> bytes;  // 256 entries for kByte
    int next = -1, other = -1;
  };
  friend class NamePatternParser;

  std::vector<State> states_;
  int start_ = 0;
};

}  // namespace qalof::quant
