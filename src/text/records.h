// Text files from any tool or system: a UTF-8 byte order mark, line ends "\n", "\r\n" or "\r",
// empty lines, quoted fields. Shared by all readers of texts and records.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"

namespace qalof::text {

/// Splits a mapped file into records of fields. A record ends at a line end outside quotes; lines
/// of spaces only are skipped. Errors are kBadInput and name file and line. Not thread-safe.
class RecordReader {
 public:
  struct Form {
    char separator = '\t';
    /// Fields may be quoted; then separators and line ends in them are text, and "" is one
    /// quotation mark. Without quotes, marks are ordinary text.
    bool quotes = false;
    std::string expected;  // "a sentence, a tab and a label", for messages
  };
  /// Error{kNotFound}; {kBadInput} for a byte order mark other than UTF-8's, which is skipped.
  RecordReader(const std::string& path, Form form);

  /// Reads the next record: at most 16 fields of 4 MiB in total, valid UTF-8 without NUL bytes.
  /// False at the end of the file.
  bool next(std::vector<std::string>* fields);
  /// Line of the last record's first byte, from 1.
  std::size_t line() const { return record_line_; }
  /// Unless condition holds, refuses the last record: "PATH: line N: FOUND, expected EXPECTED".
  void check(bool condition, std::string_view found) const;
  void set_expected(std::string expected) { form_.expected = std::move(expected); }

 private:
  bool done() const { return next_ == bytes_.size(); }
  bool at_line_end() const { return bytes_[next_] == '\n' || bytes_[next_] == '\r'; }
  void skip_line_end();
  bool skip_blank_line();
  std::string quoted();
  void check_length() const;
  void check_bytes() const;

  MappedFile file_;
  std::string_view bytes_;
  Form form_;
  std::size_t next_ = 0, first_ = 0, line_ = 1, record_line_ = 1;
};

/// A text as Python's open() in text mode returns it.
struct PlainText {
  std::string text;  // UTF-8, without byte order mark, every line end "\n"
  bool had_mark = false;
  bool had_other_line_ends = false;
  bool is_changed() const { return had_mark || had_other_line_ends; }
  /// The changes as a sentence.
  std::string changes(const std::string& path) const;
};
/// Reads a text of at most max_bytes. Errors as read_file's; also {kBadInput} for other byte order
/// marks, and with line and byte where the file is not UTF-8.
PlainText read_plain_text(const std::string& path, std::size_t max_bytes);

/// Calls take with each line that has a line end and is not blank, without its line end, and with
/// its number from 1. Returns the number of bytes up to and with the last line end; what follows is
/// an incomplete line.
std::size_t for_each_whole_line(
    std::string_view text,
    const std::function<void(std::string_view line, std::size_t number)>& take);

/// Parses a whole number as tools write it: "7", "-1", or "7.0" (a column that once held an empty
/// cell), with spaces around it. nullopt for anything else, including "07" and more than 10 digits.
std::optional<std::int64_t> parse_whole_number(std::string_view text);

}  // namespace qalof::text
