// Text on its way through normalizers and pre-tokenizers, with the part of the original text that
// each byte stands for, by the rules of `tokenizers`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/unicode.h"

namespace qalof::text {

/// Bytes [start, end) of the original text.
struct SourceSpan {
  std::uint32_t start, end;
  friend bool operator==(const SourceSpan&, const SourceSpan&) = default;
};

/// A view. Where spans is null, the bytes are those of the original text from start on; else each
/// byte has its own span, equal within a code point.
struct TextPiece {
  std::string_view text;
  std::size_t start = 0;
  const SourceSpan* spans = nullptr;

  TextPiece part(std::size_t first, std::size_t last) const {
    return {text.substr(first, last - first), start + first,
            spans == nullptr ? nullptr : spans + first};
  }
  /// What bytes first .. last stand for; first < last.
  SourceSpan source(std::size_t first, std::size_t last) const {
    if (spans != nullptr) return {spans[first].start, spans[last - 1].end};
    return {static_cast<std::uint32_t>(start + first), static_cast<std::uint32_t>(start + last)};
  }
  /// What the code point that begins at byte at stands for.
  SourceSpan source_of_point(std::size_t at) const {
    std::size_t next = at;
    next_valid_code_point(text, &next);
    return source(at, next);
  }
};

/// Owns a changed text. It must not move while pieces of it are in use.
class TextBuffer {
 public:
  /// Appends bytes that all stand for span.
  void append(std::string_view text, SourceSpan span) {
    text_ += text;
    spans_.insert(spans_.end(), text.size(), span);
  }
  /// Appends bytes first .. last of piece as they are; both lie between code points.
  void append(const TextPiece& piece, std::size_t first, std::size_t last) {
    text_ += piece.text.substr(first, last - first);
    if (piece.spans != nullptr) {
      spans_.insert(spans_.end(), piece.spans + first, piece.spans + last);
      return;
    }
    for (std::size_t at = first; at < last;) {
      std::size_t next = at;
      next_valid_code_point(piece.text, &next);
      spans_.insert(spans_.end(), next - at, piece.source(at, next));
      at = next;
    }
  }
  TextPiece piece() const { return {text_, 0, spans_.data()}; }
  void reserve(std::size_t bytes) {
    text_.reserve(bytes);
    spans_.reserve(bytes);
  }

 private:
  std::string text_;
  std::vector<SourceSpan> spans_;
};

}  // namespace qalof::text
