// How GGUF files store numbers: the types by name, and blocks of them to f32
// (docs/file_formats.md, "GGUF"). Not for writing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace qalof::io {

/// The types that are read, with the numbers of the format.
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

/// What a type stores of a row: blocks of so many elements, of so many bytes.
struct GgufBlock {
  GgufType type;
  std::size_t elements, bytes;
};
/// The block of a type by its number in a file; null where it is not read.
const GgufBlock* gguf_block(std::uint32_t type);
/// "Q6_K", also of types that are not read; "number 99" where the format names none.
std::string gguf_type_name(std::uint32_t type);
/// The names of all types that are read: "F32, F16, ...".
std::string gguf_types_read();

/// Whole blocks as f32, bit-equal to the reference of the format: products and sums in its order,
/// each rounded once. bytes and dst are of the same number of blocks.
void blocks_as_f32(GgufType type, std::span<const std::byte> bytes, std::span<float> dst);

}  // namespace qalof::io
