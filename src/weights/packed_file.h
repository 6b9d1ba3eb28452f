// The packed file: one self-contained safetensors file with a model at chosen widths (config,
// tokenizer, plan, adapters, heads).
//
// Linear weights are stored as the panels the kernels read (kernels/gemm.h), so opening is mapping:
// nothing is repacked. A crc32c per tensor is checked before the tensor is first used. Format:
// docs/file_formats.md, "Packed file".
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quant/plan.h"
#include "weights/adapter.h"
#include "weights/base_model.h"

namespace qalof::weights {

/// What to pack.
struct PackRequest {
  std::shared_ptr<const BaseModel> base;
  std::shared_ptr<const AdapterSet> adapters;  // may be null
  std::vector<int> widths;                     // 2..8; every linear is stored at each
  std::optional<quant::PlanSpec>
      plan;  // instead of widths: each linear at the plan's width; active by default
  std::string tokenizer_directory;     // whose tokenizer files are stored too
  quant::QuantScheme scheme = {};      // of every linear; a plan must have the same
  std::vector<int> lm_head_bits = {};  // widths of the LM head to store: 4, 8, 16, 32
  std::string method = "";             // post-training method that made base, e.g. "gptq"
  /// Called before the first linear and after each; may be empty.
  std::function<void(std::size_t done, std::size_t total)> on_linear = {};
};

struct PackSummary {
  std::uint64_t bytes = 0;    // of the file
  std::uint64_t weights = 0;  // number of weights of the linears
  double bits_per_weight =
      0;  // stored bits of the linears' codes, scales and sums per weight, all widths together
  struct Width {
    int bits;  // nominal
    // 2, 3, 4 or 8; of an LM head 16 or 32, too. Fewer than bits where codes are nested: the rest
    // of each code is that of the next lower width.
    int container_bits;
    std::uint64_t bytes;
  };
  std::vector<Width> widths;   // of the linears
  std::vector<Width> lm_head;  // the first is the one that runs by default
};

/// Writes a packed file atomically: at any time the path holds the old file or the new one, whole.
/// Throws Error{kUsage} or {kUnsupported} for a request that cannot be packed.
PackSummary write_packed_file(const std::string& path, const PackRequest& request,
                              ParallelFor& parallel);

/// A packed file, opened.
struct PackedModel {
  std::shared_ptr<const BaseModel> base;
  std::shared_ptr<const AdapterSet> adapters;  // null where it holds none
  quant::PlanSpec plan;                        // active by default; holds the file's scheme
  std::map<std::string, std::string> files;    // tokenizer files by name
  std::string method;                          // as PackRequest's; "" where the file names none
  std::vector<int> lm_head_bits;               // stored LM heads, the default first; may be empty
  bool has_adapter_weights = false;            // weights depend on its adapters: no others fit
};

/// True where path is a regular file that begins with a safetensors header that holds
/// kPackedMetadataKey. Never throws.
bool is_packed_file(const std::string& path);
/// Verifies what every plan needs (embeddings, norms, adapters, tokenizer) on the threads of
/// parallel; weights and LM heads are verified when a width is first used. Throws
/// Error{kCorruptFile} for damage, {kUnsupported} for an unknown format_version or scheme.
PackedModel open_packed_file(const std::string& path, ParallelFor& parallel);
/// open_packed_file on the calling thread alone.
PackedModel open_packed_file(const std::string& path);

}  // namespace qalof::weights
