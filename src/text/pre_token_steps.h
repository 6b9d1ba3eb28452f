// The pre_tokenizer section of tokenizer.json: ByteLevel, Split, Digits, Metaspace and Sequence.
// Others are refused by name.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/json.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"

namespace qalof::text {

/// What becomes of the text that a Split matches.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

enum class PrependScheme { kNever, kFirst, kAlways };

/// The settings that a Metaspace has as pre-tokenizer and as decoder; older files say
/// add_prefix_space instead of prepend_scheme.
struct MetaspaceSettings {
  std::string replacement = "\xe2\x96\x81";  // U+2581
  PrependScheme prepend_scheme = PrependScheme::kAlways;
  bool splits = true;
  static MetaspaceSettings read(const Json& json, const std::string& where);
};

/// Immutable: threads may share it.
class PreTokenSteps {
 public:
  using TakeWord = std::function<void(const TextPiece& word)>;

  /// A whole text is one word.
  PreTokenSteps() = default;
  /// The steps that a hand-written matcher stands for; words are bytes.
  explicit PreTokenSteps(PreTokenizer kind) : is_byte_level_(true) {
    steps_.emplace_back(Tiles{kind});
  }
  /// json: the section, which may be null. Error{kBadInput}, {kUnsupported}.
  static PreTokenSteps read(const Json& json, const std::string& where);

  /// Words are sequences of bytes, written in the byte-level alphabet in the vocabulary.
  bool is_byte_level() const { return is_byte_level_; }
  /// Calls take for each word of piece in turn.
  void split(const TextPiece& piece, const TakeWord& take) const { split_from(0, piece, take); }

 private:
  // Cut by hand-written code, at Qwen2's pattern where kind is missing.
  struct Tiles {
    std::optional<PreTokenizer> kind;
    std::size_t next(std::string_view text, std::size_t start) const {
      return kind ? next_pre_token(text, start, *kind) : next_qwen2_pre_token(text, start);
    }
  };
  struct Split {
    TextPattern pattern;
    SplitBehavior behavior;
    bool inverted;
  };
  struct Digits {
    bool individual;
  };
  struct PrefixSpace {};
  using Step = std::variant<Tiles, Split, Digits, PrefixSpace, MetaspaceSettings>;

  void add(const Json& json, const std::string& where, int depth);
  void add_split(const Json& json, const std::string& where);
  void split_from(std::size_t step, const TextPiece& piece, const TakeWord& take) const;
  void metaspace(std::size_t step, const MetaspaceSettings& settings, const TextPiece& piece,
                 const TakeWord& take) const;

  std::vector<Step> steps_;
  bool is_byte_level_ = false;
};

}  // namespace qalof::text
