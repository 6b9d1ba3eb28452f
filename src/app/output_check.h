// Outputs that would replace what is read.
#pragma once

#include <string>
#include <vector>

namespace qalof::app {

/// Error{kUsage} where output is one of inputs, or one of the files (weights, JSON, text) in a
/// directory among them or one level below, by whatever names. Empty names and what is not there
/// are passed over.
void check_output_is_no_input(const std::string& output, const std::vector<std::string>& inputs);

}  // namespace qalof::app
