// Filters and tests of templates, and the budget of a run.
#include "text/jinja/functions.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>
#include <optional>

#include "core/error.h"
#include "text/unicode.h"

namespace qalof::text::jinja {

namespace functions_file {

template <typename... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  fail(ErrorKind::kBadInput, format, std::forward<Args>(args)...);
}

using Bound = std::vector<Value>;
struct Filter {
  std::string_view name;
  std::vector<std::string_view> parameters;
  std::size_t required;
  Value (*apply)(const Value& subject, const Bound& bound, Budget* budget);
};

Value call(const Value& object, std::string_view method, std::vector<Value> values,
           Budget* budget) {
  return call_method(object, method, {std::move(values), {}}, budget);
}

Value text_of(const Value& value) { return to_text(value); }

Value length_of(const Value& value, const Bound&, Budget*) {
  const auto size = [](std::size_t count) { return static_cast<std::int64_t>(count); };
  if (value.is_undefined()) return std::int64_t{0};
  if (value.text() != nullptr) return size(count_code_points(value.text()->bytes));
  if (value.dict() != nullptr) return size(value.dict()->items.size());
  if (value.loop() != nullptr) return size(value.loop()->list->items.size());
  if (value.list() != nullptr && value.list()->kind != ListKind::kGenerator)
    return size(value.list()->items.size());
  refuse("length: {} has no length", value.kind());
}

// The attribute of a value that a filter names: "a.b.0", or a whole number.
Value attribute_of(Value value, const Value& attribute) {
  if (attribute.is_integer()) return get_item(value, attribute);
  if (attribute.text() == nullptr)
    refuse("found {}, expected the name of an attribute", attribute.kind());
  const std::string& path = attribute.text()->bytes;
  for (std::size_t start = 0; start <= path.size();) {
    const std::size_t end = std::min(path.find('.', start), path.size());
    const std::string part = path.substr(start, end - start);
    const bool is_number = !part.empty() && std::all_of(part.begin(), part.end(), [](char c) {
      return c >= '0' && c <= '9';
    });
    if (is_number && part.size() > 9) refuse("the index {} is too large", part);
    value =
        get_item(value, is_number ? Value(std::int64_t{std::stoi(part)}) : Value::of_text(part));
    start = end + 1;
  }
  return value;
}

Value change_case(const Value& value, std::string_view method, Budget* budget) {
  return call(text_of(value), method, {}, budget);
}

// Words begin after white space, hyphens and opening brackets.
Value title(const Value& value, const Bound&, Budget*) {
  Text text = to_text(value);
  bool starts = true;
  for (char& c : text.bytes) {
    if (static_cast<unsigned char>(c) >= 0x80)
      fail(ErrorKind::kUnsupported, "title of letters beyond ASCII is not implemented");
    const bool divides = c == '-' || c == ' ' || (c >= '\t' && c <= '\r') || c == '(' || c == '{' ||
                         c == '[' || c == '<';
    if (starts && c >= 'a' && c <= 'z')
      c = static_cast<char>(c - 'a' + 'A');
    else if (!starts && c >= 'A' && c <= 'Z')
      c = static_cast<char>(c - 'A' + 'a');
    starts = divides;
  }
  return text;
}

Value trim(const Value& value, const Bound& bound, Budget* budget) {
  const Text text = to_text(value);
  budget->spend_bytes(text.bytes.size());
  if (bound[0].is_undefined() || bound[0].is_none()) return stripped(text, nullptr, true, true);
  if (bound[0].text() == nullptr) refuse("trim: found {}, expected a string", bound[0].kind());
  return stripped(text, &bound[0].text()->bytes, true, true);
}

Value default_of(const Value& value, const Bound& bound, Budget*) {
  if (value.is_undefined() || (bound[1].truth() && !value.truth()))
    return bound[0].is_undefined() ? Value::of_text("") : bound[0];
  return value;
}

Value join(const Value& value, const Bound& bound, Budget* budget) {
  const Text separator = to_text(bound[0]);
  Text result;
  bool first = true;
  for (Value item : get_items(value, budget)) {
    if (!bound[1].is_undefined()) item = attribute_of(item, bound[1]);
    if (!first) result.append(separator);
    first = false;
    budget->spend(item.weight());
    result.append(to_text(item));
    if (result.bytes.size() > kMaxTextBytes) budget->spend_bytes(result.bytes.size());
  }
  budget->spend_bytes(result.bytes.size());
  return result;
}

Value first(const Value& value, const Bound&, Budget* budget) {
  const std::vector<Value> items = get_items(value, budget);
  return items.empty() ? Value() : items.front();
}
Value last(const Value& value, const Bound&, Budget* budget) {
  if (value.list() != nullptr && value.list()->kind == ListKind::kGenerator)
    refuse("last: the result of a lazy filter cannot be reversed");
  const std::vector<Value> items = get_items(value, budget);
  return items.empty() ? Value() : items.back();
}

Value list(const Value& value, const Bound&, Budget* budget) {
  return make_list(get_items(value, budget));
}

Value reverse(const Value& value, const Bound&, Budget* budget) {
  std::vector<Value> items = get_items(value, budget);
  std::reverse(items.begin(), items.end());
  if (value.text() == nullptr) return make_list(std::move(items), ListKind::kGenerator);
  Text result;
  for (const Value& item : items) result.append(*item.text());
  return result;
}

Value items(const Value& value, const Bound&, Budget* budget) {
  if (value.is_undefined()) return make_list({}, ListKind::kGenerator);
  if (value.dict() == nullptr) refuse("items: found {}, expected a dictionary", value.kind());
  const Value view = call(value, "items", {}, budget);
  return make_list(view.list()->items, ListKind::kGenerator);
}

Value lowered(const Value& value, const Value& case_sensitive, Budget* budget) {
  if (case_sensitive.truth() || value.text() == nullptr) return value;
  return change_case(value, "lower", budget);
}

Value sort(const Value& value, const Bound& bound, Budget* budget) {
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : get_items(value, budget)) {
    const Value key =
        bound[2].is_undefined() || bound[2].is_none() ? item : attribute_of(item, bound[2]);
    keyed.emplace_back(lowered(key, bound[1], budget), item);
  }
  budget->spend(16 * value.weight());
  const bool down = bound[0].truth();
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return down ? less(b.first, a.first) : less(a.first, b.first);
  });
  std::vector<Value> sorted;
  sorted.reserve(keyed.size());
  for (auto& [key, item] : keyed) sorted.push_back(std::move(item));
  return make_list(std::move(sorted));
}

Value unique(const Value& value, const Bound& bound, Budget* budget) {
  std::vector<Value> seen, kept;
  for (const Value& item : get_items(value, budget)) {
    const Value key =
        lowered(bound[1].is_undefined() ? item : attribute_of(item, bound[1]), bound[0], budget);
    budget->spend(seen.size() + key.weight());
    if (std::any_of(seen.begin(), seen.end(), [&](const Value& own) { return equal(own, key); }))
      continue;
    seen.push_back(key);
    kept.push_back(item);
  }
  return make_list(std::move(kept), ListKind::kGenerator);
}

Value dictsort(const Value& value, const Bound& bound, Budget* budget) {
  if (value.dict() == nullptr) refuse("dictsort: found {}, expected a dictionary", value.kind());
  std::string by = "key";
  if (bound[1].text() != nullptr) by = bound[1].text()->bytes;
  if (by != "key" && by != "value") refuse("dictsort: found by={}, expected key or value", by);
  const Value pairs = call(value, "items", {}, budget);
  return sort(pairs, {bound[2], bound[0], std::int64_t{by == "key" ? 0 : 1}}, budget);
}

Value extreme(const Value& value, const Bound& bound, Budget* budget, bool highest) {
  Value best, best_key;
  bool found = false;
  for (const Value& item : get_items(value, budget)) {
    const Value key =
        lowered(bound[1].is_undefined() ? item : attribute_of(item, bound[1]), bound[0], budget);
    if (found && !(highest ? less(best_key, key) : less(key, best_key))) continue;
    found = true;
    best = item;
    best_key = key;
  }
  return best;
}
Value min_of(const Value& value, const Bound& bound, Budget* budget) {
  return extreme(value, bound, budget, false);
}
Value max_of(const Value& value, const Bound& bound, Budget* budget) {
  return extreme(value, bound, budget, true);
}

Value sum(const Value& value, const Bound& bound, Budget* budget) {
  Value total = bound[1].is_undefined() ? Value(std::int64_t{0}) : bound[1];
  for (Value item : get_items(value, budget)) {
    if (!bound[0].is_undefined()) item = attribute_of(item, bound[0]);
    if (!item.is_number() || !total.is_number())
      refuse("sum: found {}, expected numbers", item.kind());
    if (item.is_float() || total.is_float()) {
      total = total.number() + item.number();
      continue;
    }
    std::int64_t sum = 0;
    if (__builtin_add_overflow(total.integer(), item.integer(), &sum))
      refuse("sum: the sum does not fit 64 bits");
    total = sum;
  }
  return total;
}

Value absolute(const Value& value, const Bound&, Budget*) {
  if (!value.is_number()) refuse("abs: found {}, expected a number", value.kind());
  if (value.is_float()) return std::abs(value.number());
  if (value.integer() == INT64_MIN) refuse("abs: the value does not fit 64 bits");
  return std::int64_t{std::abs(value.integer())};
}

template <typename Number>
std::optional<Number> parse_number(const Value& value) {
  const Text trimmed = stripped(*value.text(), nullptr, true, true);
  Number number{};
  const char* end = trimmed.bytes.data() + trimmed.bytes.size();
  const auto read = std::from_chars(trimmed.bytes.data(), end, number);
  if (read.ec != std::errc{} || read.ptr != end) return std::nullopt;
  return number;
}

Value int_of(const Value& value, const Bound& bound, Budget*) {
  if (!bound[1].is_undefined()) fail(ErrorKind::kUnsupported, "int with a base is not implemented");
  Value otherwise = bound[0].is_undefined() ? Value(std::int64_t{0}) : bound[0];
  if (value.is_integer() || value.is_bool()) return value.integer();
  double number = 0;
  if (value.text() != nullptr) {
    if (const auto whole = parse_number<std::int64_t>(value)) return *whole;
    const auto parsed = parse_number<double>(value);
    if (!parsed) return otherwise;
    number = *parsed;
  } else if (value.is_float()) {
    number = value.number();
  } else {
    return otherwise;
  }
  if (!(std::abs(number) < 9e18)) return otherwise;
  return static_cast<std::int64_t>(number);
}

Value float_of(const Value& value, const Bound& bound, Budget*) {
  Value otherwise = bound[0].is_undefined() ? Value(0.0) : bound[0];
  if (value.is_number()) return value.number();
  if (value.text() == nullptr) return otherwise;
  const auto parsed = parse_number<double>(value);
  return parsed && std::isfinite(*parsed) ? Value(*parsed) : otherwise;
}

Value string(const Value& value, const Bound&, Budget*) { return text_of(value); }
Value lower(const Value& value, const Bound&, Budget* budget) {
  return change_case(value, "lower", budget);
}
Value upper(const Value& value, const Bound&, Budget* budget) {
  return change_case(value, "upper", budget);
}
Value capitalize(const Value& value, const Bound&, Budget* budget) {
  return change_case(value, "capitalize", budget);
}
Value safe(const Value& value, const Bound&, Budget*) { return text_of(value); }

Value replace(const Value& value, const Bound& bound, Budget* budget) {
  std::vector<Value> values = {text_of(bound[0]), text_of(bound[1])};
  if (!bound[2].is_undefined() && !bound[2].is_none()) values.push_back(bound[2]);
  return call(text_of(value), "replace", std::move(values), budget);
}

Value attribute(const Value& value, const Bound& bound, Budget*) {
  if (value.is_undefined()) return {};
  return attribute_of(value, bound[0]);
}

Value indent(const Value& value, const Bound& bound, Budget* budget) {
  Text indentation;
  if (bound[0].text() != nullptr) {
    indentation = *bound[0].text();
  } else {
    if (!bound[0].is_undefined() && !bound[0].is_integer())
      refuse("indent: found {}, expected a width", bound[0].kind());
    const std::int64_t width = bound[0].is_undefined() ? 4 : bound[0].integer();
    if (width < 0 || width > 1000) refuse("indent: found width {}, expected 0 to 1000", width);
    indentation = Text(std::string(static_cast<std::size_t>(width), ' '));
  }
  Text text = to_text(value);
  text.append(Text("\n"));  // so that an empty text has a line
  const Value lines = call(text, "splitlines", {}, budget);
  Text result;
  bool is_first = true;
  for (const Value& line : lines.list()->items) {
    if (!is_first) result.append(Text("\n"));
    const bool indented =
        is_first ? bound[1].truth() : (bound[2].truth() || !line.text()->bytes.empty());
    if (indented) result.append(indentation);
    result.append(*line.text());
    is_first = false;
    if (result.bytes.size() > kMaxTextBytes) budget->spend_bytes(result.bytes.size());
  }
  return result;
}

Value to_json(const Value& value, const Bound& bound, Budget* budget) {
  JsonStyle style;
  style.ascii = bound[0].truth();
  if (!bound[1].is_undefined() && !bound[1].is_none()) {
    if (!bound[1].is_integer() || bound[1].integer() < 0 || bound[1].integer() > 64)
      refuse("tojson: found an indent of {}, expected a number from 0 to 64", bound[1].kind());
    style.indent = static_cast<int>(bound[1].integer());
    style.item_separator = ",";
  }
  if (const List* pair = bound[2].list(); pair != nullptr) {
    if (pair->items.size() != 2 || pair->items[0].text() == nullptr ||
        pair->items[1].text() == nullptr)
      refuse("tojson: expected two strings as separators");
    style.item_separator = pair->items[0].text()->bytes;
    style.key_separator = pair->items[1].text()->bytes;
  }
  style.sort_keys = bound[3].truth();
  budget->spend(value.weight() * 8);
  Text text = to_json_text(value, style);
  budget->spend_bytes(text.bytes.size());
  return text;
}

const std::vector<Filter>& filters() {
  static const std::vector<Filter> all = {
      {"abs", {}, 0, absolute},
      {"attr", {"name"}, 1, attribute},
      {"capitalize", {}, 0, capitalize},
      {"count", {}, 0, length_of},
      {"d", {"default_value", "boolean"}, 0, default_of},
      {"default", {"default_value", "boolean"}, 0, default_of},
      {"dictsort", {"case_sensitive", "by", "reverse"}, 0, dictsort},
      {"first", {}, 0, first},
      {"float", {"default"}, 0, float_of},
      {"indent", {"width", "first", "blank"}, 0, indent},
      {"int", {"default", "base"}, 0, int_of},
      {"items", {}, 0, items},
      {"join", {"d", "attribute"}, 0, join},
      {"last", {}, 0, last},
      {"length", {}, 0, length_of},
      {"list", {}, 0, list},
      {"lower", {}, 0, lower},
      {"max", {"case_sensitive", "attribute"}, 0, max_of},
      {"min", {"case_sensitive", "attribute"}, 0, min_of},
      {"replace", {"old", "new", "count"}, 2, replace},
      {"reverse", {}, 0, reverse},
      {"safe", {}, 0, safe},
      {"sort", {"reverse", "case_sensitive", "attribute"}, 0, sort},
      {"string", {}, 0, string},
      {"sum", {"attribute", "start"}, 0, sum},
      {"title", {}, 0, title},
      {"tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}, 0, to_json},
      {"trim", {"chars"}, 0, trim},
      {"unique", {"case_sensitive", "attribute"}, 0, unique},
      {"upper", {}, 0, upper}};
  return all;
}

const Filter* find_filter(std::string_view name) {
  const auto found = std::find_if(filters().begin(), filters().end(),
                                  [&](const Filter& filter) { return filter.name == name; });
  return found == filters().end() ? nullptr : &*found;
}

// map, select, reject, selectattr and rejectattr, which take a filter or test by name.
constexpr std::array<std::string_view, 5> kLazy = {"map", "select", "reject", "selectattr",
                                                   "rejectattr"};
bool is_lazy(std::string_view name) {
  return std::find(kLazy.begin(), kLazy.end(), name) != kLazy.end();
}

// The name of a filter or test among arguments, and the arguments after it.
std::pair<std::string, Arguments> named_function(const Arguments& arguments, std::size_t place,
                                                 std::string_view filter) {
  if (arguments.values.size() <= place || arguments.values[place].text() == nullptr)
    refuse("{}: expected the name of a filter or test", filter);
  Arguments rest;
  rest.values.assign(arguments.values.begin() + static_cast<std::ptrdiff_t>(place) + 1,
                     arguments.values.end());
  rest.keywords = arguments.keywords;
  return {arguments.values[place].text()->bytes, std::move(rest)};
}

Value map_items(const Value& subject, const Arguments& arguments, Budget* budget) {
  std::vector<Value> results;
  if (arguments.values.empty()) {
    const std::vector<Value> bound = bind_arguments(arguments, {"attribute", "default"}, 1, "map");
    for (const Value& item : get_items(subject, budget)) {
      const Value value = attribute_of(item, bound[0]);
      results.push_back(value.is_undefined() ? bound[1] : value);
    }
  } else {
    const auto [name, rest] = named_function(arguments, 0, "map");
    if (!is_filter(name)) fail(ErrorKind::kUnsupported, "the filter {} is not implemented", name);
    for (const Value& item : get_items(subject, budget))
      results.push_back(apply_filter(name, item, rest, budget));
  }
  return make_list(std::move(results), ListKind::kGenerator);
}

Value choose_items(std::string_view filter, const Value& subject, const Arguments& arguments,
                   Budget* budget) {
  const bool by_attribute = filter.ends_with("attr"), keeps = filter.starts_with("select");
  if (by_attribute && arguments.values.empty())
    refuse("{}: expected the name of an attribute", filter);
  const std::size_t place = by_attribute ? 1 : 0;
  std::string test;
  Arguments rest;
  if (arguments.values.size() > place) {
    std::tie(test, rest) = named_function(arguments, place, filter);
    if (!is_test(test)) fail(ErrorKind::kUnsupported, "the test {} is not implemented", test);
  }
  std::vector<Value> kept;
  for (const Value& item : get_items(subject, budget)) {
    const Value value = by_attribute ? attribute_of(item, arguments.values[0]) : item;
    if ((test.empty() ? value.truth() : apply_test(test, value, rest, budget)) == keeps)
      kept.push_back(item);
  }
  return make_list(std::move(kept), ListKind::kGenerator);
}

// --- tests ---

struct Test {
  std::string_view name;
  std::size_t arguments;
  bool (*apply)(const Value& subject, const Value& other);
};

bool has_letters_of_case(const Value& value, bool upper) {
  const Text text = to_text(value);
  bool found = false;
  for (const char c : text.bytes) {
    if (static_cast<unsigned char>(c) >= 0x80)
      fail(ErrorKind::kUnsupported, "the case of letters beyond ASCII is not implemented");
    const bool is_lower = c >= 'a' && c <= 'z', is_upper = c >= 'A' && c <= 'Z';
    if (upper ? is_lower : is_upper) return false;
    found = found || is_lower || is_upper;
  }
  return found;
}

std::int64_t remainder_of(const Value& value, const Value& divisor) {
  if (value.is_float() || divisor.is_float() || !value.is_number() || !divisor.is_number())
    refuse("found {}, expected a whole number", value.kind());
  if (divisor.integer() == 0) refuse("a number is divided by 0");
  if (divisor.integer() == -1) return 0;
  return value.integer() % divisor.integer();
}

bool is_sequence(const Value& value) {
  if (value.list() != nullptr)
    return value.list()->kind != ListKind::kGenerator && value.list()->kind != ListKind::kView;
  return value.text() != nullptr || value.dict() != nullptr || value.is_undefined();
}

const std::vector<Test>& tests() {
  using V = const Value&;
  static const auto same = [](V a, V b) {
    if (a.is_number() && b.is_number() &&
        (a.is_bool() != b.is_bool() || a.is_float() != b.is_float()))
      return false;
    return equal(a, b);
  };
  static const std::vector<Test> all = {
      {"!=", 1, [](V a, V b) { return !equal(a, b); }},
      {"<", 1, [](V a, V b) { return less(a, b); }},
      {"<=", 1, [](V a, V b) { return equal(a, b) || less(a, b); }},
      {"==", 1, equal},
      {">", 1, [](V a, V b) { return less(b, a); }},
      {">=", 1, [](V a, V b) { return equal(a, b) || less(b, a); }},
      {"boolean", 0, [](V a, V) { return a.is_bool(); }},
      {"callable", 0, [](V a, V) { return a.is_callable(); }},
      {"defined", 0, [](V a, V) { return !a.is_undefined(); }},
      {"divisibleby", 1, [](V a, V b) { return remainder_of(a, b) == 0; }},
      {"eq", 1, equal},
      {"equalto", 1, equal},
      {"even", 0, [](V a, V) { return remainder_of(a, std::int64_t{2}) == 0; }},
      {"false", 0, [](V a, V) { return a.is_bool() && !a.truth(); }},
      {"float", 0, [](V a, V) { return a.is_float(); }},
      {"ge", 1, [](V a, V b) { return equal(a, b) || less(b, a); }},
      {"greaterthan", 1, [](V a, V b) { return less(b, a); }},
      {"gt", 1, [](V a, V b) { return less(b, a); }},
      {"in", 1, [](V a, V b) { return contains(b, a); }},
      {"integer", 0, [](V a, V) { return a.is_integer(); }},
      {"iterable", 0,
       [](V a, V) {
         return a.list() != nullptr || a.text() != nullptr || a.dict() != nullptr ||
                a.is_undefined();
       }},
      {"le", 1, [](V a, V b) { return equal(a, b) || less(a, b); }},
      {"lessthan", 1, [](V a, V b) { return less(a, b); }},
      {"lower", 0, [](V a, V) { return has_letters_of_case(a, false); }},
      {"lt", 1, [](V a, V b) { return less(a, b); }},
      {"mapping", 0, [](V a, V) { return a.dict() != nullptr; }},
      {"ne", 1, [](V a, V b) { return !equal(a, b); }},
      {"none", 0, [](V a, V) { return a.is_none(); }},
      {"number", 0, [](V a, V) { return a.is_number(); }},
      {"odd", 0, [](V a, V) { return remainder_of(a, std::int64_t{2}) != 0; }},
      {"sameas", 1, [](V a, V b) { return same(a, b); }},
      {"sequence", 0, [](V a, V) { return is_sequence(a); }},
      {"string", 0, [](V a, V) { return a.text() != nullptr; }},
      {"true", 0, [](V a, V) { return a.is_bool() && a.truth(); }},
      {"undefined", 0, [](V a, V) { return a.is_undefined(); }},
      {"upper", 0, [](V a, V) { return has_letters_of_case(a, true); }}};
  return all;
}

const Test* find_test(std::string_view name) {
  const auto found = std::find_if(tests().begin(), tests().end(),
                                  [&](const Test& test) { return test.name == name; });
  return found == tests().end() ? nullptr : &*found;
}

}  // namespace functions_file

void Budget::spend(std::size_t steps) {
  if (steps > left_) functions_file::refuse("the template does more work than its input allows");
  left_ -= steps;
}

void Budget::spend_bytes(std::size_t bytes) {
  if (bytes > kMaxTextBytes)
    functions_file::refuse("a text is longer than {} bytes", kMaxTextBytes);
  spend(1 + bytes / 16);
}

std::vector<Value> bind_arguments(const Arguments& arguments,
                                  const std::vector<std::string_view>& parameters,
                                  std::size_t required, std::string_view function) {
  if (arguments.values.size() > parameters.size()) {
    functions_file::refuse("{}: found {} arguments, expected at most {}", function,
                           arguments.values.size(), parameters.size());
  }
  std::vector<Value> bound(parameters.size());
  std::vector<bool> given(parameters.size(), false);
  for (std::size_t i = 0; i < arguments.values.size(); ++i) {
    bound[i] = arguments.values[i];
    given[i] = true;
  }
  for (const auto& [name, value] : arguments.keywords) {
    const auto found = std::find(parameters.begin(), parameters.end(), name);
    if (found == parameters.end())
      functions_file::refuse("{}: found the argument {}", function, name);
    const auto place = static_cast<std::size_t>(found - parameters.begin());
    if (given[place]) functions_file::refuse("{}: the argument {} is given twice", function, name);
    bound[place] = value;
    given[place] = true;
  }
  for (std::size_t i = 0; i < required; ++i) {
    if (!given[i]) functions_file::refuse("{}: expected an argument ({})", function, parameters[i]);
  }
  return bound;
}

bool is_filter(std::string_view name) {
  return functions_file::find_filter(name) != nullptr || functions_file::is_lazy(name);
}
bool is_test(std::string_view name) { return functions_file::find_test(name) != nullptr; }

Value apply_filter(std::string_view name, const Value& subject, const Arguments& arguments,
                   Budget* budget) {
  // Those that look at no item of a container.
  static constexpr std::array<std::string_view, 6> kCheap = {"attr",    "count", "d",
                                                             "default", "items", "length"};
  const bool is_cheap = std::find(kCheap.begin(), kCheap.end(), name) != kCheap.end();
  budget->spend(is_cheap ? 1 : subject.weight());
  if (name == "map") return functions_file::map_items(subject, arguments, budget);
  if (functions_file::is_lazy(name))
    return functions_file::choose_items(name, subject, arguments, budget);
  const functions_file::Filter& filter = *functions_file::find_filter(name);
  return filter.apply(subject, bind_arguments(arguments, filter.parameters, filter.required, name),
                      budget);
}

bool apply_test(std::string_view name, const Value& subject, const Arguments& arguments,
                Budget* budget) {
  const functions_file::Test& test = *functions_file::find_test(name);
  if (arguments.values.size() != test.arguments || !arguments.keywords.empty()) {
    functions_file::refuse("the test {}: found {} arguments, expected {}", name,
                           arguments.values.size() + arguments.keywords.size(), test.arguments);
  }
  budget->spend(test.arguments == 0 ? 1 : subject.weight() + arguments.values[0].weight());
  return test.apply(subject, test.arguments == 0 ? Value() : arguments.values[0]);
}

}  // namespace qalof::text::jinja
