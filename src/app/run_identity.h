// Files of a run that goes on where it was stopped say which run they are of.
#pragma once

#include <string>

#include "core/json.h"

namespace qalof::app {

/// Error{kUsage} naming the first member of here that is not as there, where two identities differ;
/// path is the file that holds there.
void check_same_run(const Json& there, const Json& here, const std::string& path);

}  // namespace qalof::app
