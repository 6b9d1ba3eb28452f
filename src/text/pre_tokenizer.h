// Splits text into words before byte-level merges.
#pragma once

#include <cstddef>
#include <string_view>

namespace qalof::text {

enum class PreTokenizer {
  /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
  kGpt2,
  /// Each `\p{N}` is a pre-token; the text between them is split as in kGpt2, each piece on its
  /// own.
  kDigits,
  /// kLlama3Pattern.
  kLlama3,
};

inline constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";

/// End of the pre-token that begins at start, which is before the end of text. text is UTF-8.
std::size_t next_pre_token(std::string_view text, std::size_t start,
                           PreTokenizer kind = PreTokenizer::kGpt2);

/// Qwen2's: Llama 3's, but each number is a pre-token.
inline constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";

/// The same for kQwen2Pattern.
std::size_t next_qwen2_pre_token(std::string_view text, std::size_t start);

}  // namespace qalof::text
