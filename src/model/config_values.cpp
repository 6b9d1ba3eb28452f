// Typed, bounded readers of config.json values with one-sentence errors.
#include "model/config_values.h"

#include <limits>

#include "core/error.h"

namespace qalof::model {

// The largest model within these bounds, in f32: both embeddings, positions and all layers, with q,
// k, v, attention's output, gate, up and down.
static_assert(4.0 * kMaxHidden * (2.0 * kMaxVocab + kMaxPositions + kMaxLayers * 7.0 * kMaxInner) <
              static_cast<double>(std::numeric_limits<std::int64_t>::max()));

std::string present_key(const Json& json, const char* key, const char* alias) {
  if (key != nullptr && json.contains(key) && !json[key].is_null()) return key;
  if (alias != nullptr && json.contains(alias) && !json[alias].is_null()) return alias;
  return "";
}

std::size_t read_size(const Json& json, const char* key, const char* alias, std::size_t fallback,
                      std::int64_t max, const std::string& where) {
  const std::string found = present_key(json, key, alias);
  if (found.empty()) return fallback;
  const std::int64_t size = json_int(json, found, where, 1, max);
  if (found == key && !present_key(json, alias, nullptr).empty()) {
    const std::int64_t other = json_int(json, alias, where, 1, max);
    QALOF_CHECK(size == other, ErrorKind::kBadInput, "{}: {} is {} but its alias {} is {}", where,
                key, size, alias, other);
  }
  return static_cast<std::size_t>(size);
}

bool read_bool(const Json& json, const char* key, bool fallback, const std::string& where) {
  return present_key(json, key, nullptr).empty() ? fallback : json_bool(json, key, where);
}

// Checked after the conversion to f32, which can round a tiny double to zero.
float read_float(const Json& json, const char* key, float fallback, float max,
                 const std::string& where) {
  if (present_key(json, key, nullptr).empty()) return fallback;
  const double value = json_number(json, key, where);
  QALOF_CHECK(static_cast<float>(value) > 0 && value <= max, ErrorKind::kBadInput,
              "{}: {} is {}, expected a number above 0 and at most {}", where, key, value, max);
  return static_cast<float>(value);
}

std::int64_t read_token(const Json& json, const char* key, std::int64_t fallback,
                        const std::string& where) {
  if (present_key(json, key, nullptr).empty()) return fallback;
  return json_int(json, key, where, 0, kMaxVocab);
}

std::vector<std::int64_t> read_end_tokens(const Json& json, std::int64_t fallback,
                                          const std::string& where) {
  const auto value = json.find("eos_token_id");
  if (value == json.end() || !value->is_array())
    return {read_token(json, "eos_token_id", fallback, where)};
  QALOF_CHECK(!value->empty() && value->size() <= 64, ErrorKind::kBadInput,
              "{}: eos_token_id has {} tokens, expected 1..64", where, value->size());
  std::vector<std::int64_t> tokens;
  for (const Json& token : *value)
    tokens.push_back(json_int({{"eos_token_id", token}}, "eos_token_id", where, 0, kMaxVocab));
  return tokens;
}

void read_dropout(const Json& json, std::initializer_list<const char*> keys, ModelConfig& config,
                  const std::string& where) {
  for (const char* key : keys) {
    if (present_key(json, key, nullptr).empty()) continue;
    const double value = json_number(json, key, where);
    QALOF_CHECK(value >= 0 && value < 1, ErrorKind::kBadInput,
                "{}: {} is {}, expected 0 or more and less than 1", where, key, value);
    config.has_dropout = config.has_dropout || value > 0;
  }
}

std::optional<Activation> gelu_named(const std::string& name) {
  for (const char* tanh :
       {"gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"})
    if (name == tanh) return Activation::kGeluTanh;
  if (name == "gelu" || name == "gelu_python") return Activation::kGeluErf;
  return std::nullopt;
}

void require_bool(const Json& json, const char* key, bool implemented, const std::string& where) {
  const bool value = read_bool(json, key, implemented, where);
  QALOF_CHECK(value == implemented, ErrorKind::kUnsupported, "{}: {} is {}, implemented is {}",
              where, key, value, implemented);
}

}  // namespace qalof::model
