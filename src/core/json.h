// Strict JSON for files from outside. The parser behind it is nlohmann-json driven by a SAX handler, which
// refuses what the library lets pass: duplicate keys, deep nesting, invalid UTF-8, trailing bytes, numbers that
// do not fit, and documents whose tree would need more memory than their size allows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace qalof {

using Json = nlohmann::json;

struct JsonLimits {
  std::size_t max_depth = 64;
  /// The tree may take this many bytes more than the text it came from.
  std::size_t max_extra_bytes = std::size_t{48} << 20;
};

/// Parses text; where names the source in messages (a path). Throws Error{kCorruptFile} for bytes that are not
/// such JSON. Integers beyond 64 bits and non-finite numbers are refused.
Json parse_json(std::string_view text, std::string_view where, const JsonLimits& limits = {});

/// Reads and parses a file of at most max_bytes (Error{kNotFound}, {kCorruptFile}).
Json read_json_file(const std::string& path, std::size_t max_bytes = std::size_t{64} << 20);

/// Typed access with one-sentence errors (Error{kBadInput}): where names the file, key the member.
/// An integer must be an integral token within [min, max].
std::int64_t json_int(const Json& object, std::string_view key, std::string_view where, std::int64_t min,
                      std::int64_t max);
double json_number(const Json& object, std::string_view key, std::string_view where);
bool json_bool(const Json& object, std::string_view key, std::string_view where);
std::string json_string(const Json& object, std::string_view key, std::string_view where);

}  // namespace qalof
