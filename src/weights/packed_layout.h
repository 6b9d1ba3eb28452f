// Version, keys and tensor names of a packed file, shared by its writer, its reader and `inspect`
// (docs/file_formats.md, "Packed file").
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/gemm.h"

namespace qalof::weights {

/// The newest version this build reads. Version 1 had scheme minmax only and no separate LM head.
/// Version 3 is written where the weights depend on adapters, version 4 where 2 or 3 bits are
/// stored, which lay in containers of 4 bits before, or nested codes.
inline constexpr int kPackedVersion = 4;
inline constexpr const char* kPackedMetadataKey = "qalof.packed";
inline constexpr const char* kLmHead = "lm_head";
/// Part of the 8-bit tensors of nested codes: what the 4-bit codes leave.
inline constexpr const char* kLowPanels = "low_panels";
/// Metadata key; true for a model that has no LM head.
inline constexpr const char* kNoLmHeadKey = "no_lm_head";
/// Tensors begin at multiples of this many bytes, so that no vector of a panel spans two cache
/// lines.
inline constexpr std::size_t kPackedAlignment = 64;
inline constexpr std::array kTokenizerFiles = {
    "tokenizer.json",          "vocab.json",         "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja"};

/// The width whose form a width is stored in, in a file of a version: 8 for 5..8, itself for fewer
/// bits (before version 4 at least 4) and for floats.
constexpr int container_bits(int bits, int version = kPackedVersion) {
  if (bits > 4) return bits <= 8 ? 8 : bits;
  return version < 4 ? 4 : bits;
}

/// Prefix of the tensors of a matrix (a linear or kLmHead) at a width: "h.0.attn.c_attn.w4.".
std::string width_prefix(const std::string& matrix, int bits);
/// The parts of a tensor name width_prefix(matrix, bits) + part, where part is "panels", "scales"
/// and so on.
struct WidthTensor {
  std::string_view matrix;
  int bits = 0;
  std::string_view part;
};
/// Parses such a name; nothing for other tensors.
std::optional<WidthTensor> parse_width_tensor(std::string_view name);

/// Shape of the stored values per row and group, ordered as by kernels::pack_groups.
inline std::vector<std::size_t> grouped_shape(std::size_t n, std::size_t groups) {
  constexpr std::size_t kRows = kernels::kPanelRows;
  return {(n + kRows - 1) / kRows, groups, kRows};
}

}  // namespace qalof::weights
