// The one error type of the project.
//
// A message is one sentence: what, where, found, expected, e.g.
//   configs/mixed.json: modules["h.3.mlp.c_fc"]: bits 9, expected 2..8, 16 or 32
// Nothing below src/cli prints or exits; src/cli maps kinds to exit codes (docs/architecture.md).
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace qalof {

enum class ErrorKind {
  kUsage,        // the command line contradicts itself or names something unknown
  kNotFound,     // a file, directory or named thing does not exist
  kBadInput,     // a readable file or value with wrong contents
  kCorruptFile,  // a file whose bytes cannot be what its format says
  kUnsupported,  // valid, but not implemented here
  kDiverged,     // training produced NaN or infinity
  kResource,     // memory, disk or permission
  kNetwork,      // network or offline
  kInterrupted,  // SIGINT or SIGTERM was honoured
  kInternal,     // our bug
};

/// text with every control byte except line ends written as `\xNN`: a name from a file must neither
/// end a message early nor control a terminal.
inline std::string printable(const std::string& text) {
  std::string result;
  result.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte >= 0x20 && byte != 0x7f) || c == '\n') {
      result += c;
    } else {
      result += fmt::format("\\x{:02x}", byte);
    }
  }
  return result;
}

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message)
      : std::runtime_error(printable(message)), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

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
