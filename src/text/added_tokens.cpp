// Narrows a sorted list of patterns byte by byte at each place where one may begin.
#include "text/added_tokens.h"

#include <algorithm>

#include "text/unicode.h"

namespace qalof::text {

namespace added_tokens {

// \w of Rust's regex.
bool is_word(std::uint32_t point) {
  static const std::uint32_t categories = category_bits("L") | category_bits("M") |
                                          category_bits("Nd") | category_bits("Nl") |
                                          category_bits("Pc");
  const bool is_circled_letter =
      (point >= 0x24b6 && point <= 0x24e9) || (point >= 0x1f130 && point <= 0x1f149) ||
      (point >= 0x1f150 && point <= 0x1f169) || (point >= 0x1f170 && point <= 0x1f189);
  const bool is_joiner = point == 0x200c || point == 0x200d;
  return is_circled_letter || is_joiner ||
         (categories >> static_cast<std::uint32_t>(find_category(point)) & 1U) != 0;
}

bool stands_alone(std::string_view text, std::size_t start, std::size_t end) {
  if (start > 0) {
    std::size_t before = previous_code_point(text, start);
    if (is_word(next_valid_code_point(text, &before))) return false;
  }
  return end == text.size() || !is_word(next_valid_code_point(text, &end));
}

std::size_t space_start(std::string_view text, std::size_t end) {
  while (end > 0) {
    const std::size_t before = previous_code_point(text, end);
    std::size_t at = before;
    if (!is_white_space(next_valid_code_point(text, &at))) break;
    end = before;
  }
  return end;
}

std::size_t space_end(std::string_view text, std::size_t start) {
  while (start < text.size()) {
    std::size_t next = start;
    if (!is_white_space(next_valid_code_point(text, &next))) break;
    start = next;
  }
  return start;
}

}  // namespace added_tokens

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens,
                                     std::vector<std::string> contents) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (!tokens[i].is_special) ++num_plain_;
    if (!contents[i].empty()) patterns_.push_back({std::move(contents[i]), std::move(tokens[i])});
  }
  std::ranges::stable_sort(patterns_, [](const Pattern& a, const Pattern& b) {
    const int order = a.content.compare(b.content);
    return order != 0 ? order < 0 : a.token.is_special && !b.token.is_special;
  });
  const auto same = [](const Pattern& a, const Pattern& b) { return a.content == b.content; };
  patterns_.erase(std::unique(patterns_.begin(), patterns_.end(), same), patterns_.end());
  for (const Pattern& pattern : patterns_)
    ++first_byte_[static_cast<unsigned char>(pattern.content[0]) + 1U];
  for (std::size_t byte = 1; byte < first_byte_.size(); ++byte)
    first_byte_[byte] += first_byte_[byte - 1];
}

AddedTokenMatcher::Found AddedTokenMatcher::find(std::string_view text, std::size_t from) const {
  for (std::size_t start = from; start < text.size(); ++start) {
    const auto byte = static_cast<unsigned char>(text[start]);
    auto low = patterns_.begin() + first_byte_[byte];
    auto high = patterns_.begin() + first_byte_[byte + 1U];
    const Pattern* longest = nullptr;
    for (std::size_t depth = 1; low < high; ++depth) {
      if (low->content.size() == depth) longest = &*low++;
      if (start + depth >= text.size()) break;
      const auto next = static_cast<unsigned char>(text[start + depth]);
      const auto byte_at = [&](const Pattern& pattern) {
        return static_cast<unsigned char>(pattern.content[depth]);
      };
      low = std::ranges::lower_bound(low, high, next, {}, byte_at);
      high = std::ranges::upper_bound(low, high, next, {}, byte_at);
    }
    if (longest != nullptr) return {longest, start};
  }
  return {};
}

void AddedTokenMatcher::split(std::string_view text, bool parse_special,
                              const TakePart& take) const {
  std::size_t done = 0;
  for (std::size_t from = 0;;) {
    const auto [pattern, found_at] = find(text, from);
    if (pattern == nullptr) break;
    std::size_t start = found_at;
    std::size_t end = start + pattern->content.size();
    from = end;
    const AddedToken& token = pattern->token;
    if (token.is_special && !parse_special) continue;
    if (token.is_single_word && !added_tokens::stands_alone(text, start, end)) continue;
    if (token.strips_left)
      start = std::max(added_tokens::space_start(text.substr(0, start), start), done);
    if (token.strips_right) end = added_tokens::space_end(text, end);
    if (done < start) take(done, start, kPlain);
    take(start, end, token.id);
    done = end;
  }
  if (done != text.size()) take(done, text.size(), kPlain);
}

}  // namespace qalof::text
