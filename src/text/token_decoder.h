// Turns token ids into text, token by token: the decoder section of tokenizer.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/json.h"
#include "text/pre_token_steps.h"

namespace qalof::text {

class BpeTokenizer;

/// ByteLevel, or a Sequence of Replace, ByteFallback, Metaspace, Fuse and Strip. Immutable: threads
/// may share it.
class DecoderSteps {
 public:
  /// ByteLevel.
  DecoderSteps() = default;
  /// json: the section. Error{kBadInput}, {kUnsupported}; where names the file.
  static DecoderSteps read(const Json& json, const std::string& where);

  /// Tokens are bytes that follow each other.
  bool is_byte_level() const { return is_byte_level_; }

 private:
  friend class TokenDecoder;
  struct Replace {
    TextPattern pattern;
    std::string content;
  };
  struct ByteFallback {};
  struct Fuse {};
  struct Strip {
    std::string content;
    std::size_t count;  // at the start
  };
  using Step = std::variant<Replace, ByteFallback, Fuse, Strip, MetaspaceSettings>;
  void add(const Json& json, const std::string& where, int depth);

  std::vector<Step> steps_;
  bool is_byte_level_ = true;
};

/// One text; one thread at a time. What push and finish return, put together, is the text of all
/// ids; where the tokenizer is byte-level, its bytes, which end anywhere in a code point
/// (text/text_stream.h).
class TokenDecoder {
 public:
  /// tokenizer must outlive the decoder. Where continues is set, the ids continue a text: the
  /// space that a text's first token loses stays.
  explicit TokenDecoder(const BpeTokenizer& tokenizer, bool continues = false);
  /// For ids that follow prompt, whose special tokens are no text.
  static TokenDecoder after_prompt(const BpeTokenizer& tokenizer,
                                   std::span<const std::int32_t> prompt);

  /// Text that is final, possibly empty; valid until the next call. Error{kBadInput} for an id
  /// outside the vocabulary.
  std::string_view push(std::int32_t id);
  /// What was held back: bytes of a character that <0x..> tokens spell.
  std::string_view finish();

 private:
  void pass(std::size_t step, std::string token);
  void flush_bytes(std::size_t step);

  const BpeTokenizer& tokenizer_;
  const DecoderSteps& steps_;
  std::string out_;
  std::string bytes_;                    // of the <0x..> tokens up to now
  bool is_first_;                        // no token came yet
  std::vector<std::size_t> strip_left_;  // by step, what a Strip after Fuse may still take
};

}  // namespace qalof::text
