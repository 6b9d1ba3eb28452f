// Checks that the files of a resumed run belong to the same run.
#pragma once

#include <string>

#include "core/json.h"

namespace qalof::app {

/// Error{kUsage} where the identity of the current run (here) differs from the stored one (there);
/// names the first member that differs. path: the file that holds the stored one.
void check_same_run(const Json& there, const Json& here, const std::string& path);

}  // namespace qalof::app
