// Strict JSON (core/json.h) for documents with parts too large for a tree, which are streamed to a
// receiver.
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

/// A part of a document that is streamed to `take` event by event. text is a key, a string, or
/// another value as written; integers outside the 64-bit signed range are kOther. Duplicate keys
/// inside the part are left to the receiver.
struct JsonPart {
  std::vector<std::string> path;  // keys from the root; empty: the whole document
  std::function<void(JsonEvent event, std::string_view text, std::int64_t number)> take;
};

/// parse_json, with each part streamed to its `take` and replaced by null in the tree. Exceptions
/// thrown by `take` pass through.
Json parse_json_parts(std::string_view text, std::string_view where,
                      std::span<const JsonPart> parts, const JsonLimits& limits = {});

/// For messages of SAX handlers: advice about the token at which the parser stopped, or "".
/// Python's json module writes NaN and Infinity, which are not JSON.
std::string_view json_token_hint(std::string_view token);

}  // namespace qalof
