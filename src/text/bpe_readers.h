// Streams vocabularies and merges out of tokenizer files: as trees they would be many times the
// size of the file.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/json_stream.h"
#include "text/token_table.h"

namespace qalof::text {

inline constexpr std::int64_t kMaxTokenId = std::int64_t{1} << 24;

/// The start of a token for messages, with control characters and stray bytes escaped.
std::string shown_token(std::string_view token);

/// Receives one merge.
using AddMerge = std::function<void(std::string_view left, std::string_view right)>;

/// Fills a vocabulary while a JSON parser streams {"token": id, ..}.
class VocabularyReader {
 public:
  /// vocabulary must outlive the reader.
  VocabularyReader(std::string where, TokenTable* vocabulary)
      : where_(std::move(where)), vocabulary_(vocabulary) {}

  /// The part of a document that is read; the reader must outlive it.
  JsonPart part(std::vector<std::string> path);
  /// The whole vocabulary was read without error.
  bool is_complete() const { return is_closed_ && !problem_; }
  /// Throws the first error that was found (Error{kBadInput}, {kCorruptFile}). Errors wait until
  /// here, so that a file of another kind is first refused for its kind.
  void finish() const;

 private:
  void add(JsonEvent event, std::string_view text, std::int64_t number);

  std::string where_;
  TokenTable* vocabulary_;
  bool is_open_ = false, is_closed_ = false;
  bool has_token_ = false;
  std::string token_;  // the key whose id comes next
  std::optional<Error> problem_;
};

/// Looks merges up in a vocabulary; their ranks are their order.
class MergeBuilder {
 public:
  /// vocabulary and merges must outlive the builder.
  MergeBuilder(const TokenTable& vocabulary, MergeTable* merges, std::string where)
      : vocabulary_(vocabulary), merges_(merges), where_(std::move(where)) {}

  /// Error{kBadInput} where the vocabulary lacks a part or what they make, and for too many merges.
  void add(std::string_view left, std::string_view right);

 private:
  const TokenTable& vocabulary_;
  MergeTable* merges_;
  std::string where_;
  std::size_t count_ = 0;
  std::string joined_;
};

/// Streams a list of "a b" or ["a", "b"].
class MergesReader {
 public:
  MergesReader(std::string where, AddMerge add) : where_(std::move(where)), add_(std::move(add)) {}

  /// The part of a document that is read; the reader must outlive it. Nothing is read unless
  /// may_read says so when the list begins.
  JsonPart part(std::vector<std::string> path, std::function<bool()> may_read);
  bool was_read() const { return is_reading_; }
  /// Throws the first error that was found.
  void finish() const;

 private:
  void take(JsonEvent event, std::string_view text, std::int64_t number);

  std::string where_;
  AddMerge add_;
  bool is_reading_ = false;
  int depth_ = 0;
  std::size_t count_ = 0;
  std::size_t num_parts_ = 0;
  std::array<std::string, 2> pair_;
  std::optional<Error> problem_;
};

/// Reads merges.txt, which is UTF-8: a merge in a line. Error{kBadInput}.
void parse_merges_text(std::string_view text, const std::string& where, const AddMerge& add);

}  // namespace qalof::text
