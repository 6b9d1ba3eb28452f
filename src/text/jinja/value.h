// Values of templates, with the rules of Python for truth, equality, order and text. Part of the
// engine that text/jinja/template.h describes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/json.h"

namespace qalof::text::jinja {

/// UTF-8 in which every byte carries a mark, so that a caller sees where it came from. Marks follow
/// the bytes through slices, joins, strip, split and replace; text that is made from other text in
/// another way carries all marks of its source.
struct Text {
  std::string bytes;
  std::string marks;  // one byte each; "" where all are 0

  Text() = default;
  explicit Text(std::string text) : bytes(std::move(text)) {}
  Text(std::string text, unsigned char mark);
  void append(const Text& other);
  Text slice(std::size_t first, std::size_t count) const;
  /// All marks of the text together.
  unsigned char joint_mark() const;
};

class Value;
struct Macro;  // a macro of the template's tree

struct Undefined {
  bool operator==(const Undefined&) const = default;
};
struct None {
  bool operator==(const None&) const = default;
};
enum class Function { kRange, kNamespace, kDict, kRaiseException, kStrftimeNow };

enum class ListKind { kList, kTuple, kRange, kView, kGenerator };
/// Sequences. Views are what a dictionary's items() gives; generators are what lazy filters give:
/// always true, read once.
struct List {
  std::vector<Value> items;
  ListKind kind = ListKind::kList;
  int depth = 1;                 // of nested containers
  std::size_t weight = 1;        // Value::weight
  mutable bool is_read = false;  // of a generator
};
struct Dict {
  std::vector<std::pair<Value, Value>> items;  // in the order of insertion
  int depth = 1;
  std::size_t weight = 1;
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
};
/// What namespace() makes: the one thing a template may change. The run owns it.
struct Namespace {
  std::map<std::string, Value, std::less<>> values;
};
/// The variable `loop`.
struct Loop {
  std::shared_ptr<const List> list;  // what it goes through
  std::size_t index = 0;
};

class Value {
 public:
  Value() = default;  // undefined
  Value(None) : data_(None{}) {}
  Value(bool value) : data_(value) {}
  Value(std::int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  Value(Text text) : data_(std::make_shared<const Text>(std::move(text))) {}
  Value(List list) : data_(std::make_shared<const List>(std::move(list))) {}
  Value(Dict dict) : data_(std::make_shared<const Dict>(std::move(dict))) {}
  Value(Namespace* space) : data_(space) {}
  Value(std::shared_ptr<const Loop> loop) : data_(std::move(loop)) {}
  Value(const Macro* macro) : data_(macro) {}
  Value(Function function) : data_(function) {}
  static Value of_text(std::string text) { return Text(std::move(text)); }
  static Value of_json(const Json& json, int depth = 0);

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_integer() const { return std::holds_alternative<std::int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  /// Booleans are numbers, as in Python.
  bool is_number() const { return is_bool() || is_integer() || is_float(); }
  bool is_callable() const {
    return std::holds_alternative<const Macro*>(data_) || std::holds_alternative<Function>(data_);
  }
  /// Null where the value is something else.
  const Text* text() const { return held<Text>(); }
  const List* list() const { return held<List>(); }
  const Dict* dict() const { return held<Dict>(); }
  const Loop* loop() const { return held<Loop>(); }
  Namespace* space() const {
    const auto* held = std::get_if<Namespace*>(&data_);
    return held == nullptr ? nullptr : *held;
  }
  const Macro* macro() const {
    const auto* held = std::get_if<const Macro*>(&data_);
    return held == nullptr ? nullptr : *held;
  }
  const Function* function() const { return std::get_if<Function>(&data_); }
  /// A boolean or whole number.
  std::int64_t integer() const {
    return is_bool() ? std::int64_t{std::get<bool>(data_)} : std::get<std::int64_t>(data_);
  }
  /// Any number.
  double number() const {
    return is_float() ? std::get<double>(data_) : static_cast<double>(integer());
  }
  bool truth() const;
  /// "a string", "a list": for messages.
  const char* kind() const;
  /// Of nested containers; 0 for other values.
  int depth() const;
  /// About what it costs to go through the value with all that it holds.
  std::size_t weight() const;

 private:
  template <typename T>
  const T* held() const {
    const auto* pointer = std::get_if<std::shared_ptr<const T>>(&data_);
    return pointer == nullptr ? nullptr : pointer->get();
  }
  std::variant<Undefined, None, bool, std::int64_t, double, std::shared_ptr<const Text>,
               std::shared_ptr<const List>, std::shared_ptr<const Dict>, Namespace*,
               std::shared_ptr<const Loop>, const Macro*, Function>
      data_;
};

/// Python's ==.
bool equal(const Value& a, const Value& b);
/// Python's a < b. Error{kBadInput}, a fragment without place, where they have no order.
bool less(const Value& a, const Value& b);
/// Python's str(), with the rules of templates: an undefined value is no text. Error{kBadInput}, a
/// fragment, for values whose text is not implemented.
Text to_text(const Value& value);
struct JsonStyle {
  int indent = -1;  // -1: on one line
  std::string item_separator = ", ", key_separator = ": ";
  bool sort_keys = false, ascii = false;
};
/// Python's json.dumps.
Text to_json_text(const Value& value, const JsonStyle& style);
/// Containers may be nested 64 deep and weigh no more than 16 million; Error{kBadInput}, a
/// fragment.
List make_list(std::vector<Value> items, ListKind kind = ListKind::kList);
Dict make_dict(std::vector<std::pair<Value, Value>> items);

}  // namespace qalof::text::jinja
