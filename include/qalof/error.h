// The one exception type of the library, and the kinds by which callers tell errors apart.
//
// A message is one sentence: what, where, found, expected, e.g.
//   configs/mixed.json: modules["h.3.mlp.c_fc"]: bits 9, expected 2..8, 16 or 32
// Where an option is wrong, it has the name that the program `qalof` gives it.
#pragma once

#include <stdexcept>
#include <string>

#include "qalof/export.h"

namespace qalof {

enum class ErrorKind {
  kUsage,        // options contradict themselves or name something unknown
  kNotFound,     // a file, directory or named thing does not exist
  kBadInput,     // a readable file or value with wrong contents
  kCorruptFile,  // a file whose bytes cannot be what its format says
  kUnsupported,  // valid, but not implemented here
  kDiverged,     // NaN or infinity where a number is needed
  kResource,     // memory, disk or permission
  kNetwork,      // network or offline
  kInterrupted,  // SIGINT or SIGTERM was honoured
  kInternal,     // our bug
};

class QALOF_API Error : public std::runtime_error {
 public:
  /// Control bytes of message other than line ends are written as `\xNN`: names from files must
  /// neither end a message early nor command a terminal.
  Error(ErrorKind kind, const std::string& message);
  Error(const Error&) = default;
  Error& operator=(const Error&) = default;
  ~Error() override;

  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace qalof
