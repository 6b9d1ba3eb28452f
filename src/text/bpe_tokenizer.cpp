// BPE encoding: added tokens, normalization, words, merges (by scanning, or by a heap for long
// runs) and code-point offsets.
#include "text/bpe_tokenizer.h"

#include <algorithm>
#include <queue>

#include "core/error.h"
#include "text/bpe_bridges.h"
#include "text/byte_alphabet.h"
#include "text/unicode.h"

namespace qalof::text {

// Encodes the words of one text; its buffers serve all of them.
class WordEncoder {
 public:
  explicit WordEncoder(const BpeTokenizer& tokenizer) : tokenizer_(tokenizer) {}

  std::vector<std::int32_t> ids;
  std::vector<SourceSpan> spans;  // of the original text, one for each id

  void add(std::int32_t id, SourceSpan span) {
    ids.push_back(id);
    spans.push_back(span);
  }
  void encode(const TextPiece& word);
  /// An added token and the text that it takes, in which white space counts for trimmed offsets.
  void add_added(std::int32_t id, const TextPiece& piece) {
    if (tokenizer_.trim_.spaces) added_texts.emplace_back(ids.size(), piece.text);
    add(id, piece.source(0, piece.text.size()));
  }
  BpeTokenizer::AddedTexts added_texts;

 private:
  struct Symbol {
    std::int32_t id;
    std::uint32_t end;  // byte of the word
  };
  // Symbols of up to this many are merged by scanning, longer runs with a heap in O(n log n).
  static constexpr std::size_t kScanSymbols = 64;

  bool take_whole(const TextPiece& word);
  void split_bytes(std::string_view word);
  void split_characters(std::string_view word);
  void add_symbol(std::int32_t id, std::size_t bytes) {
    end_ += bytes;
    symbols_.push_back({id, static_cast<std::uint32_t>(end_)});
  }
  void add_unknown(std::size_t bytes);
  void flush_unknown();
  // Merges symbols first .. last, which nothing beside them joins, and adds their tokens.
  void finish_run(std::size_t first, std::size_t last, const TextPiece& word);
  std::size_t merge_by_scan(Symbol* symbols, std::size_t count) const;
  std::size_t merge_by_heap(Symbol* symbols, std::size_t count) const;

  const BpeTokenizer& tokenizer_;
  std::vector<Symbol> symbols_;
  std::vector<std::uint32_t> run_starts_;  // in symbols_, beside 0
  std::size_t end_ = 0;                    // of the symbols up to now
  std::size_t unknown_bytes_ = 0;          // of an unknown token that is not a symbol yet
  std::string written_;
};

// Where merges are ignored, a word that is a token is taken whole.
bool WordEncoder::take_whole(const TextPiece& word) {
  std::string_view written = word.text;
  if (written.size() > tokenizer_.longest_token_) return false;
  if (tokenizer_.pre_tokens_.is_byte_level()) {
    written_.clear();
    for (const char c : word.text) written_ += byte_alphabet()[static_cast<unsigned char>(c)];
    written = written_;
  }
  const std::int32_t id = tokenizer_.vocabulary_.find(written);
  if (id == kNoToken) return false;
  add(id, word.source(0, word.text.size()));
  return true;
}

void WordEncoder::flush_unknown() {
  if (unknown_bytes_ == 0) return;
  add_symbol(tokenizer_.unknown_, unknown_bytes_);
  unknown_bytes_ = 0;
}

void WordEncoder::add_unknown(std::size_t bytes) {
  if (tokenizer_.unknown_ == kNoToken) {
    end_ += bytes;  // left out; the next token covers it
    return;
  }
  if (!tokenizer_.fuses_unknown_) flush_unknown();
  unknown_bytes_ += bytes;
}

void WordEncoder::split_bytes(std::string_view word) {
  for (const char c : word) {
    const std::int32_t id = tokenizer_.byte_ids_[static_cast<unsigned char>(c)];
    if (id == kNoToken) {
      add_unknown(1);
      continue;
    }
    flush_unknown();
    add_symbol(id, 1);
  }
}

void WordEncoder::split_characters(std::string_view word) {
  const std::vector<std::uint64_t>& bridges = tokenizer_.bridges_;
  std::uint32_t before = 0;
  bool merges_before = false;  // the symbol before is a character that may merge
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t start = at;
    const std::uint32_t point = next_valid_code_point(word, &at);
    const std::string_view character = word.substr(start, at - start);
    const std::int32_t id = tokenizer_.symbol_of(character, point);
    const auto byte_id = [&](char c) {
      return tokenizer_.byte_ids_[static_cast<unsigned char>(c)];
    };
    const bool falls_back =
        id == kNoToken && tokenizer_.falls_back_to_bytes_ &&
        std::ranges::none_of(character, [&](char c) { return byte_id(c) == kNoToken; });
    const bool is_left_out = id == kNoToken && !falls_back && tokenizer_.unknown_ == kNoToken;
    if (is_left_out) {
      end_ += character.size();  // its neighbours may merge
      continue;
    }
    const bool is_run_start = !bridges.empty() && (id == kNoToken || !merges_before ||
                                                   !may_bridge(bridges, before, point));
    if (is_run_start) run_starts_.push_back(static_cast<std::uint32_t>(symbols_.size()));
    before = point;
    merges_before = id != kNoToken;
    if (id != kNoToken) {
      flush_unknown();
      add_symbol(id, character.size());
    } else if (falls_back) {
      for (const char c : character) add_symbol(byte_id(c), 1);
    } else {
      add_unknown(character.size());
    }
  }
}

std::size_t WordEncoder::merge_by_scan(Symbol* symbols, std::size_t count) const {
  const MergeTable& merges = tokenizer_.merges_;
  std::uint32_t ranks[kScanSymbols];  // of the pair that begins at a symbol
  std::int32_t merged[kScanSymbols];
  const auto look_up = [&](std::size_t i) {
    const MergeTable::Merge merge = merges.find(symbols[i].id, symbols[i + 1].id);
    ranks[i] = merge.rank;
    merged[i] = merge.id;
  };
  for (std::size_t i = 0; i + 1 < count; ++i) look_up(i);
  while (count > 1) {
    // The lowest rank first; among equal ranks the leftmost.
    std::size_t at = 0;
    for (std::size_t i = 1; i + 1 < count; ++i)
      if (ranks[i] < ranks[at]) at = i;
    if (ranks[at] == MergeTable::kNoMerge) break;
    symbols[at] = {merged[at], symbols[at + 1].end};
    std::copy(symbols + at + 2, symbols + count, symbols + at + 1);
    if (at + 2 < count) {
      std::copy(ranks + at + 2, ranks + count - 1, ranks + at + 1);
      std::copy(merged + at + 2, merged + count - 1, merged + at + 1);
    }
    --count;
    if (at + 1 < count) look_up(at);
    if (at > 0) look_up(at - 1);
  }
  return count;
}

std::size_t WordEncoder::merge_by_heap(Symbol* symbols, std::size_t count) const {
  struct Candidate {
    std::uint32_t rank;
    std::uint32_t left;  // position of the left symbol
    std::int32_t left_id, right_id, merged;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  constexpr std::uint32_t kNone = UINT32_MAX;
  const auto n = static_cast<std::uint32_t>(count);
  std::vector<std::uint32_t> previous(n), next(n);
  for (std::uint32_t i = 0; i < n; ++i) {
    previous[i] = i == 0 ? kNone : i - 1;
    next[i] = i + 1 == n ? kNone : i + 1;
  }
  std::vector<Candidate> candidates;
  const auto candidate_at = [&](std::uint32_t left) {
    const std::int32_t left_id = symbols[left].id, right_id = symbols[next[left]].id;
    const MergeTable::Merge merge = tokenizer_.merges_.find(left_id, right_id);
    return Candidate{merge.rank, left, left_id, right_id, merge.id};
  };
  for (std::uint32_t i = 0; i + 1 < n; ++i) {
    const Candidate candidate = candidate_at(i);
    if (candidate.rank != MergeTable::kNoMerge) candidates.push_back(candidate);
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(
      std::greater<>(), std::move(candidates));
  const auto offer = [&](std::uint32_t left) {
    if (left == kNone || next[left] == kNone) return;
    const Candidate candidate = candidate_at(left);
    if (candidate.rank != MergeTable::kNoMerge) queue.push(candidate);
  };
  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    const std::uint32_t left = candidate.left;
    const std::uint32_t right = next[left];
    // Stale where one of its symbols has been merged since; those that are gone have no id.
    if (right == kNone || symbols[left].id != candidate.left_id ||
        symbols[right].id != candidate.right_id)
      continue;
    symbols[left] = {candidate.merged, symbols[right].end};
    symbols[right].id = kNoToken;
    next[left] = next[right];
    if (next[right] != kNone) previous[next[right]] = left;
    offer(previous[left]);
    offer(left);
  }
  return static_cast<std::size_t>(
      std::remove_if(symbols, symbols + count,
                     [](const Symbol& symbol) { return symbol.id == kNoToken; }) -
      symbols);
}

void WordEncoder::finish_run(std::size_t first, std::size_t last, const TextPiece& word) {
  if (first == last) return;
  Symbol* symbols = symbols_.data() + first;
  const std::size_t count = last - first;
  std::size_t start = end_;
  const std::size_t kept =
      count > kScanSymbols ? merge_by_heap(symbols, count) : merge_by_scan(symbols, count);
  for (std::size_t i = 0; i < kept; ++i) {
    add(symbols[i].id, word.source(start, symbols[i].end));
    start = symbols[i].end;
  }
  end_ = start;
}

void WordEncoder::encode(const TextPiece& word) {
  if (tokenizer_.ignores_merges_ && take_whole(word)) return;
  symbols_.clear();
  run_starts_.clear();
  end_ = 0;
  if (tokenizer_.pre_tokens_.is_byte_level()) {
    split_bytes(word.text);
  } else {
    split_characters(word.text);
  }
  flush_unknown();
  end_ = 0;
  std::size_t first = 0;
  for (const std::uint32_t start : run_starts_) {
    finish_run(first, start, word);
    first = start;
  }
  finish_run(first, symbols_.size(), word);
}

namespace {

// The code points of a token, or its bytes where they are not UTF-8.
std::vector<std::uint32_t> spaced_points(const std::string& piece) {
  if (find_invalid_utf8(piece) == std::string::npos) return to_code_points(piece);
  return {piece.begin(), piece.end()};
}

}  // namespace

std::int32_t BpeTokenizer::symbol_of(std::string_view character, std::uint32_t point) const {
  return point < point_ids_.size() ? point_ids_[point] : vocabulary_.find(character);
}

void BpeTokenizer::set_offsets(std::string_view text, const std::vector<SourceSpan>& spans,
                               Encoding* encoding) const {
  encoding->offsets.reserve(spans.size());
  if (is_ascii(text)) {
    for (const SourceSpan span : spans) encoding->offsets.emplace_back(span.start, span.end);
    return;
  }
  // Converts byte positions to code points with a cursor that seldom goes back.
  std::size_t byte = 0;
  std::uint32_t points = 0;  // code points that begin before byte
  const auto is_start = [&](std::size_t at) {
    return (static_cast<unsigned char>(text[at]) & 0xc0U) != 0x80U;
  };
  const auto points_before = [&](std::size_t position) {
    for (; byte < position; ++byte) points += is_start(byte) ? 1 : 0;
    for (; byte > position; --byte) points -= is_start(byte - 1) ? 1 : 0;
    return points;
  };
  for (const SourceSpan span : spans) {
    // Where a byte is inside a code point, the token covers all of it.
    std::uint32_t first = points_before(span.start);
    if (span.start < text.size() && !is_start(span.start)) --first;
    encoding->offsets.emplace_back(first, span.end == span.start ? first : points_before(span.end));
  }
}

void BpeTokenizer::trim_offsets(const AddedTexts& added, Encoding* encoding) const {
  auto next_added = added.begin();
  for (std::size_t i = 0; i < encoding->ids.size(); ++i) {
    auto& [first, last] = encoding->offsets[i];
    const bool is_added = next_added != added.end() && next_added->first == i;
    const std::string& text = is_added ? (next_added++)->second : piece(encoding->ids[i]);
    const std::vector<std::uint32_t> points = spaced_points(text);
    // In the byte alphabet only the space is one.
    const bool is_text = is_added || !pre_tokens_.is_byte_level();
    const auto is_space = [&](std::uint32_t point) {
      return point == ' ' || (is_text && is_white_space(point));
    };
    std::uint32_t leading = 0, trailing = 0;
    while (leading < points.size() && is_space(points[leading])) ++leading;
    while (trailing < points.size() && is_space(points[points.size() - 1 - trailing])) ++trailing;
    if (first == 0 && leading == 1 && trim_.keep_first_leading) leading = 0;
    first = std::min(first + leading, last);
    if (last >= trailing) last = std::max(last - trailing, first);
  }
}

Encoding BpeTokenizer::encode(std::string_view text, bool parse_special) const {
  const std::size_t invalid = find_invalid_utf8(text);
  QALOF_CHECK(invalid == std::string_view::npos, ErrorKind::kBadInput,
              "text is not UTF-8 at byte {}", invalid);
  QALOF_CHECK(text.size() < UINT32_MAX, ErrorKind::kBadInput,
              "a text has {} bytes, expected under 4 GiB", text.size());
  WordEncoder encoder(*this);
  const PreTokenSteps::TakeWord take_word = [&](const TextPiece& word) { encoder.encode(word); };
  const auto encode_normalized = [&](const TextPiece& raw) {
    TextBuffer buffer;
    const TextPiece piece = normalizer_.apply(raw, &buffer);
    if (normalized_tokens_.is_empty(parse_special)) {
      pre_tokens_.split(piece, take_word);
      return;
    }
    normalized_tokens_.split(piece.text, parse_special,
                             [&](std::size_t start, std::size_t end, std::int32_t id) {
                               if (id == AddedTokenMatcher::kPlain) {
                                 pre_tokens_.split(piece.part(start, end), take_word);
                               } else {
                                 encoder.add_added(id, piece.part(start, end));
                               }
                             });
  };
  const TextPiece whole{text};
  if (raw_tokens_.is_empty(parse_special)) {
    encode_normalized(whole);
  } else {
    raw_tokens_.split(text, parse_special,
                      [&](std::size_t start, std::size_t end, std::int32_t id) {
                        if (id == AddedTokenMatcher::kPlain) {
                          encode_normalized(whole.part(start, end));
                        } else {
                          encoder.add_added(id, whole.part(start, end));
                        }
                      });
  }
  Encoding encoding;
  encoding.ids = std::move(encoder.ids);
  set_offsets(text, encoder.spans, &encoding);
  if (trim_.spaces) trim_offsets(encoder.added_texts, &encoding);
  return encoding;
}

const std::string& BpeTokenizer::checked_piece(std::int32_t id) const {
  QALOF_CHECK(id >= 0 && static_cast<std::size_t>(id) < pieces_.size(), ErrorKind::kBadInput,
              "token id {}, the vocabulary has 0..{}", id, pieces_.size() - 1);
  return piece(id);
}

bool BpeTokenizer::is_special(std::int32_t id) const {
  return id >= 0 && static_cast<std::size_t>(id) < is_special_.size() &&
         is_special_[static_cast<std::size_t>(id)];
}

std::string BpeTokenizer::decode(const std::vector<std::int32_t>& ids) const {
  TokenDecoder decoder(*this);
  std::string text;
  for (const std::int32_t id : ids) text += decoder.push(id);
  text += decoder.finish();
  return text;
}

}  // namespace qalof::text
