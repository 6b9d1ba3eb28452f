// How the codes and floats of a weight lie in packed storage: panels of 16 output rows, equal for
// every instruction set. Plain data, so that files of one instruction set may include it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qalof::kernels {

inline constexpr std::size_t kPanelRows = 16;

/// Layouts of panels, rows and k padded with zeros (n up to 16, k as stated):
///   kF32  [n/16][k][16]        f32
///   kNarrowF32 [k][8]          f32, n at most 8: adapters of low rank
///   kBf16 [n/16][k/2][16][2]   u16, k padded to 2
///   kInt8 [n/16][k/4][16][4]   s8, k padded to 4
/// Fewer bits are stored as u = code + offset (code_layout), in bytes that hold the k of b, b + 4,
/// b + 8, ... of a unit, b in 0..3; padding is code 0:
///
///   kInt4 [n/16][k/8][16][4]
///       byte b: u of k0 + b in the low nibble, of k0 + 4 + b in the high one
///
///   kInt2 [n/16][k/16][16][4]
///       byte b, from the low bits up: u of k0 + b, k0 + 4 + b, k0 + 8 + b, k0 + 12 + b
///
///   kInt3 [n/16][k/32][3][16][4]
///       byte b of part P = 0, 1, 2: in bits 0..2 and 3..5 u of k0 + 12 P + b and k0 + 12 P + 4 +
///       b; in bits 6..7 of parts 0 and 1 the low bits of u of k0 + 12 P + 8 + b, whose high bit is
///       bit 6 + P of part 2
enum class WeightFormat { kF32, kNarrowF32, kBf16, kInt8, kInt4, kInt3, kInt2 };

/// How an integer format stores codes; bits is 0 for floats.
struct CodeLayout {
  int bits = 0;
  int offset = 0;           // u = code + offset is stored; 0: the code itself, signed
  std::size_t columns = 0;  // k of a unit, to which k is padded; groups are multiples of it
  std::size_t bytes = 0;    // of a unit, all 16 rows
};
constexpr CodeLayout code_layout(WeightFormat format) {
  switch (format) {
    case WeightFormat::kInt8:
      return {8, 0, 4, 64};
    case WeightFormat::kInt4:
      return {4, 8, 8, 64};
    case WeightFormat::kInt3:
      return {3, 4, 32, 192};
    case WeightFormat::kInt2:
      return {2, 2, 16, 64};
    default:
      return {};
  }
}
constexpr bool is_integer(WeightFormat format) { return code_layout(format).bits != 0; }

/// Where the code of a column lies in a panel, for row 0; row r is 4 r bytes further:
/// u = byte[at] >> shift & mask, and, where high_mask is 1, (byte[high_at] >> high_shift & 1) << 2.
struct CodePlace {
  std::size_t at = 0;
  int shift = 0, mask = 255;
  std::size_t high_at = 0;
  int high_shift = 0, high_mask = 0;
};
constexpr CodePlace code_place(WeightFormat format, std::size_t column) {
  const CodeLayout layout = code_layout(format);
  const std::size_t base = column / layout.columns * layout.bytes + column % 4;
  const std::size_t step = column % layout.columns / 4;
  if (format == WeightFormat::kInt8) return {base};
  if (format != WeightFormat::kInt3)
    return {base, layout.bits * static_cast<int>(step), (1 << layout.bits) - 1};
  const std::size_t part = step / 3;
  const int turn = static_cast<int>(step % 3);
  if (turn < 2) return {base + 64 * part, 3 * turn, 7};
  return {base + 64 * part, 6, 3, base + 128, 6 + static_cast<int>(part), 1};
}

/// The u of a row at a place of its panel.
constexpr int stored_code(const std::uint8_t* panel, const CodePlace& place, std::size_t row) {
  const int low = panel[place.at + 4 * row] >> place.shift & place.mask;
  if (place.high_mask == 0) return low;
  return low | (panel[place.high_at + 4 * row] >> place.high_shift & place.high_mask) << 2;
}

}  // namespace qalof::kernels
