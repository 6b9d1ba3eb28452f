// Byte-level BPE encoding: added tokens, merges (by scanning, or by a heap for long words) and
// code-point offsets.
#include "text/bpe_tokenizer.h"

#include <algorithm>
#include <queue>

#include "core/error.h"
#include "text/unicode.h"

namespace qalof::text {

namespace {

// Words of up to this many symbols are merged by scanning, longer ones with a heap in O(n log n).
constexpr std::size_t kScanSymbols = 48;

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

}  // namespace

const BpeTokenizer::Merge* BpeTokenizer::find_merge(std::int32_t left, std::int32_t right) const {
  const auto it = merges_.find(pair_key(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

void BpeTokenizer::encode_word(std::string_view word, std::vector<std::int32_t>* ids) const {
  if (ignores_merges_) {
    if (const auto whole = ids_.find(std::string(word)); whole != ids_.end()) {
      ids->push_back(whole->second);
      return;
    }
  }
  std::vector<std::int32_t> symbols;
  symbols.reserve(word.size());
  for (const char c : word) symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
  if (lacks_bytes_) replace_unknown(&symbols);
  if (symbols.size() > kScanSymbols) {
    encode_long_word(&symbols);
  } else {
    // The lowest rank first; among equal ranks the leftmost.
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

void BpeTokenizer::replace_unknown(std::vector<std::int32_t>* symbols) const {
  if (unknown_ == kNoToken) {
    std::erase(*symbols, kNoToken);
    return;
  }
  if (fuses_unknown_) {
    const auto end =
        std::unique(symbols->begin(), symbols->end(),
                    [](std::int32_t a, std::int32_t b) { return a == kNoToken && b == kNoToken; });
    symbols->erase(end, symbols->end());
  }
  std::replace(symbols->begin(), symbols->end(), kNoToken, unknown_);
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
    if (const Merge* merge = find_merge(left_id, right_id))
      queue.push({merge->rank, left, left_id, right_id, merge->id});
  };
  for (std::uint32_t i = 0; i + 1 < n; ++i) offer(i);
  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    const std::uint32_t left = candidate.left;
    if (!alive[left] || next[left] == kNone) continue;
    const std::uint32_t right = next[left];
    // The candidate is stale if one of its symbols has been merged since.
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

void BpeTokenizer::encode_plain(std::string_view text, std::size_t byte_start,
                                std::vector<std::int32_t>* ids,
                                std::vector<std::size_t>* ends) const {
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t end = next_pre_token(text, start, pre_tokenizer_);
    const std::size_t first = ids->size();
    encode_word(text.substr(start, end - start), ids);
    std::size_t at = start;
    const auto has_token = [&](std::size_t i) {
      return byte_ids_[static_cast<unsigned char>(text[i])] != kNoToken;
    };
    for (std::size_t i = first; i < ids->size(); ++i) {
      if (unknown_ != kNoToken && !has_token(at)) {
        for (++at; fuses_unknown_ && at < end && !has_token(at);) ++at;
        ends->push_back(byte_start + at);
        continue;
      }
      for (std::size_t left = pieces_[static_cast<std::size_t>((*ids)[i])].size(); left > 0; ++at) {
        // Bytes without a token count towards the next token.
        if (has_token(at)) --left;
      }
      ends->push_back(byte_start + at);
    }
    start = end;
  }
}

void BpeTokenizer::set_offsets(std::string_view text, const std::vector<std::size_t>& ends,
                               Encoding* encoding) const {
  // Converts byte positions to code points; both advance together.
  encoding->offsets.reserve(ends.size());
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
  for (const std::size_t end : ends) {
    const std::uint32_t first = point_of_byte(byte);
    encoding->offsets.emplace_back(first, point_of_byte(end - 1) + 1);
    byte = end;
  }
}

void BpeTokenizer::trim_offsets(Encoding* encoding) const {
  for (std::size_t i = 0; i < encoding->ids.size(); ++i) {
    auto& [first, last] = encoding->offsets[i];
    const std::string& piece = pieces_[static_cast<std::size_t>(encoding->ids[i])];
    const std::size_t text_end = piece.find_last_not_of(' ') + 1;  // 0 where all are spaces
    auto leading = static_cast<std::uint32_t>(std::min(piece.find_first_not_of(' '), piece.size()));
    const auto trailing = static_cast<std::uint32_t>(piece.size() - text_end);
    if (first == 0 && leading == 1 && trim_.keep_first_leading) leading = 0;
    first = std::min(first + leading, last);
    if (last >= trailing) last = std::max(last - trailing, first);
  }
}

// Splits text at added tokens of one kind and encodes the rest. As in `tokenizers`, tokens that are
// not normalized are matched first, then normalized ones in the text between.
void BpeTokenizer::encode_added(std::string_view text, std::size_t byte_start, bool parse_special,
                                bool normalized, std::vector<std::int32_t>* ids,
                                std::vector<std::size_t>* ends) const {
  auto encode_between = [&](std::size_t start, std::size_t end) {
    const std::string_view between = text.substr(start, end - start);
    if (between.empty()) return;
    if (normalized) {
      encode_plain(between, byte_start + start, ids, ends);
    } else {
      encode_added(between, byte_start + start, parse_special, /*normalized=*/true, ids, ends);
    }
  };
  // Next position of each token; searched again only after it has been passed, so that the text is
  // searched once per token.
  struct Next {
    const AddedToken* token;
    std::size_t at;
  };
  std::vector<Next> nexts;
  for (const AddedToken& token : added_list_) {
    if (token.is_normalized != normalized || (token.is_special && !parse_special)) continue;
    const std::size_t at = text.find(token.content);
    if (at != std::string_view::npos) nexts.push_back({&token, at});
  }
  std::size_t start = 0;
  while (!nexts.empty()) {
    // The leftmost token; among those at one position the longest.
    const Next first = *std::min_element(nexts.begin(), nexts.end(), [](Next a, Next b) {
      return a.at != b.at ? a.at < b.at : a.token->content.size() > b.token->content.size();
    });
    encode_between(start, first.at);
    start = first.at + first.token->content.size();
    ids->push_back(first.token->id);
    ends->push_back(byte_start + start);
    for (Next& next : nexts) {
      if (next.at < start) next.at = text.find(next.token->content, start);
    }
    std::erase_if(nexts, [](const Next& next) { return next.at == std::string_view::npos; });
  }
  encode_between(start, text.size());
}

Encoding BpeTokenizer::encode(std::string_view text, bool parse_special) const {
  const std::size_t invalid = find_invalid_utf8(text);
  QALOF_CHECK(invalid == std::string_view::npos, ErrorKind::kBadInput,
              "text is not UTF-8 at byte {}", invalid);
  Encoding encoding;
  std::vector<std::size_t> ends;  // byte position after each token
  if (parse_special || always_matches_) {
    encode_added(text, 0, parse_special, /*normalized=*/false, &encoding.ids, &ends);
  } else {
    encode_plain(text, 0, &encoding.ids, &ends);
  }
  set_offsets(text, ends, &encoding);
  if (trim_.spaces) trim_offsets(&encoding);
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
