// Text files as people have them: a UTF-8 byte order mark, line ends of any system ("\n", "\r\n",
// "\r"), empty lines, fields in quotes. What all readers of text and of records share.
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

/// Cuts a mapped file into records of fields. A record ends at a line end outside quotes; lines
/// that hold nothing but spaces are passed over. Errors are kBadInput and name file and line. Not
/// thread-safe.
class RecordReader {
 public:
  struct Form {
    char separator = '\t';
    /// Fields may stand in quotation marks: then they hold separators and line ends as text, and ""
    /// is a mark. Otherwise marks are text like any other.
    bool quotes = false;
    std::string expected;  // "a sentence, a tab and a label", for messages
  };
  /// Error{kNotFound}; {kBadInput} for a byte order mark other than that of UTF-8, which is
  /// skipped.
  RecordReader(const std::string& path, Form form);

  /// The next record: at most 16 fields of together 4 MiB, valid UTF-8 without NUL bytes. False at
  /// the end of the file.
  bool next(std::vector<std::string>* fields);
  /// Of the first byte of the last record, from 1.
  std::size_t line() const { return record_line_; }
  /// Refuses the last record: "PATH: line N: FOUND, expected EXPECTED".
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

/// A text as Python reads it.
struct PlainText {
  std::string text;  // UTF-8, without byte order mark, every line end "\n"
  bool had_mark = false;
  bool had_other_line_ends = false;
  bool is_changed() const { return had_mark || had_other_line_ends; }
  /// What was changed, as a sentence.
  std::string changes(const std::string& path) const;
};
/// Reads a text of at most max_bytes. Errors as read_file's; {kBadInput} also for another byte
/// order mark, or naming line and byte where the file is not UTF-8.
PlainText read_plain_text(const std::string& path, std::size_t max_bytes);

/// Calls take with each line of text that has an end and is not blank, without that end, and with
/// its number from 1. Returns the bytes up to the last line end: what follows is a line that was
/// cut.
std::size_t for_each_whole_line(
    std::string_view text,
    const std::function<void(std::string_view line, std::size_t number)>& take);

/// A whole number as people's tools write it: "7", "-1", and "7.0" of a column that once held an
/// empty cell; spaces around it. Empty for anything else, "07" and more than 10 digits included.
std::optional<std::int64_t> parse_whole_number(std::string_view text);

}  // namespace qalof::text
