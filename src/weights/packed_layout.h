// Names and numbers of a packed file that its writer, its reader and `inspect` share
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

/// Version 1 knew scheme seed alone, and no LM head of its own. Version 3 is written where weights
/// are those of adapters.
inline constexpr int kPackedVersion = 3;
inline constexpr const char* kPackedMetadataKey = "qalof.packed";
inline constexpr const char* kLmHead = "lm_head";
/// In the metadata of a model that has no LM head, true.
inline constexpr const char* kNoLmHeadKey = "no_lm_head";
/// Where tensors begin is a multiple of this, so that no vector of a panel spans two cache lines.
inline constexpr std::size_t kPackedAlignment = 64;
inline constexpr std::array kTokenizerFiles = {"tokenizer.json", "vocab.json", "merges.txt",
                                               "tokenizer_config.json", "special_tokens_map.json"};

/// Bits that a code of a width takes: 4 for 2..4, 8 for 5..8; other widths are themselves.
constexpr int container_bits(int bits) { return bits <= 4 ? 4 : bits <= 8 ? 8 : bits; }

/// "h.0.attn.c_attn.w4." of a linear or of kLmHead.
std::string width_prefix(const std::string& matrix, int bits);
/// The parts of such a name with "panels" or the like behind it; nothing for other tensors.
struct WidthTensor {
  std::string_view matrix;
  int bits = 0;
  std::string_view part;
};
std::optional<WidthTensor> parse_width_tensor(std::string_view name);

/// Shape of values per row and group in the order of kernels::pack_groups.
inline std::vector<std::size_t> grouped_shape(std::size_t n, std::size_t groups) {
  constexpr std::size_t kRows = kernels::kPanelRows;
  return {(n + kRows - 1) / kRows, groups, kRows};
}

}  // namespace qalof::weights
