// Small pieces of text and JSON that several commands print alike.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <vector>

#include "app/model_handle.h"
#include "cli/command_line.h"
#include "runtime/profile.h"

namespace qalof::cli {

/// "1.2 MB", "340 B"; decimal units.
std::string bytes_text(std::uint64_t bytes);
/// Columns padded to their widest cell; the first row is the header. Columns named in right are
/// right-aligned.
std::string table_text(const std::vector<std::vector<std::string>>& rows,
                       const std::vector<std::size_t>& right);
/// One line per operation, slowest first.
std::string profile_text(const runtime::Profile& profile);
Json profile_json(const runtime::Profile& profile);

}  // namespace qalof::cli
