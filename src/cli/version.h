// The program's name and version as --version prints them.
#pragma once

#include <string>

namespace qalof::cli {

/// "qalof 0.1.0" with the instruction set in use.
std::string version_text();

}  // namespace qalof::cli
