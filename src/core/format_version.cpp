// Reads a format_version and words its refusal.
#include "core/format_version.h"

#include <fmt/format.h>

#include "core/error.h"

namespace qalof {

int read_format_version(const Json& header, const std::string& where, int last, int first) {
  const auto version = static_cast<int>(json_int(header, "format_version", where, 0, 1'000'000));
  const std::string known =
      first == last ? std::to_string(last) : fmt::format("{} to {}", first, last);
  QALOF_CHECK(first <= version && version <= last, ErrorKind::kUnsupported,
              "{}: format_version {}, this program reads {}; {} qalof wrote it", where, version,
              known, version > last ? "a newer" : "an older");
  return version;
}

}  // namespace qalof
