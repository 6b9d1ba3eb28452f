// Strict JSON for files from outside: nlohmann-json driven by a SAX handler that refuses what the
// library accepts: duplicate keys, deep nesting, invalid UTF-8, trailing bytes, numbers that do not
// fit, and documents whose tree would need more memory than their size allows.
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
  /// Bytes that the tree may take beyond the length of its text.
  std::size_t max_extra_bytes = std::size_t{48} << 20;
  /// Longest string or number. The parser's buffers hold several copies of each.
  std::size_t max_token_bytes = std::size_t{4} << 20;
};

/// Parses text; where names the source in messages (a path). Error{kCorruptFile} for bytes that are
/// not valid JSON, integers beyond 64 bits and non-finite numbers included.
Json parse_json(std::string_view text, std::string_view where, const JsonLimits& limits = {});

/// Reads and parses a file of at most max_bytes (Error{kNotFound}, {kCorruptFile}; {kBadInput} for
/// a larger one).
Json read_json_file(const std::string& path, std::size_t max_bytes = std::size_t{64} << 20);

/// Error{kCorruptFile} for text with a NUL byte (nlohmann-json takes it for the end), with a string
/// or number of more than max_token_bytes, or with more than 1 MiB between two of them (the parser
/// would buffer several copies of it). Call it before nlohmann-json's SAX parser; parse_json does.
void check_json_tokens(std::string_view text, std::string_view where, std::size_t max_token_bytes);

/// The text of a tree. Error{kBadInput} where one of its strings is not UTF-8; where names the
/// output.
std::string dump_json(const Json& json, std::string_view where, int indent = -1);

/// Typed access with one-sentence errors (Error{kBadInput}): where names the file, key the member.
/// An integer must be an integral token within [min, max].
std::int64_t json_int(const Json& object, std::string_view key, std::string_view where,
                      std::int64_t min, std::int64_t max);
double json_number(const Json& object, std::string_view key, std::string_view where);
bool json_bool(const Json& object, std::string_view key, std::string_view where);
std::string json_string(const Json& object, std::string_view key, std::string_view where);

}  // namespace qalof
