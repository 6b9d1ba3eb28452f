// Strict JSON: builds trees under limits on memory and depth (json.h), and streams large parts of a
// document to a receiver (json_stream.h).
#include "core/json.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/byte_order_mark.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json_stream.h"

namespace qalof {

namespace {

// Worst-case memory of a tree node, allocator included. Array slot: an array that has just doubled,
// and the list that nlohmann-json moves elements to when it destroys an array, which doubles as
// well. Member: a map node. String: the object of a string or container.
constexpr std::size_t kArraySlotBytes = 5 * sizeof(Json);
constexpr std::size_t kMemberBytes = 128;
constexpr std::size_t kStringBytes = 64;
// Brackets, commas, spaces and literals allowed between two strings or numbers.
constexpr std::size_t kMaxGapBytes = std::size_t{1} << 20;

// Builds the tree and refuses what nlohmann-json accepts but this project does not (json.h).
class TreeBuilder {
 public:
  using number_integer_t = Json::number_integer_t;
  using number_unsigned_t = Json::number_unsigned_t;
  using number_float_t = Json::number_float_t;
  using string_t = Json::string_t;
  using binary_t = Json::binary_t;

  TreeBuilder(std::string_view text, std::string_view where, const JsonLimits& limits,
              std::span<const JsonPart> parts)
      : where_(where),
        limits_(limits),
        budget_(text.size() + limits.max_extra_bytes),
        parts_(parts) {
    find_part();
  }

  Json take() { return std::move(root_); }

  bool null() { return told(JsonEvent::kOther, "null") || add(Json()); }
  bool boolean(bool value) {
    return told(JsonEvent::kOther, value ? "true" : "false") || add(Json(value));
  }
  bool number_integer(number_integer_t value) {
    return told(JsonEvent::kInteger, {}, value) || add(Json(value));
  }
  bool number_unsigned(number_unsigned_t value) {
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max())) {
      if (told(JsonEvent::kOther, std::to_string(value))) return true;
      refuse("an integer beyond 64 signed bits");
    }
    return told(JsonEvent::kInteger, {}, static_cast<std::int64_t>(value)) || add(Json(value));
  }
  bool number_float(number_float_t value, const string_t& token) {
    if (part_ == nullptr && token.find_first_of(".eE") == string_t::npos)
      refuse("an integer beyond 64 signed bits");
    if (!std::isfinite(value)) refuse("a number too large");
    return told(JsonEvent::kOther, token) || add(Json(value));
  }
  bool string(string_t& value) {
    if (told(JsonEvent::kString, value)) return true;
    spend(kStringBytes + value.size());
    return add(Json(value));  // copied: a moved string would bring its spare capacity along
  }
  bool binary(binary_t&) { return false; }
  bool start_object(std::size_t) {
    return told(JsonEvent::kStartObject, {}, 0, 1) || open(Json::object());
  }
  bool start_array(std::size_t) {
    return told(JsonEvent::kStartArray, {}, 0, 1) || open(Json::array());
  }
  bool end_object() { return told(JsonEvent::kEndObject, {}, 0, -1) || close(); }
  bool end_array() { return told(JsonEvent::kEndArray, {}, 0, -1) || close(); }
  bool key(string_t& name) {
    if (part_depth_ > 0) return told(JsonEvent::kKey, name);
    Json& object = *open_.back();
    if (object.contains(name)) refuse(fmt::format("the key \"{:.64}\" twice in one object", name));
    spend(kMemberBytes + name.size());
    slot_ = &object[name];
    key_ = name;
    find_part();
    return true;
  }
  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::detail::exception& error) {
    // Of "[json.exception.parse_error.101] parse error at line 1, column 2: ..." the library's own
    // code is left out.
    std::string reason = error.what();
    if (const std::size_t end = reason.find("] "); end != std::string::npos)
      reason.erase(0, end + 2);
    fail(ErrorKind::kCorruptFile, "{}: not valid JSON (byte {}): {:.300}{}", where_, position,
         reason, json_token_hint(token));
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    fail(ErrorKind::kCorruptFile, "{}: JSON holds {}", where_, what);
  }
  void spend(std::size_t bytes) {
    if (bytes > budget_) {
      refuse(fmt::format("more values than its size allows (over {} MiB beyond the text)",
                         limits_.max_extra_bytes >> 20));
    }
    budget_ -= bytes;
  }
  // Sets part_ where the next value is a part that is streamed to a receiver instead of built.
  void find_part() {
    for (const JsonPart& part : parts_) {
      const bool is_root = open_.empty() && part.path.empty();
      const bool is_member = !open_.empty() && part.path.size() == path_.size() + 1 &&
                             part.path.back() == key_ &&
                             std::equal(path_.begin(), path_.end(), part.path.begin());
      if (is_root || is_member) part_ = &part;
    }
  }
  // Passes an event to the receiver of the current part; false where there is none, so that the
  // event belongs to the tree. step: how the event changes the depth inside the part.
  bool told(JsonEvent event, std::string_view text, std::int64_t number = 0, int step = 0) {
    if (part_ == nullptr) return false;
    if (step < 0) --part_depth_;
    if (step > 0 && open_.size() + part_depth_++ >= limits_.max_depth)
      refuse(fmt::format("more than {} levels", limits_.max_depth));
    part_->take(event, text, number);
    if (part_depth_ == 0) part_ = nullptr;
    return true;
  }
  // Puts a value at the current position: as the value of a key, at the end of an array, or as the
  // root.
  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      spend(kArraySlotBytes);
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    *slot_ = std::move(value);
    return slot_;
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json container) {
    if (open_.size() >= limits_.max_depth)
      refuse(fmt::format("more than {} levels", limits_.max_depth));
    spend(kStringBytes);
    // Elements of an array have no path of keys; a NUL name, which no part's path holds, marks
    // them.
    if (!open_.empty()) path_.push_back(open_.back()->is_array() ? std::string(1, '\0') : key_);
    open_.push_back(place(std::move(container)));
    return true;
  }
  bool close() {
    open_.pop_back();
    if (!path_.empty()) path_.pop_back();
    return true;
  }

  std::string_view where_;
  JsonLimits limits_;
  std::size_t budget_;
  Json root_;
  std::vector<Json*>
      open_;  // stays valid: a container grows only after the one inside it is closed
  Json* slot_ = nullptr;
  std::span<const JsonPart> parts_;
  std::vector<std::string> path_;  // keys of the open containers, root excluded
  std::string key_;                // key of slot_
  const JsonPart* part_ = nullptr;
  std::size_t part_depth_ = 0;  // containers open inside part_
};

const Json& member(const Json& object, std::string_view key, std::string_view where) {
  QALOF_CHECK(object.is_object(), ErrorKind::kBadInput, "{}: found {}, expected an object", where,
              object.type_name());
  const auto it = object.find(std::string(key));
  QALOF_CHECK(it != object.end(), ErrorKind::kBadInput, "{}: {} is missing", where, key);
  return *it;
}

std::string shortened(const Json& value) {
  if (value.is_structured()) return fmt::format("an {}", value.type_name());
  // ASCII, so that cutting it leaves valid text.
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

}  // namespace

void check_json_tokens(std::string_view text, std::string_view where, std::size_t max_token_bytes) {
  enum class Inside { kGap, kString, kNumber } inside = Inside::kGap;
  std::size_t start = 0;  // of the gap, string or number that i is in
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    QALOF_CHECK(c != '\0', ErrorKind::kCorruptFile, "{}: JSON has a NUL byte at {}", where, i);
    const std::size_t limit = inside == Inside::kGap ? kMaxGapBytes : max_token_bytes;
    QALOF_CHECK(i - start <= limit, ErrorKind::kCorruptFile,
                "{}: JSON has over {} bytes {} from byte {} on", where, limit,
                inside == Inside::kGap ? "without a value" : "in one value", start);
    if (inside == Inside::kString) {
      if (c == '\\') ++i;
      if (c != '"') continue;
      inside = Inside::kGap;
      start = i;
    } else if (c == '"') {
      inside = Inside::kString;
      start = i;
    } else {
      const bool is_number =
          (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
      if (is_number == (inside == Inside::kNumber)) continue;
      // The letter e of true or false is not part of a number.
      if (is_number && (c == 'e' || c == 'E')) continue;
      inside = is_number ? Inside::kNumber : Inside::kGap;
      start = i;
    }
  }
}

std::string_view json_token_hint(std::string_view token) {
  // token ends at the first letter that fits no JSON literal; before it may be other text read
  // since the last token, control bytes written as <U+000A>.
  if (token.empty()) return "";
  const char last = token.back();
  token.remove_suffix(1);
  if (last == 'I' && token.ends_with('-')) token.remove_suffix(1);
  if (!token.empty() && std::string_view(" :,[{>").find(token.back()) == std::string_view::npos)
    return "";
  if (last == 'N' || last == 'I')
    return "; JSON has no NaN, Infinity or None, null stands for them";
  if (last == 'T' || last == 'F') return "; JSON writes true and false";
  return last == '\'' ? "; JSON has double quotation marks only" : "";
}

std::string dump_json(const Json& json, std::string_view where, int indent) {
  try {
    return json.dump(indent);
  } catch (const Json::exception&) {
    fail(ErrorKind::kBadInput, "{}: cannot be written: it holds text that is not UTF-8", where);
  }
}

Json parse_json(std::string_view text, std::string_view where, const JsonLimits& limits) {
  return parse_json_parts(text, where, {}, limits);
}

Json parse_json_parts(std::string_view text, std::string_view where,
                      std::span<const JsonPart> parts, const JsonLimits& limits) {
  byte_order_mark(text, where);  // the parser skips UTF-8's
  check_json_tokens(text, where, limits.max_token_bytes);
  TreeBuilder builder(text, where, limits, parts);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

Json read_json_file(const std::string& path, std::size_t max_bytes) {
  // Mapped, so that only the tree takes memory, not the text.
  const MappedFile file = MappedFile::open(path);
  const std::span<const std::byte> bytes = file.bytes();
  QALOF_CHECK(bytes.size() <= max_bytes, ErrorKind::kBadInput,
              "{}: has {} bytes, at most {} are read", path, bytes.size(), max_bytes);
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

std::int64_t json_int(const Json& object, std::string_view key, std::string_view where,
                      std::int64_t min, std::int64_t max) {
  const Json& value = member(object, key, where);
  QALOF_CHECK(value.is_number_integer(), ErrorKind::kBadInput,
              "{}: {} is {}, expected an integer in {}..{}", where, key, shortened(value), min,
              max);
  const auto number = value.get<std::int64_t>();
  QALOF_CHECK(number >= min && number <= max, ErrorKind::kBadInput, "{}: {} is {}, expected {}..{}",
              where, key, number, min, max);
  return number;
}

double json_number(const Json& object, std::string_view key, std::string_view where) {
  const Json& value = member(object, key, where);
  QALOF_CHECK(value.is_number(), ErrorKind::kBadInput, "{}: {} is {}, expected a number", where,
              key, shortened(value));
  return value.get<double>();
}

bool json_bool(const Json& object, std::string_view key, std::string_view where) {
  const Json& value = member(object, key, where);
  QALOF_CHECK(value.is_boolean(), ErrorKind::kBadInput, "{}: {} is {}, expected true or false",
              where, key, shortened(value));
  return value.get<bool>();
}

std::string json_string(const Json& object, std::string_view key, std::string_view where) {
  const Json& value = member(object, key, where);
  QALOF_CHECK(value.is_string(), ErrorKind::kBadInput, "{}: {} is {}, expected a string", where,
              key, shortened(value));
  return value.get<std::string>();
}

}  // namespace qalof
