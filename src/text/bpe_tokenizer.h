// Byte-level BPE as in GPT-2 and `tokenizers`: exact ids and code-point offsets.
//
// Special tokens in user text are plain text unless parse_special is set (a prompt must not be able
// to end itself); added tokens that are not special are always matched. Not for: pre-tokenizers
// other than those of text/pre_tokenizer.h, normalizers and dropout, which are refused by name;
// adding the template's tokens around a text (text/text_encoder.h).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/pre_tokenizer.h"
#include "text/text_template.h"

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

  /// text must be UTF-8 (Error{kBadInput}). With parse_special, special tokens in the text become
  /// their ids. Bytes that have no token become the file's unknown token; where it has none, they
  /// are left out, as `tokenizers` does. Time is O(n log n) in the length of the longest word.
  Encoding encode(std::string_view text, bool parse_special = false) const;
  /// Bytes of ids (not always UTF-8 on its own). Ids outside the vocabulary are Error{kBadInput}.
  std::string decode(const std::vector<std::int32_t>& ids) const;
  /// Warnings from loading, one sentence each.
  const std::vector<std::string>& warnings() const { return warnings_; }

  /// One more than the highest id; unused ids below it decode to no bytes.
  std::size_t vocab_size() const { return pieces_.size(); }
  /// Bytes of a token.
  const std::string& piece(std::int32_t id) const { return pieces_[static_cast<std::size_t>(id)]; }
  /// Added tokens by content, e.g. "<|endoftext|>".
  const std::map<std::string, std::int32_t>& added_tokens() const { return added_; }
  /// Tokens that the files put around texts; encode does not add them.
  const TextTemplate& text_template() const { return template_; }

 private:
  struct Merge {
    std::uint32_t rank;
    std::int32_t id;
  };
  struct PairHash {
    std::size_t operator()(std::uint64_t pair) const {
      pair *= 0x9e3779b97f4a7c15ULL;
      return static_cast<std::size_t>(pair ^ (pair >> 32));
    }
  };
  struct AddedToken {
    std::string content;
    std::int32_t id;
    bool is_special, is_normalized;
  };
  // What the post-processor of tokenizer.json removes from a token's offsets.
  struct OffsetTrim {
    bool spaces = false;              // leading and trailing ones
    bool keep_first_leading = false;  // but keep a single one at the start of the text
  };
  BpeTokenizer() = default;
  void add_token(AddedToken token);
  static BpeTokenizer from_texts(const std::map<std::string, std::string_view>& files,
                                 const std::string& where);
  void read_tokenizer_json(std::string_view text, const std::string& path);
  void read_vocabulary_and_merges(const std::map<std::string, std::string_view>& files,
                                  const std::string& directory);
  void set_vocabulary(const std::map<std::string, std::int32_t>& vocabulary,
                      const std::string& where);
  void add_merge(const std::string& a, const std::string& b, const std::string& where);
  void check_reachable(const std::string& where);
  const Merge* find_merge(std::int32_t left, std::int32_t right) const;
  void encode_word(std::string_view word, std::vector<std::int32_t>* ids) const;
  void replace_unknown(std::vector<std::int32_t>* symbols) const;
  void encode_long_word(std::vector<std::int32_t>* symbols) const;
  void encode_added(std::string_view text, std::size_t byte_start, bool parse_special,
                    bool normalized, std::vector<std::int32_t>* ids,
                    std::vector<std::size_t>* ends) const;
  void encode_plain(std::string_view text, std::size_t byte_start, std::vector<std::int32_t>* ids,
                    std::vector<std::size_t>* ends) const;
  void set_offsets(std::string_view text, const std::vector<std::size_t>& ends,
                   Encoding* encoding) const;
  void trim_offsets(Encoding* encoding) const;

  std::vector<std::string> pieces_;                            // bytes by id
  std::unordered_map<std::string, std::int32_t> ids_;          // bytes to id
  std::unordered_map<std::uint64_t, Merge, PairHash> merges_;  // (left id, right id)
  std::size_t num_merges_ = 0;                                 // in the file
  static constexpr std::int32_t kNoToken = -1;
  std::array<std::int32_t, 256> byte_ids_{};  // kNoToken: the byte is unknown or left out
  std::int32_t unknown_ = kNoToken;           // replaces bytes without a token
  bool fuses_unknown_ = false;                // one for each run of unknown bytes in a word
  bool lacks_bytes_ = false;
  std::map<std::string, std::int32_t> added_;
  std::vector<AddedToken> added_list_;
  PreTokenizer pre_tokenizer_ = PreTokenizer::kGpt2;
  bool ignores_merges_ = false;  // a word that is a token is taken whole
  bool always_matches_ = false;  // some added token is not special
  OffsetTrim trim_;
  TextTemplate template_;
  std::vector<std::string> warnings_;
};

/// Copies a directory's tokenizer files; Error{kNotFound} where it has none.
void copy_tokenizer_files(const std::string& from, const std::string& to);

}  // namespace qalof::text
