#include "text/bpe_tokenizer.h"

#include <algorithm>
#include <queue>

#include "core/error.h"
#include "text/unicode.h"

namespace qalof::text {

namespace {

// Words up to this many symbols are merged by scanning; longer ones by a heap, whose cost grows as n log n.
constexpr std::size_t kScanSymbols = 48;

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

enum class Class { kLetter, kNumber, kSpace, kOther, kEnd };

Class class_at(std::string_view text, std::size_t position, std::size_t* next) {
  if (position >= text.size()) return Class::kEnd;
  *next = position;
  const std::uint32_t point = next_code_point(text, next);
  if (is_letter(point)) return Class::kLetter;
  if (is_number(point)) return Class::kNumber;
  return is_white_space(point) ? Class::kSpace : Class::kOther;
}

// Length of 's 't 're 've 'm 'll 'd at start, or 0.
std::size_t contraction(std::string_view text, std::size_t start) {
  const std::string_view rest = text.substr(start, 3);
  for (const std::string_view form : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (rest.starts_with(form)) return form.size();
  }
  return 0;
}

std::size_t run_end(std::string_view text, std::size_t start, Class wanted) {
  std::size_t next = start;
  while (class_at(text, start, &next) == wanted) start = next;
  return start;
}

}  // namespace

std::size_t next_pre_token(std::string_view text, std::size_t start) {
  if (text[start] == '\'') {
    if (const std::size_t length = contraction(text, start); length > 0) return start + length;
  }
  const std::size_t word = text[start] == ' ' ? start + 1 : start;
  std::size_t next = word;
  const Class kind = class_at(text, word, &next);
  if (kind == Class::kLetter || kind == Class::kNumber || kind == Class::kOther) return run_end(text, next, kind);
  // White space: all of it at the end of the text, else all but the last, which may belong to the next word.
  std::size_t end = start, last = start;
  while (class_at(text, end, &next) == Class::kSpace) {
    last = end;
    end = next;
  }
  return end == text.size() || last == start ? end : last;
}

const BpeTokenizer::Merge* BpeTokenizer::find_merge(std::int32_t left, std::int32_t right) const {
  const auto it = merges_.find(pair_key(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

void BpeTokenizer::encode_word(std::string_view word, std::vector<std::int32_t>* ids) const {
  std::vector<std::int32_t> symbols;
  symbols.reserve(word.size());
  for (const char c : word) symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
  if (symbols.size() > kScanSymbols) {
    encode_long_word(&symbols);
  } else {
    // The lowest rank first, of equal ranks the leftmost.
    while (symbols.size() > 1) {
      const Merge* best = nullptr;
      std::size_t at = 0;
      for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
        const Merge* merge = find_merge(symbols[i], symbols[i + 1]);
        if (merge != nullptr && (best == nullptr || merge->rank < best->rank)) {
          best = merge;
          at = i;
        }
      }
      if (best == nullptr) break;
      symbols[at] = best->id;
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
  }
  ids->insert(ids->end(), symbols.begin(), symbols.end());
}

void BpeTokenizer::encode_long_word(std::vector<std::int32_t>* symbols) const {
  struct Candidate {
    std::uint32_t rank;
    std::uint32_t left;  // position of the left symbol
    std::int32_t left_id, right_id, merged;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  constexpr std::uint32_t kNone = UINT32_MAX;
  const auto n = static_cast<std::uint32_t>(symbols->size());
  std::vector<std::uint32_t> previous(n), next(n);
  std::vector<bool> alive(n, true);
  for (std::uint32_t i = 0; i < n; ++i) {
    previous[i] = i == 0 ? kNone : i - 1;
    next[i] = i + 1 == n ? kNone : i + 1;
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  auto offer = [&](std::uint32_t left) {
    if (left == kNone || next[left] == kNone) return;
    const std::int32_t left_id = (*symbols)[left], right_id = (*symbols)[next[left]];
    if (const Merge* merge = find_merge(left_id, right_id)) queue.push({merge->rank, left, left_id, right_id, merge->id});
  };
  for (std::uint32_t i = 0; i + 1 < n; ++i) offer(i);
  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    const std::uint32_t left = candidate.left;
    if (!alive[left] || next[left] == kNone) continue;
    const std::uint32_t right = next[left];
    // A symbol that has been merged since makes the candidate stale.
    if ((*symbols)[left] != candidate.left_id || (*symbols)[right] != candidate.right_id) continue;
    (*symbols)[left] = candidate.merged;
    alive[right] = false;
    next[left] = next[right];
    if (next[right] != kNone) previous[next[right]] = left;
    offer(previous[left]);
    offer(left);
  }
  std::size_t kept = 0;
  for (std::uint32_t i = 0; i < n; ++i) {
    if (alive[i]) (*symbols)[kept++] = (*symbols)[i];
  }
  symbols->resize(kept);
}

void BpeTokenizer::encode_plain(std::string_view text, std::size_t byte_start, std::vector<std::int32_t>* ids,
                                std::vector<std::size_t>* ends) const {
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t end = next_pre_token(text, start);
    const std::size_t first = ids->size();
    encode_word(text.substr(start, end - start), ids);
    std::size_t at = byte_start + start;
    for (std::size_t i = first; i < ids->size(); ++i) {
      at += pieces_[static_cast<std::size_t>((*ids)[i])].size();
      ends->push_back(at);
    }
    start = end;
  }
}

Encoding BpeTokenizer::encode(std::string_view text, bool parse_special) const {
  const std::size_t invalid = find_invalid_utf8(text);
  QALOF_CHECK(invalid == std::string_view::npos, ErrorKind::kBadInput, "text is not UTF-8 at byte {}", invalid);
  Encoding encoding;
  std::vector<std::size_t> ends;  // byte behind each token
  std::size_t start = 0;
  while (parse_special && !added_.empty()) {
    // The leftmost added token, of those at one place the longest.
    std::size_t at = std::string_view::npos;
    const std::pair<const std::string, std::int32_t>* found = nullptr;
    for (const auto& entry : added_) {
      const std::size_t position = text.find(entry.first, start);
      if (position < at || (found != nullptr && position == at && entry.first.size() > found->first.size())) {
        at = position;
        found = &entry;
      }
    }
    if (found == nullptr) break;
    encode_plain(text.substr(start, at - start), start, &encoding.ids, &ends);
    start = at + found->first.size();
    encoding.ids.push_back(found->second);
    ends.push_back(start);
  }
  encode_plain(text.substr(start), start, &encoding.ids, &ends);

  // Bytes to code points: both advance together.
  encoding.offsets.reserve(ends.size());
  std::size_t byte = 0, point_start = 0;
  std::uint32_t point = 0;  // index of the code point that begins at point_start
  auto point_of_byte = [&](std::size_t position) {
    while (true) {
      std::size_t next = point_start;
      next_code_point(text, &next);
      if (next > position) return point;
      point_start = next;
      ++point;
    }
  };
  for (std::size_t i = 0; i < ends.size(); ++i) {
    std::uint32_t first = point_of_byte(byte);
    std::uint32_t last = point_of_byte(ends[i] - 1) + 1;
    if (trim_offsets_) {
      const std::string& piece = pieces_[static_cast<std::size_t>(encoding.ids[i])];
      const auto spaces = static_cast<std::uint32_t>(std::min(piece.find_first_not_of(' '), piece.size()));
      const auto trailing = static_cast<std::uint32_t>(piece.size() - 1 - std::min(piece.find_last_not_of(' '), piece.size() - 1));
      first = std::min(first + spaces, last);
      if (last >= trailing + first) last = std::max(last - trailing, first);
    }
    encoding.offsets.emplace_back(first, last);
    byte = ends[i];
  }
  return encoding;
}

std::string BpeTokenizer::decode(const std::vector<std::int32_t>& ids) const {
  std::string bytes;
  for (const std::int32_t id : ids) {
    QALOF_CHECK(id >= 0 && static_cast<std::size_t>(id) < pieces_.size(), ErrorKind::kBadInput,
                "token id {}, the vocabulary has 0..{}", id, pieces_.size() - 1);
    bytes += pieces_[static_cast<std::size_t>(id)];
  }
  return bytes;
}

}  // namespace qalof::text
