// Texts as documents and their tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "text/text_encoder.h"

namespace qalof::tasks {

/// The largest text that is scored or calibrated on.
inline constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;

/// The documents of a text: all of it, or with line_by_line its lines.
std::vector<std::string_view> split_documents(std::string_view text, bool line_by_line);
/// Of a document with what the tokenizer's template adds; none of an empty one.
std::vector<std::int32_t> document_tokens(const text::TextEncoder& encoder,
                                          std::string_view document);

}  // namespace qalof::tasks
