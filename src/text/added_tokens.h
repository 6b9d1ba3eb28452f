// Finds the added tokens of tokenizer.json in a text: leftmost, then longest, as `tokenizers` does.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace qalof::text {

struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool is_special = true;
  bool is_normalized = false;   // matched in normalized text
  bool strips_left = false;     // takes the white space before it too
  bool strips_right = false;    // and after it
  bool is_single_word = false;  // not directly beside a letter, a number or the like
};

/// Immutable: threads may share it.
class AddedTokenMatcher {
 public:
  static constexpr std::int32_t kPlain = -1;
  /// bytes start .. end of the text are a token, or plain text where id is kPlain.
  using TakePart = std::function<void(std::size_t start, std::size_t end, std::int32_t id)>;

  AddedTokenMatcher() = default;
  /// contents: what to match, for each of tokens; of equal ones the first counts. Special tokens
  /// win over others.
  AddedTokenMatcher(std::vector<AddedToken> tokens, std::vector<std::string> contents);

  /// True where no text holds a token.
  bool is_empty(bool parse_special) const {
    return parse_special ? patterns_.empty() : num_plain_ == 0;
  }
  /// Cuts text, which is UTF-8; special tokens are plain text unless parse_special is set.
  void split(std::string_view text, bool parse_special, const TakePart& take) const;

 private:
  struct Pattern {
    std::string content;
    AddedToken token;
  };
  struct Found {
    const Pattern* pattern = nullptr;
    std::size_t start = 0;
  };
  Found find(std::string_view text, std::size_t from) const;

  std::vector<Pattern> patterns_;                // sorted by content
  std::array<std::uint32_t, 257> first_byte_{};  // patterns that begin with a byte: from, to
  std::size_t num_plain_ = 0;                    // tokens that are not special
};

}  // namespace qalof::text
