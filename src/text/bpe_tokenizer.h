// BPE as in Hugging Face `tokenizers`, on bytes (GPT-2, Llama 3, Qwen) or on characters with byte
// fallback (Llama 2, Gemma): exact ids and code-point offsets.
//
// Special tokens in user text are plain text unless parse_special is set (a prompt must not be able
// to end itself); added tokens that are not special are always matched. Parts of tokenizer.json
// that are not implemented are refused by name. Not for: adding the template's tokens around a text
// (text/text_encoder.h).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/added_tokens.h"
#include "text/aligned_text.h"
#include "text/normalizer.h"
#include "text/pre_token_steps.h"
#include "text/text_template.h"
#include "text/token_decoder.h"
#include "text/token_table.h"

namespace qalof::text {

struct Encoding {
  std::vector<std::int32_t> ids;
  /// Code points [start, end) of the text that each token covers; tokens that share a character
  /// share its offsets. A leading space belongs to its token unless tokenizer.json trims offsets.
  std::vector<std::pair<std::uint32_t, std::uint32_t>> offsets;
};

/// Immutable after loading: threads may share it.
class BpeTokenizer {
 public:
  /// Reads tokenizer.json, or else vocab.json and merges.txt (with tokenizer_config.json and
  /// special_tokens_map.json for the template), of a directory. Error{kNotFound}, {kCorruptFile},
  /// {kBadInput} where vocabulary and merges contradict each other, {kUnsupported} for settings
  /// that are not implemented.
  static BpeTokenizer load(const std::string& directory);
  /// load from file contents by file name; where names the source in messages.
  static BpeTokenizer from_files(const std::map<std::string, std::string>& files,
                                 const std::string& where);

  /// text must be UTF-8 and under 4 GiB (Error{kBadInput}). With parse_special, special tokens in
  /// the text become their ids. Characters that have no token become byte tokens or the file's
  /// unknown token; where it has neither, they are left out, as `tokenizers` does. Time is
  /// O(n log n) in the length of the longest word.
  Encoding encode(std::string_view text, bool parse_special = false) const;
  /// Text of ids: what TokenDecoder makes of them, where bytes of a byte-level tokenizer are not
  /// always UTF-8. Ids outside the vocabulary are Error{kBadInput}.
  std::string decode(const std::vector<std::int32_t>& ids) const;
  /// Warnings from loading, one sentence each.
  const std::vector<std::string>& warnings() const { return warnings_; }

  /// One more than the highest id; unused ids below it decode to no bytes.
  std::size_t vocab_size() const { return pieces_.size(); }
  /// Bytes of a token; of a tokenizer that is not byte-level, the token as it is written.
  const std::string& piece(std::int32_t id) const { return pieces_[static_cast<std::size_t>(id)]; }
  /// The same; Error{kBadInput} for an id outside the vocabulary.
  const std::string& checked_piece(std::int32_t id) const;
  /// Added tokens by content, e.g. "<|endoftext|>".
  const std::map<std::string, std::int32_t>& added_tokens() const { return added_; }
  bool is_special(std::int32_t id) const;
  /// Tokens that the files put around texts; encode does not add them.
  const TextTemplate& text_template() const { return template_; }
  const DecoderSteps& decoder() const { return decoder_; }

 private:
  friend class WordEncoder;
  // What the post-processor of tokenizer.json removes from a token's offsets.
  struct OffsetTrim {
    bool spaces = false;              // leading and trailing ones
    bool keep_first_leading = false;  // but keep a single one at the start of the text
  };
  BpeTokenizer() = default;
  void add_token(AddedToken token, const std::string& where);
  static BpeTokenizer from_texts(const std::map<std::string, std::string_view>& files,
                                 const std::string& where);
  void read_tokenizer_json(std::string_view text, const std::string& path);
  void read_added_tokens(const Json& json, const std::string& where);
  void read_vocabulary_and_merges(const std::map<std::string, std::string_view>& files,
                                  const std::string& directory);
  void set_model(const Json& model, const std::string& where);
  void set_pieces(const std::string& where);
  void set_symbols(const std::string& where);
  void set_bridges();
  void check_reachable(const std::string& where);
  void build_matchers();
  std::int32_t symbol_of(std::string_view character, std::uint32_t point) const;
  void set_offsets(std::string_view text, const std::vector<SourceSpan>& spans,
                   Encoding* encoding) const;
  // Added tokens of an encoding, by index, and the text that each takes.
  using AddedTexts = std::vector<std::pair<std::size_t, std::string>>;
  void trim_offsets(const AddedTexts& added, Encoding* encoding) const;

  std::vector<std::string> pieces_;  // by id
  TokenTable vocabulary_;            // as the file writes them
  MergeTable merges_;
  std::size_t longest_token_ = 0;  // bytes, as written
  // Byte-level: the token of each byte. Else: the byte-fallback token <0xHH>.
  std::array<std::int32_t, 256> byte_ids_{};
  bool falls_back_to_bytes_ = false;
  std::vector<std::int32_t> point_ids_;  // of frequent code points, where not byte-level
  std::int32_t unknown_ = kNoToken;      // replaces characters without a token
  bool fuses_unknown_ = false;           // one for each run of unknown characters in a word
  // A bit for each pair of code points (by hash) at which two tokens may merge; a word is cut where
  // none may. Empty: unused.
  std::vector<std::uint64_t> bridges_;
  std::map<std::string, std::int32_t> added_;
  std::vector<AddedToken> added_list_;
  std::vector<bool> is_special_, is_added_;  // by id
  AddedTokenMatcher raw_tokens_, normalized_tokens_;
  Normalizer normalizer_;
  PreTokenSteps pre_tokens_;
  DecoderSteps decoder_;
  bool ignores_merges_ = false;  // a word that is a token is taken whole
  OffsetTrim trim_;
  TextTemplate template_;
  std::vector<std::string> warnings_;
};

/// Copies a directory's tokenizer files; Error{kNotFound} where it has none.
void copy_tokenizer_files(const std::string& from, const std::string& to);

}  // namespace qalof::text
