// The packed file: one self-contained safetensors file with a model at chosen widths (config,
// tokenizer, plan, adapters, heads).
//
// Linear weights lie as the panels the kernels read (kernels/gemm.h), so opening is mapping:
// nothing is repacked. A crc32c per tensor is checked before the tensor is first used. Bytes:
// docs/file_formats.md, "Packed file".
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quant/plan.h"
#include "runtime/adapter.h"
#include "runtime/base_model.h"

namespace qalof::runtime {

/// What to pack.
struct PackRequest {
  std::shared_ptr<const BaseModel> base;
  std::shared_ptr<const AdapterSet> adapters;  // may be null
  std::vector<int> widths;                     // 2..8, every linear is stored at each
  std::optional<quant::PlanSpec>
      plan;  // instead of widths: each linear at the plan's width; active by default
  std::string tokenizer_directory;  // its tokenizer files are stored too
};

struct PackSummary {
  std::uint64_t bytes = 0;    // of the file
  std::uint64_t weights = 0;  // elements of the linears
  double bits_per_weight =
      0;  // stored bits of the linears' codes, scales and sums per weight, all widths together
  struct Width {
    int bits;            // nominal
    int container_bits;  // 4 or 8
    std::uint64_t bytes;
  };
  std::vector<Width> widths;
};

/// Writes a packed file; old or new, never half.
PackSummary write_packed_file(const std::string& path, const PackRequest& request,
                              ParallelFor& parallel);

/// A packed file, opened.
struct PackedModel {
  std::shared_ptr<const BaseModel> base;
  std::shared_ptr<const AdapterSet> adapters;  // null where it holds none
  quant::PlanSpec plan;                        // active by default
  std::map<std::string, std::string> files;    // tokenizer files by name
};

/// True where path is a regular file that begins as a packed file does: a safetensors header with
/// our key in its first bytes. Never throws.
bool is_packed_file(const std::string& path);
/// Throws Error{kCorruptFile} for damage, {kUnsupported} for an unknown format_version.
PackedModel open_packed_file(const std::string& path);

}  // namespace qalof::runtime
