// Compiles patterns with RE2, after refusing what Python's re would read differently.
#include "core/name_pattern.h"

#include <re2/re2.h>

#include <map>
#include <vector>

#include "core/error.h"

namespace qalof {

namespace {

// Enough for the compiled form of a pattern of kMaxBytes literal bytes and the matcher's cache.
constexpr std::int64_t kMaxMemory = std::int64_t{8} << 20;

[[noreturn]] void refuse(ErrorKind kind, std::string_view where, std::string_view pattern,
                         std::string_view what) {
  fail(kind, "{}: pattern \"{:.80}\" {}", where, pattern, what);
}

// Names the first feature of pattern that RE2 lacks or reads unlike Python's re, as a phrase; ""
// where there is none. Every other error is left to RE2.
std::string foreign_feature(std::string_view pattern) {
  bool in_class = false;
  std::size_t class_begin = 0;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const std::string_view rest = pattern.substr(i);
    if (rest.front() == '\\') {
      if (!in_class && rest.size() > 1 && rest[1] >= '1' && rest[1] <= '9')
        return fmt::format("uses a back reference, \\{}", rest[1]);
      ++i;
    } else if (in_class) {
      if (rest.starts_with("[:")) return "uses a named class, [:";
      in_class = rest.front() != ']' || i == class_begin;
    } else if (rest.front() == '[') {
      in_class = true;
      class_begin = i + (rest.substr(1).starts_with('^') ? 2 : 1);
      if (class_begin > i + 1) ++i;
    } else if (rest.starts_with("(?=") || rest.starts_with("(?!") || rest.starts_with("(?<=") ||
               rest.starts_with("(?<!")) {
      return fmt::format("uses look-around, {}", rest.substr(0, rest[2] == '<' ? 4 : 3));
    } else if (rest.starts_with("(?P=") || rest.starts_with("(?(")) {
      return fmt::format("uses a back reference, {}", rest.substr(0, rest[2] == 'P' ? 4 : 3));
    } else if (rest.starts_with("(?>") || rest.starts_with("(?#")) {
      return fmt::format("uses a group that is not implemented, {}", rest.substr(0, 3));
    } else if (rest.starts_with("{,")) {
      const std::size_t end = rest.find_first_not_of("0123456789", 2);
      if (end != std::string_view::npos && rest[end] == '}')
        return fmt::format("uses {:.40}, which is to be written {{0{:.40}", rest.substr(0, end + 1),
                           rest.substr(1, end));
    }
  }
  return {};
}

// RE2 refuses some escapes, flags and counts that Python accepts.
bool may_be_valid_elsewhere(re2::RE2::ErrorCode code) {
  using re2::RE2;
  return code == RE2::ErrorBadEscape || code == RE2::ErrorBadPerlOp ||
         code == RE2::ErrorRepeatSize || code == RE2::ErrorRepeatOp ||
         code == RE2::ErrorPatternTooLarge;
}

re2::StringPiece piece(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

bool ends_in_name(std::string_view name, std::string_view last) {
  return name.ends_with(last) &&
         (name.size() == last.size() || name[name.size() - last.size() - 1] == '.');
}

NamePattern::NamePattern(std::string_view pattern, std::string_view where) {
  QALOF_CHECK(!pattern.empty(), ErrorKind::kBadInput, "{}: a pattern of 0 bytes", where);
  QALOF_CHECK(pattern.size() <= kMaxBytes, ErrorKind::kUnsupported,
              "{}: a pattern of {} bytes, at most {} are read", where, pattern.size(), kMaxBytes);
  const std::string foreign = foreign_feature(pattern);
  if (!foreign.empty())
    refuse(ErrorKind::kUnsupported, where, pattern, foreign + " (patterns are those of RE2)");
  re2::RE2::Options options;
  options.set_log_errors(false);
  options.set_max_mem(kMaxMemory);
  pattern_ = std::make_unique<const re2::RE2>(piece(pattern), options);
  if (pattern_->ok()) return;
  const bool is_foreign = may_be_valid_elsewhere(pattern_->error_code());
  refuse(is_foreign ? ErrorKind::kUnsupported : ErrorKind::kBadInput, where, pattern,
         fmt::format("is {} RE2: {:.120}",
                     is_foreign ? "more than is implemented by" : "not a regular expression of",
                     pattern_->error()));
}

NamePattern::NamePattern(NamePattern&& other) noexcept = default;
NamePattern& NamePattern::operator=(NamePattern&& other) noexcept = default;
NamePattern::~NamePattern() = default;

bool NamePattern::matches(std::string_view name) const {
  return pattern_->Match(piece(name), 0, name.size(), re2::RE2::ANCHOR_BOTH, nullptr, 0);
}

bool NamePattern::matches_start(std::string_view name) const {
  return pattern_->Match(piece(name), 0, name.size(), re2::RE2::ANCHOR_START, nullptr, 0);
}

bool NamePattern::matches_start(std::string_view name, const std::string& group_name,
                                std::string* group) const {
  const int number = pattern_->NamedCapturingGroups().at(group_name);
  std::vector<re2::StringPiece> groups(static_cast<std::size_t>(number) + 1);
  if (!pattern_->Match(piece(name), 0, name.size(), re2::RE2::ANCHOR_START, groups.data(),
                       number + 1))
    return false;
  *group = std::string(groups.back().data(), groups.back().size());
  return true;
}

std::size_t NamePattern::size() const { return static_cast<std::size_t>(pattern_->ProgramSize()); }

}  // namespace qalof
