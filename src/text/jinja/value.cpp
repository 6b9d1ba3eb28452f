// Truth, equality, order and text of template values, as Python has them.
#include "text/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "text/python_json.h"
#include "text/unicode.h"

namespace qalof::text::jinja {

namespace value_file {

constexpr int kMaxDepth = 64;

[[noreturn]] void refuse(const std::string& what) { fail(ErrorKind::kBadInput, "{}", what); }

constexpr std::size_t kMaxWeight = 16'000'000;

// What a container is allowed of depth and weight.
class Measure {
 public:
  void add(const Value& value) {
    depth_ = std::max(depth_, value.depth());
    weight_ += value.weight();
    if (weight_ > kMaxWeight) refuse("a list or dictionary holds too much");
  }
  int depth() const {
    if (depth_ >= kMaxDepth)
      refuse(fmt::format("containers are nested more than {} deep", kMaxDepth));
    return depth_ + 1;
  }
  std::size_t weight() const { return weight_; }

 private:
  int depth_ = 0;
  std::size_t weight_ = 1;
};

// Python's repr of a string.
std::string python_quoted(std::string_view text) {
  const bool has_single = text.find('\'') != text.npos, has_double = text.find('"') != text.npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  std::string result(1, quote);
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t start = i;
    const std::uint32_t point = next_code_point(text, &i);
    if (point == static_cast<unsigned char>(quote) || point == '\\') {
      result += '\\';
      result += static_cast<char>(point);
    } else if (point == '\n') {
      result += "\\n";
    } else if (point == '\r') {
      result += "\\r";
    } else if (point == '\t') {
      result += "\\t";
    } else if (point < 0x20 || point == 0x7f) {
      result += fmt::format("\\x{:02x}", point);
    } else if (point < 0x7f || is_letter(point) || is_number(point)) {
      result += text.substr(start, i - start);
    } else {
      refuse(
          fmt::format("a list or dictionary with the character U+{:04X} is printed, which is not "
                      "implemented",
                      point));
    }
  }
  return result + quote;
}

Text repr(const Value& value) {
  if (const Text* text = value.text()) {
    Text result(python_quoted(text->bytes), text->joint_mark());
    return result;
  }
  if (value.is_undefined()) return Text("Undefined");
  return to_text(value);
}

Text list_text(const List& list) {
  if (list.kind != ListKind::kList && list.kind != ListKind::kTuple)
    refuse("a range, a view of a dictionary or the result of a lazy filter is printed");
  const bool tuple = list.kind == ListKind::kTuple;
  Text result(tuple ? "(" : "[");
  for (std::size_t i = 0; i < list.items.size(); ++i) {
    if (i > 0) result.append(Text(", "));
    result.append(repr(list.items[i]));
  }
  if (tuple && list.items.size() == 1) result.append(Text(","));
  result.append(Text(tuple ? ")" : "]"));
  return result;
}

Text dict_text(const Dict& dict) {
  Text result("{");
  for (std::size_t i = 0; i < dict.items.size(); ++i) {
    if (i > 0) result.append(Text(", "));
    result.append(repr(dict.items[i].first));
    result.append(Text(": "));
    result.append(repr(dict.items[i].second));
  }
  result.append(Text("}"));
  return result;
}

std::string float_text(double value) {
  if (!std::isfinite(value)) refuse("a number is not finite");
  return python_json_float(value);
}

// A string as json.dumps writes it with ensure_ascii=False.
std::string json_string_of(std::string_view text) {
  std::string json = "\"";
  for (const char c : text) {
    constexpr std::string_view kNamed = "\"\\\n\r\t\f\b", kLetters = "\"\\nrtfb";
    const std::size_t named = kNamed.find(c);
    if (named != kNamed.npos) {
      json += '\\';
      json += kLetters[named];
    } else if (static_cast<unsigned char>(c) < 0x20) {
      json += fmt::format("\\u{:04x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    } else {
      json += c;
    }
  }
  return json + '"';
}

void break_line(const JsonStyle& style, int level, Text* result) {
  if (style.indent < 0) return;
  result->append(Text("\n" + std::string(static_cast<std::size_t>(style.indent * level), ' ')));
}

void write_json(const Value& value, const JsonStyle& style, int level, Text* result);

void write_json_key(const Value& key, const JsonStyle& style, Text* result) {
  if (key.text() != nullptr) {
    write_json(key, style, 0, result);
  } else if (key.is_number() || key.is_none()) {
    result->append(Text("\""));
    write_json(key, style, 0, result);
    result->append(Text("\""));
  } else {
    refuse(fmt::format("tojson: {} is a key", key.kind()));
  }
}

void write_json(const Value& value, const JsonStyle& style, int level, Text* result) {
  if (const Text* text = value.text()) {
    result->append(Text(style.ascii ? python_json_string(text->bytes) : json_string_of(text->bytes),
                        text->joint_mark()));
  } else if (value.is_none()) {
    result->append(Text("null"));
  } else if (value.is_bool()) {
    result->append(Text(value.truth() ? "true" : "false"));
  } else if (value.is_integer() || value.is_float()) {
    result->append(to_text(value));
  } else if (const List* list = value.list();
             list != nullptr && (list->kind == ListKind::kList || list->kind == ListKind::kTuple)) {
    result->append(Text("["));
    for (std::size_t i = 0; i < list->items.size(); ++i) {
      if (i > 0) result->append(Text(style.item_separator));
      break_line(style, level + 1, result);
      write_json(list->items[i], style, level + 1, result);
    }
    if (!list->items.empty()) break_line(style, level, result);
    result->append(Text("]"));
  } else if (const Dict* dict = value.dict()) {
    std::vector<std::pair<Value, Value>> items = dict->items;
    if (style.sort_keys) {
      std::stable_sort(items.begin(), items.end(),
                       [](const auto& a, const auto& b) { return less(a.first, b.first); });
    }
    result->append(Text("{"));
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) result->append(Text(style.item_separator));
      break_line(style, level + 1, result);
      write_json_key(items[i].first, style, result);
      result->append(Text(style.key_separator));
      write_json(items[i].second, style, level + 1, result);
    }
    if (!items.empty()) break_line(style, level, result);
    result->append(Text("}"));
  } else {
    refuse(fmt::format("tojson: {} cannot be written as JSON", value.kind()));
  }
}

}  // namespace value_file

Text::Text(std::string text, unsigned char mark) : bytes(std::move(text)) {
  if (mark != 0) marks.assign(bytes.size(), static_cast<char>(mark));
}

void Text::append(const Text& other) {
  if (!other.marks.empty() || !marks.empty()) {
    marks.resize(bytes.size(), '\0');
    marks += other.marks;
    marks.resize(bytes.size() + other.bytes.size(), '\0');
  }
  bytes += other.bytes;
}

Text Text::slice(std::size_t first, std::size_t count) const {
  Text result(bytes.substr(first, count));
  if (!marks.empty()) result.marks = marks.substr(first, count);
  return result;
}

unsigned char Text::joint_mark() const {
  unsigned char all = 0;
  for (const char mark : marks)
    all = static_cast<unsigned char>(all | static_cast<unsigned char>(mark));
  return all;
}

const Value* Dict::find(const Value& key) const {
  for (const auto& [own, value] : items) {
    if (equal(own, key)) return &value;
  }
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& [own, value] : items) {
    if (own.text() != nullptr && own.text()->bytes == key) return &value;
  }
  return nullptr;
}

Value Value::of_json(const Json& json, int depth) {
  if (json.is_null()) return None{};
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_unsigned() &&
      json.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX))
    value_file::refuse("a whole number does not fit 64 bits");
  if (json.is_number_integer()) return json.get<std::int64_t>();
  if (json.is_number_float()) return json.get<double>();
  if (json.is_string()) return of_text(json.get<std::string>());
  if (depth >= value_file::kMaxDepth) value_file::refuse("a value is nested too deep");
  if (json.is_array()) {
    std::vector<Value> items;
    items.reserve(json.size());
    for (const Json& item : json) items.push_back(of_json(item, depth + 1));
    return make_list(std::move(items));
  }
  value_file::refuse(
      "objects are not implemented (a template may write their members in the order of the file)");
}

bool Value::truth() const {
  if (is_number()) return is_float() ? number() != 0 : integer() != 0;
  if (text() != nullptr) return !text()->bytes.empty();
  if (list() != nullptr) return list()->kind == ListKind::kGenerator || !list()->items.empty();
  if (dict() != nullptr) return !dict()->items.empty();
  return !is_undefined() && !is_none();
}

const char* Value::kind() const {
  static constexpr const char* kNames[] = {
      "an undefined value", "none",     "a boolean", "a whole number",
      "a number",           "a string", "a list",    "a dictionary",
      "a namespace",        "a loop",   "a macro",   "a function"};
  return kNames[data_.index()];
}

int Value::depth() const {
  if (list() != nullptr) return list()->depth;
  if (dict() != nullptr) return dict()->depth;
  return loop() != nullptr ? loop()->list->depth : 0;
}

std::size_t Value::weight() const {
  if (text() != nullptr) return 1 + text()->bytes.size() / 16;
  if (list() != nullptr) return list()->weight;
  if (dict() != nullptr) return dict()->weight;
  return loop() != nullptr ? loop()->list->weight : 1;
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return a.number() == b.number();
    return a.integer() == b.integer();
  }
  if (a.text() != nullptr && b.text() != nullptr) return a.text()->bytes == b.text()->bytes;
  if (a.list() != nullptr && b.list() != nullptr) {
    return a.list()->kind == b.list()->kind &&
           std::equal(a.list()->items.begin(), a.list()->items.end(), b.list()->items.begin(),
                      b.list()->items.end(), equal);
  }
  if (a.dict() != nullptr && b.dict() != nullptr) {
    if (a.dict()->items.size() != b.dict()->items.size()) return false;
    return std::all_of(a.dict()->items.begin(), a.dict()->items.end(), [&](const auto& item) {
      const Value* other = b.dict()->find(item.first);
      return other != nullptr && equal(item.second, *other);
    });
  }
  if (a.space() != nullptr) return a.space() == b.space();
  if (a.loop() != nullptr) return a.loop() == b.loop();
  if (a.macro() != nullptr) return a.macro() == b.macro();
  if (a.function() != nullptr && b.function() != nullptr) return *a.function() == *b.function();
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

bool less(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return a.number() < b.number();
    return a.integer() < b.integer();
  }
  // The order of UTF-8 is the order of code points.
  if (a.text() != nullptr && b.text() != nullptr) return a.text()->bytes < b.text()->bytes;
  if (a.list() != nullptr && b.list() != nullptr && a.list()->kind == b.list()->kind) {
    const auto& first = a.list()->items;
    const auto& second = b.list()->items;
    for (std::size_t i = 0; i < std::min(first.size(), second.size()); ++i) {
      if (!equal(first[i], second[i])) return less(first[i], second[i]);
    }
    return first.size() < second.size();
  }
  value_file::refuse(fmt::format("{} and {} have no order", a.kind(), b.kind()));
}

Text to_text(const Value& value) {
  if (const Text* text = value.text()) return *text;
  if (value.is_undefined()) return Text();
  if (value.is_none()) return Text("None");
  if (value.is_bool()) return Text(value.truth() ? "True" : "False");
  if (value.is_integer()) return Text(std::to_string(value.integer()));
  if (value.is_float()) return Text(value_file::float_text(value.number()));
  if (value.list() != nullptr) return value_file::list_text(*value.list());
  if (value.dict() != nullptr) return value_file::dict_text(*value.dict());
  value_file::refuse(fmt::format("{} is printed, which is not implemented", value.kind()));
}

Text to_json_text(const Value& value, const JsonStyle& style) {
  Text result;
  value_file::write_json(value, style, 0, &result);
  return result;
}

List make_list(std::vector<Value> items, ListKind kind) {
  value_file::Measure measure;
  for (const Value& item : items) measure.add(item);
  return {std::move(items), kind, measure.depth(), measure.weight(), false};
}

Dict make_dict(std::vector<std::pair<Value, Value>> items) {
  value_file::Measure measure;
  for (const auto& [key, value] : items) {
    measure.add(key);
    measure.add(value);
  }
  return {std::move(items), measure.depth(), measure.weight()};
}

}  // namespace qalof::text::jinja
