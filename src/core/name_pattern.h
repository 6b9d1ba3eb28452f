// Regular expressions for names of modules. They come from files, so they are matched by RE2, whose
// time is linear in the name and whose memory is bounded. Not for text.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace re2 {
class RE2;
}

namespace qalof {

/// True where name equals last or ends in "." + last.
bool ends_in_name(std::string_view name, std::string_view last);

/// A compiled pattern. Immutable: threads may share it.
class NamePattern {
 public:
  static constexpr std::size_t kMaxBytes = std::size_t{64} << 10;

  /// where names the source in messages. {kBadInput} for an invalid regular expression;
  /// {kUnsupported} for what RE2 lacks (look-around, back references, ...), what it reads unlike
  /// Python ({,n}, [:x:]), and patterns too long or too large once their counts are expanded.
  NamePattern(std::string_view pattern, std::string_view where);
  NamePattern(NamePattern&& other) noexcept;
  NamePattern& operator=(NamePattern&& other) noexcept;
  ~NamePattern();

  /// True where the whole name matches.
  bool matches(std::string_view name) const;
  /// True where a prefix of the name matches. *group, where given, receives the text matched by
  /// (?P<GROUP_NAME>...), "" where that group took no part in the match.
  bool matches_start(std::string_view name) const;
  bool matches_start(std::string_view name, const std::string& group_name,
                     std::string* group) const;
  /// Instructions of the compiled pattern: the worst-case cost of matching one byte.
  std::size_t size() const;

 private:
  std::unique_ptr<const re2::RE2> pattern_;
};

}  // namespace qalof
