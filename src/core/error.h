// Throwing the one error type of the project, which include/qalof/error.h defines: the public
// library throws what its parts throw.
//
// Nothing below src/cli prints or exits; src/cli maps kinds to exit codes (docs/architecture.md).
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

#include "qalof/error.h"

namespace qalof {

/// text with control bytes but line ends written as `\xNN`: names from files must neither end a
/// message early nor command a terminal.
std::string printable(const std::string& text);

/// Throws Error{kind} with a formatted sentence.
template <typename... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

/// Checks what comes from a file, a flag or a caller; stays on in release builds. For the program's
/// own logic use assert.
#define QALOF_CHECK(condition, kind, ...)                 \
  do {                                                    \
    if (!(condition)) ::qalof::fail((kind), __VA_ARGS__); \
  } while (false)

}  // namespace qalof
