// Standard input: all of it, or lines that a user types, with editing and history on a terminal
// where the program was built with libedit, else as they come.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace qalof::cli {

/// Reads standard input.
class LineInput {
 public:
  virtual ~LineInput() = default;
  /// The next line without its end; nullopt at the end of input. "" where a signal interrupted it.
  virtual std::optional<std::string> next() = 0;
};

/// prompt is shown on a terminal alone.
std::unique_ptr<LineInput> make_line_input(const std::string& prompt);

/// All of standard input.
std::string read_standard_input();

}  // namespace qalof::cli
