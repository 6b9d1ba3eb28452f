// The format_version that every file written by this project carries, and the refusal of unknown
// ones.
#pragma once

#include <string>

#include "core/json.h"

namespace qalof {

/// The `format_version` of a header. Error{kUnsupported} naming found and known versions where it
/// lies outside first..last, {kBadInput} where it is missing or not an integer.
int read_format_version(const Json& header, const std::string& where, int last, int first);
inline int read_format_version(const Json& header, const std::string& where, int only) {
  return read_format_version(header, where, only, only);
}

}  // namespace qalof
