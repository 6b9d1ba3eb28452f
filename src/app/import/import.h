// qalof import: converts checkpoints of other programs to our directories. A format is recognized
// by its first bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/progress.h"

namespace qalof::app {

struct ImportOptions {
  std::string source;  // a file, or a directory with one, or a name on the hub
  std::string output_dir;
  bool overwrite = false;
  bool bf16 = false;  // of a GGUF file: store bfloat16 instead of f32
};
struct ImportResult {
  std::string format;                    // description of the source's format
  std::string output_dir;                // as given in the options
  std::vector<std::string> directories;  // that were written
  std::uint64_t tensors = 0;             // read
};

/// Error{kUnsupported} for pickled files and unknown formats, {kUsage} where output_dir holds a
/// model or adapters and overwrite is not set; others depend on the format. A failure creates
/// neither qalof.json nor config.json.
ImportResult run_import(const ImportOptions& options, Observer& observer);

}  // namespace qalof::app
