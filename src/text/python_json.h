// JSON text exactly as Python's json.dumps writes it, so that prediction files are byte-equal.
#pragma once

#include <string>
#include <string_view>

namespace qalof::text {

/// A quoted string, escaped to ASCII (surrogate pairs beyond U+FFFF). text must be UTF-8.
std::string python_json_string(std::string_view text);
/// As float.__repr__: the shortest digits that read back the same; "NaN", "Infinity", "-Infinity".
std::string python_json_float(double value);

}  // namespace qalof::text
