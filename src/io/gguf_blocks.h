// Number formats of GGUF files: types by name, and conversion of their blocks to f32
// (docs/file_formats.md, "GGUF"). Not for writing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace qalof::io {

/// The types that can be read, with the format's own numbers.
enum class GgufType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ4_NL = 20,
  kIQ4_XS = 23,
  kBF16 = 30
};

/// Storage of a type: rows are blocks of `elements` elements in `bytes` bytes.
struct GgufBlock {
  GgufType type;
  std::size_t elements, bytes;
};
/// The block of a type by its number in a file; null where the type cannot be read.
const GgufBlock* gguf_block(std::uint32_t type);
/// "Q6_K", also for known types that cannot be read; "number 99" where the format names none.
std::string gguf_type_name(std::uint32_t type);
/// The names of all types that can be read: "F32, F16, ...".
std::string gguf_types_read();

/// Converts whole blocks to f32, bit-equal to the format's reference code: same order of products
/// and sums, each rounded once. bytes and dst hold the same number of blocks.
void blocks_as_f32(GgufType type, std::span<const std::byte> bytes, std::span<float> dst);

}  // namespace qalof::io
