// Methods of strings, dictionaries and lists, and how values are read, indexed and searched.
#include <algorithm>
#include <array>
#include <functional>
#include <optional>

#include "core/error.h"
#include "text/jinja/functions.h"
#include "text/unicode.h"

namespace qalof::text::jinja {

namespace methods_file {

template <typename... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  fail(ErrorKind::kBadInput, format, std::forward<Args>(args)...);
}

const Text& text_argument(const Value& value, std::string_view method) {
  if (value.text() == nullptr) refuse("{}: found {}, expected a string", method, value.kind());
  return *value.text();
}

std::int64_t integer_argument(const Value& value, std::int64_t otherwise, std::string_view method) {
  if (value.is_undefined()) return otherwise;
  if (!value.is_integer() && !value.is_bool())
    refuse("{}: found {}, expected a whole number", method, value.kind());
  return value.integer();
}

// A list of parts of one text.
Value parts_of(const Text& text, const std::vector<std::pair<std::size_t, std::size_t>>& ranges,
               Budget* budget) {
  std::vector<Value> parts;
  budget->spend(ranges.size());
  parts.reserve(ranges.size());
  for (const auto& [first, last] : ranges) parts.emplace_back(text.slice(first, last - first));
  return make_list(std::move(parts));
}

using Ranges = std::vector<std::pair<std::size_t, std::size_t>>;

// str.split(None, limit).
Ranges split_at_space(const std::string& text, std::int64_t limit) {
  Ranges ranges;
  constexpr std::size_t kNone = std::string::npos;
  std::size_t start = kNone;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t begin = i;
    const bool space = is_python_space(next_code_point(text, &i));
    if (space && start != kNone) {
      ranges.emplace_back(start, begin);
      start = kNone;
    } else if (!space && start == kNone) {
      start = begin;
      if (limit >= 0 && static_cast<std::int64_t>(ranges.size()) == limit) {
        ranges.emplace_back(begin, text.size());
        return ranges;
      }
    }
  }
  if (start != kNone) ranges.emplace_back(start, text.size());
  return ranges;
}

Ranges split_at(const std::string& text, const std::string& separator, std::int64_t limit) {
  Ranges ranges;
  std::size_t start = 0;
  while (limit < 0 || static_cast<std::int64_t>(ranges.size()) < limit) {
    const std::size_t found = text.find(separator, start);
    if (found == text.npos) break;
    ranges.emplace_back(start, found);
    start = found + separator.size();
  }
  ranges.emplace_back(start, text.size());
  return ranges;
}

Ranges split_from_right(const std::string& text, const std::string& separator, std::int64_t limit) {
  Ranges ranges;
  std::size_t end = text.size();
  while (limit < 0 || static_cast<std::int64_t>(ranges.size()) < limit) {
    if (end < separator.size()) break;
    const std::size_t found = text.rfind(separator, end - separator.size());
    if (found == text.npos) break;
    ranges.emplace_back(found + separator.size(), end);
    end = found;
  }
  ranges.emplace_back(0, end);
  std::reverse(ranges.begin(), ranges.end());
  return ranges;
}

Value split(const Text& text, const Arguments& arguments, bool from_right, Budget* budget) {
  const std::vector<Value> bound = bind_arguments(arguments, {"sep", "maxsplit"}, 0, "split");
  const std::int64_t limit = integer_argument(bound[1], -1, "split");
  if (bound[0].is_undefined() || bound[0].is_none()) {
    if (from_right && limit >= 0)
      fail(ErrorKind::kUnsupported, "rsplit at white space with a limit is not implemented");
    return parts_of(text, split_at_space(text.bytes, limit), budget);
  }
  const std::string& separator = text_argument(bound[0], "split").bytes;
  if (separator.empty()) refuse("split: the separator is empty");
  return parts_of(text,
                  from_right ? split_from_right(text.bytes, separator, limit)
                             : split_at(text.bytes, separator, limit),
                  budget);
}

Value split_lines(const Text& text, const Arguments& arguments, Budget* budget) {
  const bool keep = bind_arguments(arguments, {"keepends"}, 0, "splitlines")[0].truth();
  Ranges ranges;
  std::size_t start = 0;
  for (std::size_t i = 0; i < text.bytes.size();) {
    const std::size_t begin = i;
    const std::uint32_t point = next_code_point(text.bytes, &i);
    const bool ends = (point >= 0x0a && point <= 0x0d) || (point >= 0x1c && point <= 0x1e) ||
                      point == 0x85 || point == 0x2028 || point == 0x2029;
    if (!ends) continue;
    if (point == '\r' && i < text.bytes.size() && text.bytes[i] == '\n') ++i;
    ranges.emplace_back(start, keep ? i : begin);
    start = i;
  }
  if (start < text.bytes.size()) ranges.emplace_back(start, text.bytes.size());
  return parts_of(text, ranges, budget);
}

Value strip(const Text& text, const Arguments& arguments, bool left, bool right) {
  const Value others = bind_arguments(arguments, {"chars"}, 0, "strip")[0];
  if (others.is_undefined() || others.is_none()) return stripped(text, nullptr, left, right);
  return stripped(text, &text_argument(others, "strip").bytes, left, right);
}

Value starts_or_ends(const Text& text, const Arguments& arguments, bool starts) {
  const char* name = starts ? "startswith" : "endswith";
  const Value affix = bind_arguments(arguments, {"affix"}, 1, name)[0];
  const auto fits = [&](const Value& one) {
    const std::string& bytes = text_argument(one, name).bytes;
    return starts ? text.bytes.starts_with(bytes) : text.bytes.ends_with(bytes);
  };
  if (affix.list() != nullptr && affix.list()->kind == ListKind::kTuple)
    return std::any_of(affix.list()->items.begin(), affix.list()->items.end(), fits);
  return fits(affix);
}

Value replace(const Text& text, const Arguments& arguments, Budget* budget) {
  const std::vector<Value> bound = bind_arguments(arguments, {"old", "new", "count"}, 2, "replace");
  const Text& old = text_argument(bound[0], "replace");
  const Text& fresh = text_argument(bound[1], "replace");
  if (old.bytes.empty()) fail(ErrorKind::kUnsupported, "replace of empty text is not implemented");
  const std::int64_t limit = integer_argument(bound[2], -1, "replace");
  Text result;
  std::size_t start = 0;
  for (std::int64_t count = 0; limit < 0 || count < limit; ++count) {
    const std::size_t found = text.bytes.find(old.bytes, start);
    if (found == text.bytes.npos) break;
    budget->spend_bytes(found - start + fresh.bytes.size());
    result.append(text.slice(start, found - start));
    result.append(fresh);
    if (result.bytes.size() > kMaxTextBytes) budget->spend_bytes(result.bytes.size());
    start = found + old.bytes.size();
  }
  result.append(text.slice(start, text.bytes.size() - start));
  budget->spend_bytes(result.bytes.size());
  return result;
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// Letters of ASCII alone keep their places, and so their marks.
Text with_ascii_case(const Text& text, std::string_view method,
                     const std::function<bool(char before, bool first)>& is_upper) {
  if (!is_ascii(text.bytes))
    fail(ErrorKind::kUnsupported, "{} of letters beyond ASCII is not implemented", method);
  Text result = text;
  char before = ' ';
  for (std::size_t i = 0; i < result.bytes.size(); ++i) {
    char& c = result.bytes[i];
    const char original = c;
    const bool upper = is_upper(before, i == 0);
    if (upper && c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
    if (!upper && c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    before = original;
  }
  return result;
}

bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

Value change_case(const Text& text, std::string_view name) {
  if (name == "lower") {
    if (is_ascii(text.bytes)) return with_ascii_case(text, name, [](char, bool) { return false; });
    return Text(python_lower(text.bytes), text.joint_mark());
  }
  if (name == "upper") return with_ascii_case(text, name, [](char, bool) { return true; });
  if (name == "capitalize")
    return with_ascii_case(text, name, [](char, bool first) { return first; });
  return with_ascii_case(text, name, [](char before, bool) { return !is_ascii_letter(before); });
}

Value find(const Text& text, const Arguments& arguments, bool from_right) {
  const Value part = bind_arguments(arguments, {"sub"}, 1, "find")[0];
  const std::string& bytes = text_argument(part, "find").bytes;
  const std::size_t found = from_right ? text.bytes.rfind(bytes) : text.bytes.find(bytes);
  if (found == text.bytes.npos) return std::int64_t{-1};
  return static_cast<std::int64_t>(
      count_code_points(std::string_view(text.bytes).substr(0, found)));
}

Value count(const Text& text, const Arguments& arguments) {
  const Value part = bind_arguments(arguments, {"sub"}, 1, "count")[0];
  const std::string& bytes = text_argument(part, "count").bytes;
  if (bytes.empty()) return static_cast<std::int64_t>(count_code_points(text.bytes)) + 1;
  std::int64_t number = 0;
  for (std::size_t i = text.bytes.find(bytes); i != text.bytes.npos;
       i = text.bytes.find(bytes, i + bytes.size()))
    ++number;
  return number;
}

Value join(const Text& separator, const Arguments& arguments, Budget* budget) {
  const std::vector<Value> items =
      get_items(bind_arguments(arguments, {"iterable"}, 1, "join")[0], budget);
  Text result;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Text& item = text_argument(items[i], "join");
    budget->spend_bytes(item.bytes.size() + separator.bytes.size());
    if (i > 0) result.append(separator);
    result.append(item);
  }
  budget->spend_bytes(result.bytes.size());
  return result;
}

Value remove_affix(const Text& text, const Arguments& arguments, bool prefix) {
  const Value affix = bind_arguments(arguments, {"affix"}, 1, "removeprefix")[0];
  const std::string& bytes = text_argument(affix, "removeprefix").bytes;
  const std::size_t size = text.bytes.size();
  if (prefix && text.bytes.starts_with(bytes)) return text.slice(bytes.size(), size - bytes.size());
  if (!prefix && text.bytes.ends_with(bytes)) return text.slice(0, size - bytes.size());
  return text;
}

Value are_digits(const Text& text) {
  if (!is_ascii(text.bytes))
    fail(ErrorKind::kUnsupported, "isdigit of characters beyond ASCII is not implemented");
  return !text.bytes.empty() && std::all_of(text.bytes.begin(), text.bytes.end(),
                                            [](char c) { return c >= '0' && c <= '9'; });
}

Value call_on_text(const Text& text, std::string_view name, const Arguments& arguments,
                   Budget* budget) {
  budget->spend_bytes(text.bytes.size());
  if (name == "strip") return strip(text, arguments, true, true);
  if (name == "lstrip") return strip(text, arguments, true, false);
  if (name == "rstrip") return strip(text, arguments, false, true);
  if (name == "split") return split(text, arguments, false, budget);
  if (name == "rsplit") return split(text, arguments, true, budget);
  if (name == "splitlines") return split_lines(text, arguments, budget);
  if (name == "startswith") return starts_or_ends(text, arguments, true);
  if (name == "endswith") return starts_or_ends(text, arguments, false);
  if (name == "replace") return replace(text, arguments, budget);
  if (name == "find") return find(text, arguments, false);
  if (name == "rfind") return find(text, arguments, true);
  if (name == "count") return count(text, arguments);
  if (name == "join") return join(text, arguments, budget);
  if (name == "removeprefix") return remove_affix(text, arguments, true);
  if (name == "removesuffix") return remove_affix(text, arguments, false);
  if (name == "isdigit") {
    bind_arguments(arguments, {}, 0, name);
    return are_digits(text);
  }
  if (name == "upper" || name == "lower" || name == "capitalize" || name == "title") {
    bind_arguments(arguments, {}, 0, name);
    return change_case(text, name);
  }
  fail(ErrorKind::kUnsupported, "the method {} of strings is not implemented", name);
}

Value call_on_dict(const Dict& dict, std::string_view name, const Arguments& arguments,
                   Budget* budget) {
  budget->spend(dict.items.size());
  if (name == "get") {
    const std::vector<Value> bound = bind_arguments(arguments, {"key", "default"}, 1, "get");
    if (const Value* value = dict.find(bound[0])) return *value;
    return bound[1].is_undefined() ? Value(None{}) : bound[1];
  }
  bind_arguments(arguments, {}, 0, name);
  std::vector<Value> items;
  for (const auto& [key, value] : dict.items) {
    if (name == "keys") {
      items.push_back(key);
    } else if (name == "values") {
      items.push_back(value);
    } else if (name == "items") {
      items.emplace_back(make_list({key, value}, ListKind::kTuple));
    } else {
      fail(ErrorKind::kUnsupported, "the method {} of dictionaries is not implemented", name);
    }
  }
  return make_list(std::move(items), ListKind::kView);
}

Value call_on_list(const List& list, std::string_view name, const Arguments& arguments,
                   Budget* budget) {
  if (name != "index" && name != "count")
    fail(ErrorKind::kUnsupported, "the method {} of lists is not implemented", name);
  budget->spend(list.weight);
  const Value item = bind_arguments(arguments, {"value"}, 1, name)[0];
  std::int64_t number = 0;
  for (std::size_t i = 0; i < list.items.size(); ++i) {
    if (!equal(list.items[i], item)) continue;
    if (name == "index") return static_cast<std::int64_t>(i);
    ++number;
  }
  if (name == "index") refuse("index: the list does not hold the value");
  return number;
}

// The place in a sequence of size items that an index means, if any.
std::optional<std::size_t> place_of(std::int64_t index, std::size_t size) {
  if (index < 0) index += static_cast<std::int64_t>(size);
  if (index < 0 || index >= static_cast<std::int64_t>(size)) return std::nullopt;
  return static_cast<std::size_t>(index);
}

// Places of a slice, in order.
std::vector<std::size_t> slice_places(std::size_t size, const Value& first, const Value& last,
                                      const Value& step) {
  const auto given = [](const Value& part) { return !part.is_undefined() && !part.is_none(); };
  const auto length = static_cast<std::int64_t>(size);
  const std::int64_t stride = given(step) ? integer_argument(step, 1, "a slice") : 1;
  if (stride == 0) refuse("a slice has step 0");
  const std::int64_t low = stride > 0 ? 0 : -1, high = stride > 0 ? length : length - 1;
  const auto bound = [&](const Value& part, std::int64_t otherwise) {
    if (!given(part)) return otherwise;
    std::int64_t value = integer_argument(part, 0, "a slice");
    if (value < 0) value += value < -length ? 0 : length;
    return std::clamp(value, low, high);
  };
  const std::int64_t begin = bound(first, stride > 0 ? low : high);
  const std::int64_t end = bound(last, stride > 0 ? high : low);
  std::vector<std::size_t> places;
  for (std::int64_t i = begin; stride > 0 ? i < end : i > end;) {
    places.push_back(static_cast<std::size_t>(i));
    // A stride beyond the ends must not overflow.
    if (stride > length || stride < -length) break;
    i += stride;
  }
  return places;
}

}  // namespace methods_file

Text stripped(const Text& text, const std::string* others, bool left, bool right) {
  std::vector<std::uint32_t> points;
  if (others != nullptr) points = to_code_points(*others);
  const auto goes = [&](std::uint32_t point) {
    if (others == nullptr) return is_python_space(point);
    return std::find(points.begin(), points.end(), point) != points.end();
  };
  std::size_t first = 0, last = text.bytes.size();
  while (left && first < last) {
    std::size_t after = first;
    if (!goes(next_code_point(text.bytes, &after))) break;
    first = after;
  }
  while (right && last > first) {
    std::size_t before = last - 1;
    while (before > first && (static_cast<unsigned char>(text.bytes[before]) & 0xc0) == 0x80)
      --before;
    std::size_t after = before;
    if (!goes(next_code_point(text.bytes, &after))) break;
    last = before;
  }
  return text.slice(first, last - first);
}

bool has_method(const Value& object, std::string_view name) {
  static constexpr std::array<std::string_view, 47> kText = {
      "capitalize",   "casefold",    "center",    "count",      "encode",       "endswith",
      "expandtabs",   "find",        "format",    "format_map", "index",        "isalnum",
      "isalpha",      "isascii",     "isdecimal", "isdigit",    "isidentifier", "islower",
      "isnumeric",    "isprintable", "isspace",   "istitle",    "isupper",      "join",
      "ljust",        "lower",       "lstrip",    "maketrans",  "partition",    "removeprefix",
      "removesuffix", "replace",     "rfind",     "rindex",     "rjust",        "rpartition",
      "rsplit",       "rstrip",      "split",     "splitlines", "startswith",   "strip",
      "swapcase",     "title",       "translate", "upper",      "zfill"};
  static constexpr std::array<std::string_view, 11> kDict = {
      "clear", "copy",    "fromkeys",   "get",    "items", "keys",
      "pop",   "popitem", "setdefault", "update", "values"};
  static constexpr std::array<std::string_view, 11> kList = {"append", "clear",   "copy",   "count",
                                                             "extend", "index",   "insert", "pop",
                                                             "remove", "reverse", "sort"};
  const auto holds = [&](const auto& names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (object.text() != nullptr) return holds(kText);
  if (object.dict() != nullptr) return holds(kDict);
  return object.list() != nullptr && holds(kList);
}

Value call_method(const Value& object, std::string_view name, const Arguments& arguments,
                  Budget* budget) {
  if (object.text() != nullptr)
    return methods_file::call_on_text(*object.text(), name, arguments, budget);
  if (object.dict() != nullptr)
    return methods_file::call_on_dict(*object.dict(), name, arguments, budget);
  if (object.list() != nullptr)
    return methods_file::call_on_list(*object.list(), name, arguments, budget);
  methods_file::refuse("{} has no method {}", object.kind(), name);
}

std::vector<Value> get_items(const Value& value, Budget* budget) {
  if (value.is_undefined()) return {};
  if (const List* list = value.list()) {
    budget->spend(list->items.size());
    if (list->kind == ListKind::kGenerator) {
      if (list->is_read)
        fail(ErrorKind::kUnsupported,
             "the result of a lazy filter is read twice, which is not implemented");
      list->is_read = true;
    }
    return list->items;
  }
  std::vector<Value> items;
  if (const Dict* dict = value.dict()) {
    budget->spend(dict->items.size());
    for (const auto& item : dict->items) items.push_back(item.first);
    return items;
  }
  if (const Text* text = value.text()) {
    budget->spend(text->bytes.size());
    for (std::size_t i = 0; i < text->bytes.size();) {
      const std::size_t start = i;
      next_code_point(text->bytes, &i);
      items.emplace_back(text->slice(start, i - start));
    }
    return items;
  }
  methods_file::refuse("{} has no items to go through", value.kind());
}

Value get_item(const Value& object, const Value& key) {
  if (object.is_undefined()) methods_file::refuse("an undefined value has no items");
  if (const Dict* dict = object.dict()) {
    const Value* found = dict->find(key);
    return found == nullptr ? Value() : *found;
  }
  const bool is_index = key.is_integer() || key.is_bool();
  if (const List* list = object.list()) {
    if (!is_index || list->kind == ListKind::kView || list->kind == ListKind::kGenerator) return {};
    const auto place = methods_file::place_of(key.integer(), list->items.size());
    return place ? list->items[*place] : Value();
  }
  if (const Text* text = object.text()) {
    if (!is_index) return {};
    const std::vector<std::size_t> offsets = code_point_offsets(text->bytes);
    const auto place = methods_file::place_of(key.integer(), offsets.size() - 1);
    if (!place) return {};
    return text->slice(offsets[*place], offsets[*place + 1] - offsets[*place]);
  }
  return {};
}

Value get_slice(const Value& object, const Value& first, const Value& last, const Value& step) {
  if (const List* list = object.list();
      list != nullptr && list->kind != ListKind::kView && list->kind != ListKind::kGenerator) {
    std::vector<Value> items;
    for (const std::size_t place :
         methods_file::slice_places(list->items.size(), first, last, step))
      items.push_back(list->items[place]);
    return make_list(std::move(items), list->kind);
  }
  if (const Text* text = object.text()) {
    const std::vector<std::size_t> offsets = code_point_offsets(text->bytes);
    const std::vector<std::size_t> places =
        methods_file::slice_places(offsets.size() - 1, first, last, step);
    if (places.empty()) return Text();
    if (places.back() - places.front() + 1 == places.size() && places.back() >= places.front()) {
      const std::size_t start = offsets[places.front()];
      return text->slice(start, offsets[places.back() + 1] - start);
    }
    Text result;
    for (const std::size_t place : places)
      result.append(text->slice(offsets[place], offsets[place + 1] - offsets[place]));
    return result;
  }
  methods_file::refuse("{} cannot be sliced", object.kind());
}

bool contains(const Value& container, const Value& item) {
  if (container.is_undefined()) return false;
  if (const Text* text = container.text()) {
    if (item.text() == nullptr)
      methods_file::refuse("found {} in a string, expected a string", item.kind());
    return text->bytes.find(item.text()->bytes) != std::string::npos;
  }
  if (const Dict* dict = container.dict()) return dict->find(item) != nullptr;
  if (const List* list = container.list(); list != nullptr && list->kind != ListKind::kGenerator) {
    return std::any_of(list->items.begin(), list->items.end(),
                       [&](const Value& own) { return equal(own, item); });
  }
  methods_file::refuse("{} cannot be searched", container.kind());
}

}  // namespace qalof::text::jinja
