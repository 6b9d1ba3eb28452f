// UTF-8 decoding and character classes, with Python's str rules where the metric needs them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace qalof::text {

/// Decodes one code point at position and moves position past it; where the bytes are not UTF-8
/// (including overlong forms, surrogates and points beyond U+10FFFF), returns kInvalidCodePoint and
/// moves position by one byte. position must be inside text.
std::uint32_t next_code_point(std::string_view text, std::size_t* position);
inline constexpr std::uint32_t kInvalidCodePoint = 0xffffffffU;
/// The same for text that is known to be UTF-8, which is not checked again.
inline std::uint32_t next_valid_code_point(std::string_view text, std::size_t* position) {
  const auto byte = [&](std::size_t i) {
    return static_cast<std::uint32_t>(static_cast<unsigned char>(text[*position + i]));
  };
  const std::uint32_t lead = byte(0);
  std::uint32_t point = lead;
  std::size_t length = 1;
  if (lead >= 0xf0) {
    point =
        (lead & 0x07U) << 18 | (byte(1) & 0x3fU) << 12 | (byte(2) & 0x3fU) << 6 | (byte(3) & 0x3fU);
    length = 4;
  } else if (lead >= 0xe0) {
    point = (lead & 0x0fU) << 12 | (byte(1) & 0x3fU) << 6 | (byte(2) & 0x3fU);
    length = 3;
  } else if (lead >= 0x80) {
    point = (lead & 0x1fU) << 6 | (byte(1) & 0x3fU);
    length = 2;
  }
  *position += length;
  return point;
}
/// Start of the code point that ends before position, which is not 0; text is UTF-8.
inline std::size_t previous_code_point(std::string_view text, std::size_t position) {
  --position;
  while (position > 0 && (static_cast<unsigned char>(text[position]) & 0xc0U) == 0x80U) --position;
  return position;
}

bool is_ascii(std::string_view text);
/// Byte offset of the first invalid byte, or npos.
std::size_t find_invalid_utf8(std::string_view text);
/// Error{kind} where text, the whole of a file or a flag's value, is not UTF-8; where names it.
void check_utf8(std::string_view text, const std::string& where,
                ErrorKind kind = ErrorKind::kBadInput);
void append_utf8(std::uint32_t code_point, std::string* text);
/// Code points of valid UTF-8.
std::vector<std::uint32_t> to_code_points(std::string_view text);
/// Byte offset of every code point, and text.size() at the end: [number of code points + 1].
std::vector<std::size_t> code_point_offsets(std::string_view text);
std::size_t count_code_points(std::string_view text);

/// General categories by their two letters, in the order of the generated tables.
enum class Category : std::uint8_t {
  kLu,
  kLl,
  kLt,
  kLm,
  kLo,
  kMn,
  kMc,
  kMe,
  kNd,
  kNl,
  kNo,
  kPc,
  kPd,
  kPs,
  kPe,
  kPi,
  kPf,
  kPo,
  kSm,
  kSc,
  kSk,
  kSo,
  kZs,
  kZl,
  kZp,
  kCc,
  kCf,
  kCs,
  kCo,
  kCn
};
inline constexpr std::size_t kNumCategories = 30;
Category find_category(std::uint32_t code_point);
/// Bits 1 << Category of the categories whose names begin with prefix ("L", "Lu"); 0 where there
/// are none.
std::uint32_t category_bits(std::string_view prefix);

bool is_letter(std::uint32_t code_point);        // \p{L}
bool is_number(std::uint32_t code_point);        // \p{N}
bool is_white_space(std::uint32_t code_point);   // White_Space
bool is_python_space(std::uint32_t code_point);  // what str.split() splits at
bool is_python_word(std::uint32_t code_point);   // \w of Python's re

/// Python's str.lower(): full mapping, U+0130 and the final sigma included.
std::string python_lower(std::string_view text);
/// text without leading white space, as str.lstrip().
std::string_view python_lstrip(std::string_view text);

}  // namespace qalof::text
