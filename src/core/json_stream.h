// Strict JSON (core/json.h) of which some parts are too large for a tree.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace qalof {

enum class JsonEvent {
  kStartObject,
  kEndObject,
  kStartArray,
  kEndArray,
  kKey,
  kString,
  kInteger,
  kOther
};

/// A part of a document that is told piece by piece. text is a key, a string or another value as it
/// is written; an integer beyond 64 signed bits is another value. Duplicate keys are the receiver's
/// business.
struct JsonPart {
  std::vector<std::string> path;  // keys from the root; none: the whole document
  std::function<void(JsonEvent event, std::string_view text, std::int64_t number)> take;
};

/// parse_json, but null stands in the place of every part, whose values go to its take. What take
/// throws passes through.
Json parse_json_parts(std::string_view text, std::string_view where,
                      std::span<const JsonPart> parts, const JsonLimits& limits = {});

/// For messages of SAX handlers: what to do about a token at which the parser stopped, "" where
/// there is nothing to say. Python's json writes NaN and Infinity, which are no JSON.
std::string_view json_token_hint(std::string_view token);

}  // namespace qalof
