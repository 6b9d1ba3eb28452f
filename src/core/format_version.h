// What every file of ours says of its form, and the one sentence that refuses another.
#pragma once

#include <string>

#include "core/json.h"

namespace qalof {

/// The `format_version` of a header. Error{kUnsupported} naming both where it does not lie in
/// first..last, {kBadInput} where it is missing or no integer.
int read_format_version(const Json& header, const std::string& where, int last, int first);
inline int read_format_version(const Json& header, const std::string& where, int only) {
  return read_format_version(header, where, only, only);
}

}  // namespace qalof
