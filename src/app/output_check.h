// Refuses outputs that would overwrite an input.
#pragma once

#include <string>
#include <vector>

namespace qalof::app {

/// Error{kUsage} where output is the same file as one of inputs, or as a file (weights, JSON, text)
/// in a directory among them or one level below, under any name. Empty and missing paths are
/// skipped.
void check_output_is_no_input(const std::string& output, const std::vector<std::string>& inputs);

}  // namespace qalof::app
