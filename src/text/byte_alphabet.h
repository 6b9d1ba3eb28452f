// GPT-2's byte alphabet: in byte-level vocabularies printable bytes stand for themselves, the
// others are written as U+0100 and up.
#pragma once

#include <array>
#include <string>
#include <string_view>

namespace qalof::text {

/// How each byte is written, in UTF-8.
const std::array<std::string, 256>& byte_alphabet();
/// Decodes a token written in the alphabet; false where a character is not in it.
bool from_byte_alphabet(std::string_view written, std::string* bytes);

}  // namespace qalof::text
