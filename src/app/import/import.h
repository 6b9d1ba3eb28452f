// qalof import: checkpoints of other programs to our directories. What a file is, is told by its
// first bytes, never by its name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/progress.h"

namespace qalof::app {

struct ImportOptions {
  std::string source;  // a file, or a directory that holds one
  std::string output_dir;
  bool overwrite = false;
  bool bf16 = false;  // of a GGUF file: store bfloat16 instead of f32
};
struct ImportResult {
  std::string format;                    // what the source was, in words
  std::string output_dir;                // as asked for
  std::vector<std::string> directories;  // written, with what they are
  std::uint64_t tensors = 0;             // read
};

/// Error{kUnsupported} for pickled files and what is not known, {kUsage} where output_dir holds a
/// model or adapters and overwrite is not set; else as the formats say. A failure leaves no
/// qalof.json and no config.json behind that were not there before.
ImportResult run_import(const ImportOptions& options, Observer& observer);

}  // namespace qalof::app
