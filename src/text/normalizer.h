// The normalizer section of tokenizer.json: NFC, Prepend, Replace and Sequence. Others are refused
// by name.
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "core/json.h"
#include "text/aligned_text.h"
#include "text/split_pattern.h"

namespace qalof::text {

/// A literal text or a regular expression, as {"String": ..} or {"Regex": ..} in tokenizer.json.
class TextPattern {
 public:
  /// Error{kBadInput}, {kUnsupported}; where names the place in a file.
  static TextPattern read(const Json& object, const std::string& where);
  /// Calls match(start, end) for each match in text, from left to right; they do not overlap.
  template <typename Match>
  void for_each_match(std::string_view text, const Match& match) const {
    if (!regex_) {
      for (std::size_t at = text.find(literal_); at != std::string_view::npos;
           at = text.find(literal_, at + literal_.size()))
        match(at, at + literal_.size());
      return;
    }
    SplitPattern::Search search(text);
    std::size_t from = 0;
    while (const auto found = regex_->find(search, from)) {
      match(found->start, found->end);
      from = found->end;
    }
  }
  /// The text of a literal; empty for a regular expression.
  const std::string& literal() const { return literal_; }

 private:
  std::string literal_;
  std::shared_ptr<const SplitPattern> regex_;
};

/// Immutable: threads may share it.
class Normalizer {
 public:
  /// Changes nothing.
  Normalizer() = default;
  /// json: the section, which may be null. Error{kBadInput}, {kUnsupported}.
  static Normalizer read(const Json& json, const std::string& where);

  bool is_empty() const { return steps_.empty(); }
  /// The normalized text: piece itself where nothing changes, else a piece of buffer.
  TextPiece apply(TextPiece piece, TextBuffer* buffer) const;

 private:
  struct Nfc {};
  struct Prepend {
    std::string text;
  };
  struct Replace {
    TextPattern pattern;
    std::string content;
  };
  using Step = std::variant<Nfc, Prepend, Replace>;
  void add(const Json& json, const std::string& where, int depth);

  std::vector<Step> steps_;
};

}  // namespace qalof::text
