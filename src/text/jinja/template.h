// A strict, bounded part of the template language Jinja, as Hugging Face's chat templates use it:
// https://jinja.palletsprojects.com/en/stable/templates, with trim_blocks and lstrip_blocks set,
// automatic escaping off, and transformers' additions ({% generation %}, raise_exception,
// strftime_now, tojson without escapes for HTML, break and continue).
//
// Templates read nothing but their variables, and change nothing but namespaces of their own. Work,
// text and nesting are bounded. What the engine lacks is refused by name and line: blocks other
// than if, for, set, macro and generation, filters and tests that no list has, methods that change
// a value, formatting by % and format().
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace qalof::text::jinja {

/// A day and time that strftime_now writes; without one, strftime_now is not defined.
struct Moment {
  int year = 1970, month = 1, day = 1;  // month and day from 1
  int hour = 0, minute = 0, second = 0;
};

/// Immutable: threads may share it.
class Template {
 public:
  /// where names the source in messages. Error{kBadInput}, {kUnsupported}: see syntax.h.
  static Template parse(std::string_view source, const std::string& where);

  /// Runs the template. generated_mark is added to the marks of text inside {% generation %}.
  /// Error{kBadInput} where the template raises an exception or treats values in a way they do not
  /// allow, as Jinja would, and where it needs too much work; {kUnsupported} as above.
  Text render(const std::map<std::string, Value, std::less<>>& variables, std::optional<Moment> now,
              unsigned char generated_mark) const;

  /// True where the template has {% generation %}.
  bool marks_generation() const;

 private:
  struct Tree;
  explicit Template(std::shared_ptr<const Tree> tree) : tree_(std::move(tree)) {}
  std::shared_ptr<const Tree> tree_;
};

}  // namespace qalof::text::jinja
