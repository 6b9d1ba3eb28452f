// Readers of vocabularies and merges, whose errors name the token or the merge.
#include "text/bpe_readers.h"

#include "core/byte_order_mark.h"
#include "text/unicode.h"

namespace qalof::text {

namespace {

// Public vocabularies have 262,144 tokens and 515,000 merges; room for four times as many.
constexpr std::size_t kMaxMerges = std::size_t{1} << 21;
constexpr std::size_t kMaxTokens = std::size_t{1} << 20;

void split_merge(std::string_view line, const std::string& where, std::size_t number,
                 const AddMerge& add) {
  const std::size_t space = line.find(' ');
  QALOF_CHECK(space != std::string_view::npos && space > 0 && space + 1 < line.size() &&
                  line.find(' ', space + 1) == std::string_view::npos,
              ErrorKind::kBadInput, "{} {}: \"{}\" is not two tokens with a space between", where,
              number, shown_token(line));
  add(line.substr(0, space), line.substr(space + 1));
}

}  // namespace

std::string shown_token(std::string_view token) {
  constexpr std::size_t kMaxShownBytes = 60;
  std::string text;
  for (std::size_t i = 0; i < token.size();) {
    const std::size_t start = i;
    const std::uint32_t point = next_code_point(token, &i);
    const bool is_control = point < 0x20 || (point >= 0x7f && point < 0xa0);
    if (start >= kMaxShownBytes) return text + "...";
    if (is_control || point == kInvalidCodePoint) {
      text += fmt::format("\\x{:02x}", static_cast<unsigned char>(token[i - 1]));
    } else {
      text += token.substr(start, i - start);
    }
  }
  return text;
}

JsonPart VocabularyReader::part(std::vector<std::string> path) {
  return {std::move(path), [this](JsonEvent event, std::string_view text, std::int64_t number) {
            if (problem_) return;
            try {
              add(event, text, number);
            } catch (const Error& error) {
              problem_ = error;
            }
          }};
}

void VocabularyReader::finish() const {
  if (problem_) throw Error(*problem_);
  QALOF_CHECK(vocabulary_->size() > 0, ErrorKind::kBadInput,
              "{}: the vocabulary is not a non-empty object", where_);
}

void VocabularyReader::add(JsonEvent event, std::string_view text, std::int64_t number) {
  if (!is_open_) {
    QALOF_CHECK(event == JsonEvent::kStartObject, ErrorKind::kBadInput,
                "{}: the vocabulary is not a non-empty object", where_);
    is_open_ = true;

    return;
  }
  if (!has_token_) {
    has_token_ = event == JsonEvent::kKey;
    if (has_token_) token_.assign(text);
    if (event == JsonEvent::kEndObject) is_closed_ = true;
    return;
  }
  QALOF_CHECK(
      event == JsonEvent::kInteger && number >= 0 && number < kMaxTokenId, ErrorKind::kBadInput,
      "{}: token \"{}\" has id {:.40}, expected 0..{}", where_, shown_token(token_),
      event == JsonEvent::kInteger ? std::to_string(number) : shown_token(text), kMaxTokenId - 1);
  QALOF_CHECK(!token_.empty(), ErrorKind::kBadInput, "{}: an empty token", where_);
  QALOF_CHECK(vocabulary_->size() < kMaxTokens, ErrorKind::kBadInput, "{}: over {} tokens", where_,
              kMaxTokens);
  const bool is_new = vocabulary_->add(token_, static_cast<std::int32_t>(number));
  QALOF_CHECK(is_new, ErrorKind::kCorruptFile, "{}: token \"{}\" appears twice", where_,
              shown_token(token_));
  has_token_ = false;
}

void MergeBuilder::add(std::string_view left, std::string_view right) {
  const std::size_t rank = count_++;
  QALOF_CHECK(rank < kMaxMerges, ErrorKind::kBadInput, "{}: over {} merges", where_, kMaxMerges);
  joined_.assign(left);
  joined_ += right;
  const std::int32_t a = vocabulary_.find(left), b = vocabulary_.find(right),
                     both = vocabulary_.find(joined_);
  QALOF_CHECK(a != kNoToken && b != kNoToken && both != kNoToken, ErrorKind::kBadInput,
              "{}: merge {} (\"{} {}\") uses or makes a token that the vocabulary lacks", where_,
              rank, shown_token(left), shown_token(right));
  // Of two equal merges the later one wins, as in `tokenizers`; a rank is a place in the list.
  QALOF_CHECK(merges_->add(a, b, {static_cast<std::uint32_t>(rank), both}), ErrorKind::kCorruptFile,
              "{}: merge {}: too many merges share a hash", where_, rank);
}

JsonPart MergesReader::part(std::vector<std::string> path, std::function<bool()> may_read) {
  return {std::move(path), [this, may_read = std::move(may_read)](
                               JsonEvent event, std::string_view text, std::int64_t number) {
            if (problem_ || (!is_reading_ && !may_read())) return;
            is_reading_ = true;
            try {
              take(event, text, number);
            } catch (const Error& error) {
              problem_ = error;
            }
          }};
}

void MergesReader::finish() const {
  if (problem_) throw Error(*problem_);
}

void MergesReader::take(JsonEvent event, std::string_view text, std::int64_t number) {
  if (depth_ == 0) {
    QALOF_CHECK(event == JsonEvent::kStartArray, ErrorKind::kBadInput, "{}: merges is not a list",
                where_);
    depth_ = 1;
  } else if (depth_ == 1 && event == JsonEvent::kString) {
    split_merge(text, where_ + ": merges", count_++, add_);
  } else if (depth_ == 1 && event == JsonEvent::kStartArray) {
    depth_ = 2;
    num_parts_ = 0;
  } else if (depth_ == 2 && event == JsonEvent::kString && num_parts_ < 2) {
    pair_[num_parts_++].assign(text);
  } else if (depth_ == 2 && event == JsonEvent::kEndArray && num_parts_ == 2) {
    add_(pair_[0], pair_[1]);
    ++count_;
    depth_ = 1;
  } else {
    const bool is_end = depth_ == 1 && event == JsonEvent::kEndArray;
    QALOF_CHECK(is_end, ErrorKind::kBadInput,
                "{}: merges {} holds {:.60}, expected \"a b\" or [\"a\", \"b\"]", where_, count_,
                event == JsonEvent::kInteger ? std::to_string(number) : shown_token(text));
  }
}

void parse_merges_text(std::string_view text, const std::string& where, const AddMerge& add) {
  std::size_t number = 0;
  const std::string line_place = where + ": line";
  for (std::size_t start = byte_order_mark(text, where); start < text.size();) {
    const std::size_t end = std::min(text.find('\n', start), text.size());
    std::string_view line = text.substr(start, end - start);
    start = end + 1;
    ++number;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    // Skipped on any line, as in `tokenizers`.
    if (line.empty() || line.starts_with("#version")) continue;
    split_merge(line, line_place, number, add);
  }
}

}  // namespace qalof::text
