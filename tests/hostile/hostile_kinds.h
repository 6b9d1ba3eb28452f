// Every kind of file the program reads, as a tiny sound sample and the call that a command reads it
// with; and the promise that holds for whatever its bytes are.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "core/error.h"
#include "support/temp_dir.h"

namespace qalof::testing {

enum class Format { kJson, kText, kSafetensors };

/// One file of one kind of input.
struct HostileKind {
  const char* name;  // of the test
  Format format;
  std::string file;                                         // the damaged one, below the directory
  std::function<void(const std::string& directory)> write;  // sound files
  std::function<void(const std::string& directory)> load;
};
const std::vector<HostileKind>& hostile_kinds();

/// What reading did.
struct Outcome {
  bool refused = false;
  ErrorKind kind = ErrorKind::kInternal;
  std::string message;
};

/// A directory with the sound files of a kind, one of which tests replace.
class HostileSample {
 public:
  explicit HostileSample(const HostileKind& kind);
  std::string path() const { return dir_.file(kind_.file); }
  const std::string& sound() const { return sound_; }
  void put(const std::string& bytes) const;
  void remove() const;
  /// Reads it and checks the promise: nothing but a qalof::Error whose exit code is 3 and whose one
  /// sentence names the directory; at most max_seconds of CPU time; allocations within the
  /// directory's files and 64 MiB.
  Outcome load(double max_seconds = 1.0) const;

 private:
  HostileKind kind_;
  TempDir dir_;
  std::string sound_;
};

}  // namespace qalof::testing
