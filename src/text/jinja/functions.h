// Filters, tests and methods of templates, each with Jinja's or Python's meaning. Part of the
// engine that text/jinja/template.h describes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace qalof::text::jinja {

/// No text of a run may be longer.
inline constexpr std::size_t kMaxTextBytes = std::size_t{64} << 20;

/// Counts the work of a run, so that no template takes for ever.
class Budget {
 public:
  /// bytes: what the run is given to read.
  explicit Budget(std::size_t bytes) : left_(kSteps + 16 * bytes) {}
  /// Error{kBadInput}, a fragment, where none is left.
  void spend(std::size_t steps);
  /// For text of so many bytes; also refuses what is longer than a rendered template may be.
  void spend_bytes(std::size_t bytes);

 private:
  static constexpr std::size_t kSteps = 2'000'000;
  std::size_t left_;
};

struct Arguments {
  std::vector<Value> values;
  std::vector<std::pair<std::string, Value>> keywords;
};

/// Values by the names of parameters, as Python binds them; undefined where an argument is missing.
/// Error{kBadInput}, a fragment, where they do not fit.
std::vector<Value> bind_arguments(const Arguments& arguments,
                                  const std::vector<std::string_view>& parameters,
                                  std::size_t required, std::string_view function);

bool is_filter(std::string_view name);
bool is_test(std::string_view name);
/// Errors of all three are fragments without place; {kUnsupported} for a method that is not known.
Value apply_filter(std::string_view name, const Value& subject, const Arguments& arguments,
                   Budget* budget);
bool apply_test(std::string_view name, const Value& subject, const Arguments& arguments,
                Budget* budget);
Value call_method(const Value& object, std::string_view name, const Arguments& arguments,
                  Budget* budget);
/// True where values of the object's kind have a method of the name, implemented or not.
bool has_method(const Value& object, std::string_view name);

/// What a for loop or a filter reads: items of a sequence, keys, characters; nothing of an
/// undefined value. Error{kBadInput} for others.
std::vector<Value> get_items(const Value& value, Budget* budget);
/// Python's object[key] under the rules of templates: undefined where there is none.
Value get_item(const Value& object, const Value& key);
/// Python's object[first:last:step]; undefined parts are left out.
Value get_slice(const Value& object, const Value& first, const Value& last, const Value& step);
bool contains(const Value& container, const Value& item);
/// Python's text without white space at its ends, or without the characters of others.
Text stripped(const Text& text, const std::string* others, bool left, bool right);

}  // namespace qalof::text::jinja
