// Lists of options: declaration, lookup, and their values as JSON. See options.h.
#include "core/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace qalof {

namespace {

// Factors of losses and weights: their squares and products are far from what a double holds.
constexpr double kMostNumber = 1e30;

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

// As it is written: 0.1 of a 32-bit float stays 0.1.
Json value_of(Option::Kind kind, const std::string& text) {
  if (kind != Option::Kind::kNumber) return Json(text);
  if (Json number = Json::parse(text, nullptr, /*allow_exceptions=*/false); number.is_number())
    return number;
  double number = 0;
  return read_value(text, number).empty() ? Json(number) : Json(text);
}

}  // namespace

std::string alternatives(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i)
    text += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
  return text;
}

Option* Option::required() {
  is_required_ = true;
  return this;
}

Option* Option::delimiter(char separator) {
  separator_ = separator;
  return this;
}

Option* Option::one_of(std::vector<std::string> values) {
  choices_ = std::move(values);
  return this;
}

Option* Option::within(std::int64_t low, std::int64_t high) {
  range_ = [low, high](double value) {
    const bool fits = static_cast<double>(low) <= value && value <= static_cast<double>(high);
    return fits ? "" : fmt::format("{}..{}", low, high);
  };
  return this;
}

Option* Option::at_least(double low) {
  range_ = [low](double value) -> std::string {
    if (!(std::isfinite(value) && value >= low))
      return fmt::format("a finite number of at least {}", low);
    return value <= kMostNumber ? "" : fmt::format("at most {}", kMostNumber);
  };
  return this;
}

Option* Option::positive() {
  at_least(0);
  range_ = [is_number = range_](double value) {
    return value == 0 ? "a positive number" : is_number(value);
  };
  return this;
}

void Option::check() const {
  if (!range_ || !number_) return;
  const double value = number_();
  const std::string expected = range_(value);
  QALOF_CHECK(expected.empty(), ErrorKind::kUsage, "{}: found {}, expected {}", name(), value,
              expected);
}

Option* Option::incidental() {
  is_incidental_ = true;
  return this;
}

Option* Option::later() {
  is_later_ = true;
  return this;
}

std::string Option::store() {
  if (separator_ != '\0') {
    std::vector<std::string> parts;
    for (const std::string& value : values_) {
      for (std::string& part : split(value, separator_)) parts.push_back(std::move(part));
    }
    values_ = std::move(parts);
  }
  for (const std::string& value : values_) {
    if (!choices_.empty() && std::find(choices_.begin(), choices_.end(), value) == choices_.end())
      return fmt::format("found {}, expected {}", value, alternatives(choices_));
  }
  return store_(values_);
}

Json Option::value() const {
  if (kind_ == Kind::kSwitch) {
    bool is_set = false;
    if (count() > 0) read_values(values_, is_set);
    return is_set;
  }
  if (!is_list_) return value_of(kind_, count() > 0 ? values_.back() : default_);
  if (count() == 0) return default_;
  Json items = Json::array();
  for (const std::string& item : values_) items.push_back(value_of(kind_, item));
  return items;
}

std::string OptionList::list_text(const std::vector<std::string>& items) {
  return fmt::format("[{}]", fmt::join(items, ","));
}

Option& OptionList::declare(const std::string& names, const std::string& help) {
  Option& added = options_.emplace_back();
  added.names_ = split(names, ',');
  added.help_ = help;
  added.group_ = group_;
  return added;
}

Option* OptionList::custom(const std::string& names, Option::Kind kind, std::string default_text,
                           const std::string& help, Store store) {
  Option& added = declare(names, help);
  added.kind_ = kind;
  added.default_ = std::move(default_text);
  added.store_ = std::move(store);
  return &added;
}

Option* OptionList::flag(const std::string& names, bool& value, const std::string& help) {
  Option& added = declare(names, help);
  added.kind_ = Option::Kind::kSwitch;
  added.store_ = [&value](const std::vector<std::string>& texts) {
    return read_values(texts, value);
  };
  return &added;
}

Option* OptionList::positional(const std::string& name, std::string& value,
                               const std::string& help) {
  return option(name, value, help)->required();
}

const Option* OptionList::find(const std::string& name) const {
  const auto found = std::find_if(options_.begin(), options_.end(), [&](const Option& option) {
    const std::vector<std::string>& names = option.names_;
    return std::find(names.begin(), names.end(), name) != names.end();
  });
  return found == options_.end() ? nullptr : &*found;
}

Option* OptionList::find(const std::string& name) {
  return const_cast<Option*>(std::as_const(*this).find(name));
}

void OptionList::check() const {
  for (const Option& option : options_) option.check();
}

bool OptionList::given(const std::string& name) const { return find(name)->count() > 0; }

Json OptionList::values() const {
  Json values = Json::object();
  for (const Option& option : options_) {
    if (!option.is_positional()) values[option.name()] = option.value();
  }
  return values;
}

Json OptionList::identity() const {
  Json values = Json::object();
  for (const Option& option : options_) {
    if (option.is_positional() || option.is_incidental()) continue;
    if (option.is_later() && option.values().empty()) continue;
    values[option.name()] = option.value();
  }
  return values;
}

}  // namespace qalof
