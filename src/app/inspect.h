// qalof inspect: lists the contents of a model directory, packed file, adapter directory or
// safetensors file.
#pragma once

#include <cstdint>
#include <string>

#include "core/json.h"

namespace qalof::app {

struct InspectedTensor {
  std::string name, dtype;
  std::vector<std::size_t> shape;
  std::uint64_t bytes = 0;
  int bits = 0;  // nominal bits per element, e.g. 3 for codes in a 4-bit container
  int stored_bits = 0;
};
struct InspectResult {
  std::string kind;  // "model directory", "packed file", "adapter directory", "peft adapter",
                     // "safetensors file"
  std::vector<InspectedTensor> tensors;
  /// One width of a packed file's linears, or of its LM head: codes, scales, sums and zero points.
  struct Width {
    int bits = 0;         // nominal
    int stored_bits = 0;  // of a code
    std::uint64_t bytes = 0;
    double bits_per_weight = 0;  // scales, sums and zero points included
  };
  std::string scheme;  // of a packed file
  std::vector<Width> widths, lm_head;
  Json details;  // config, plan, adapters as stored
  std::uint64_t bytes = 0;
};
/// Reads the file or directory. Error{kNotFound} where the path does not exist, {kBadInput} for a
/// directory of no known kind, {kCorruptFile} for damage.
InspectResult run_inspect(const std::string& path);

}  // namespace qalof::app
