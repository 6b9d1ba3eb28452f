// Options of a command, each declared once beside the field it sets: name, default, help, values,
// group, and whether it tells one run from another. The command line, --config files, help, the
// JSON of a run, its identity, shell completion and the reference of options come from such lists.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/flag_values.h"
#include "core/json.h"

namespace qalof {

/// A value of an option that takes one of a few words.
template <typename Value>
struct Named {
  const char* name;
  Value value;
};

/// "a, b or c".
std::string alternatives(const std::vector<std::string>& names);

/// One option as it was declared. Setters return the option itself.
class Option {
 public:
  enum class Kind { kSwitch, kText, kNumber };

  Option* required();
  /// A list: values may also stand in one, with this character between them.
  Option* delimiter(char separator);
  /// No other value is taken.
  Option* one_of(std::vector<std::string> values);
  /// Of a whole number; both ends are allowed.
  Option* within(std::int64_t low, std::int64_t high);
  /// Of a number: finite, and no larger than products of a few may be.
  Option* at_least(double low);
  /// The same without 0.
  Option* positive();
  /// The value changes no result: a run that differs in it alone is the same run.
  Option* incidental();
  /// Not given, it is no part of a run's identity: runs from before it existed are the same run.
  Option* later();

  /// "--precision" of "--precision,--sp_config"; "directory" of a positional.
  const std::string& name() const { return names_.front(); }
  const std::vector<std::string>& names() const { return names_; }
  const std::string& help() const { return help_; }
  const std::string& group() const { return group_; }
  Kind kind() const { return kind_; }
  bool is_list() const { return is_list_; }
  bool is_required() const { return is_required_; }
  bool is_positional() const { return !names_.front().starts_with("--"); }
  bool is_incidental() const { return is_incidental_; }
  bool is_later() const { return is_later_; }
  /// What is taken; empty: anything.
  const std::vector<std::string>& choices() const { return choices_; }
  /// The field's value when it was declared, as text.
  const std::string& default_text() const { return default_; }
  /// Texts that were given.
  const std::vector<std::string>& values() const { return values_; }
  std::size_t count() const { return values_.size(); }
  /// What was given, else the default: numbers as numbers, lists as arrays.
  Json value() const;

  void give(std::string text) { values_.push_back(std::move(text)); }
  void give(std::vector<std::string> texts) { values_ = std::move(texts); }
  /// Error{kUsage} where the field is outside the option's range.
  void check() const;
  /// Sets the field from what was given; says why not ("found ..., expected ..."), or "".
  std::string store();

 private:
  friend class OptionList;
  std::vector<std::string> names_;
  std::string help_, group_, default_;
  Kind kind_ = Kind::kText;
  bool is_list_ = false, is_required_ = false, is_incidental_ = false;
  bool is_later_ = false;
  char separator_ = '\0';
  std::vector<std::string> choices_, values_;
  std::function<double()> number_;            // the field's value; empty for others than numbers
  std::function<std::string(double)> range_;  // what is expected instead of a value, or ""
  std::function<std::string(const std::vector<std::string>&)> store_;
};

/// Options in the order of their declaration. Fields must outlive the list.
class OptionList {
 public:
  using Store = std::function<std::string(const std::vector<std::string>&)>;

  /// The group of the options declared from here on, for help.
  void group(std::string name) { group_ = std::move(name); }

  /// --name VALUE; several spellings separated by commas ("--precision,--sp_config"). A vector
  /// takes several values.
  template <typename T>
  Option* option(const std::string& names, T& value, const std::string& help) {
    constexpr bool kIsList = requires { typename T::allocator_type; }
    &&!std::is_same_v<T, std::string>;
    Option& added = declare(names, help);
    added.store_ = [&value](const std::vector<std::string>& texts) {
      return read_values(texts, value);
    };
    if constexpr (kIsList) {
      added.is_list_ = true;
      if constexpr (std::is_arithmetic_v<typename T::value_type>)
        added.kind_ = Option::Kind::kNumber;
      std::vector<std::string> items;
      items.reserve(value.size());
      for (const auto& item : value) items.push_back(text_of(item));
      added.default_ = list_text(items);
    } else {
      if constexpr (std::is_arithmetic_v<T>) {
        added.kind_ = Option::Kind::kNumber;
        added.number_ = [&value] { return static_cast<double>(value); };
      }
      added.default_ = text_of(value);
    }
    return &added;
  }
  /// A number that may be missing; none is the text that says so, and is the default then.
  template <typename T>
  Option* option(const std::string& names, std::optional<T>& value, const std::string& help,
                 const std::string& none) {
    Option& added = declare(names, help);
    added.kind_ = Option::Kind::kNumber;
    added.default_ = value ? text_of(*value) : none;
    added.store_ = [&value, none](const std::vector<std::string>& texts) -> std::string {
      value.reset();
      if (texts.back() == none) return "";
      T read{};
      std::string reason = read_value(texts.back(), read);
      if (reason.empty()) value = read;
      return reason;
    };
    return &added;
  }
  /// One of a few words.
  template <typename T, std::size_t count>
  Option* choice(const std::string& names, T& value, const Named<T> (&known)[count],
                 const std::string& help) {
    Option& added = declare_choice(names, &value, known, help);
    for (const Named<T>& one : known) {
      if (one.value == value) added.default_ = one.name;
    }
    return &added;
  }
  /// The same, or nothing: then the run chooses.
  template <typename T, std::size_t count>
  Option* choice(const std::string& names, std::optional<T>& value, const Named<T> (&known)[count],
                 const std::string& help) {
    Option& added = declare_choice(names, &value, known, help);
    for (const Named<T>& one : known) {
      if (value && one.value == *value) added.default_ = one.name;
    }
    return &added;
  }
  /// An option of its own kind; store: Option::store's.
  Option* custom(const std::string& names, Option::Kind kind, std::string default_text,
                 const std::string& help, Store store);
  /// --name without a value, or --name=false.
  Option* flag(const std::string& names, bool& value, const std::string& help);
  /// A value without a flag; required.
  Option* positional(const std::string& name, std::string& value, const std::string& help);

  const std::deque<Option>& options() const { return options_; }
  /// Null where there is none; name begins with two hyphens.
  const Option* find(const std::string& name) const;
  /// Error{kUsage} for the first field outside its option's range. For callers without a command
  /// line too: fields are looked at, not what was given.
  void check() const;
  /// True where the option was given.
  bool given(const std::string& name) const;
  /// Every option with its value, given or default; numbers as numbers.
  Json values() const;
  /// Those of values that tell runs apart.
  Json identity() const;

 protected:
  Option* find(const std::string& name);
  std::deque<Option> options_;  // pointers to them stay valid

 private:
  template <typename T>
  static std::string text_of(const T& value) {
    std::ostringstream text;
    text << value;
    return text.str();
  }
  /// "[a,b]"
  static std::string list_text(const std::vector<std::string>& items);
  Option& declare(const std::string& names, const std::string& help);
  template <typename Field, typename T, std::size_t count>
  Option& declare_choice(const std::string& names, Field* value, const Named<T> (&known)[count],
                         const std::string& help) {
    Option& added = declare(names, help);
    for (const Named<T>& one : known) added.choices_.emplace_back(one.name);
    added.store_ = [value, &known](const std::vector<std::string>& texts) -> std::string {
      for (const Named<T>& one : known) {
        if (texts.back() != one.name) continue;
        *value = one.value;
        return "";
      }
      return "-";  // not reached: choices are checked first
    };
    return added;
  }

  std::string group_;
};

}  // namespace qalof
