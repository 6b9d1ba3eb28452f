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
