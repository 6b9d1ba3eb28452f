// Files of a run that can be killed and resumed: they say which run they belong to, and hold JSON
// lines of which all but a truncated last one count.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/json.h"

namespace qalof::app {

/// {"format_version", "run": identity}: the first thing in a run's file.
Json run_header(const Json& identity);
/// Error{kUsage} where a header belongs to another run, naming the first member of the identity
/// that differs; {kUnsupported} for an unknown version. path names the file; where its place.
void check_run_header(const Json& header, const Json& identity, const std::string& path,
                      const std::string& where);

/// "KEY was X and is now Y" for the first member that differs, or "".
std::string member_difference(const Json& stored, const Json& current);

/// Takes a line's JSON; where names its place.
using TakeRecord = std::function<void(const Json& record, const std::string& where)>;
/// Calls take with every whole line of a file. Returns whether the last line is whole too.
/// Error{kNotFound}; {kCorruptFile} names a line that is no JSON.
bool read_journal(const std::string& path, const TakeRecord& take);

/// Appends JSON lines to a file. Not thread-safe.
class RunJournal {
 public:
  /// Continues a file: as read_journal, and a truncated last line is removed.
  static RunJournal resume(const std::string& path, const TakeRecord& take);
  /// Creates the file, and directories above it, with one line for each record; replaces another.
  static RunJournal create(const std::string& path, const std::vector<Json>& records = {});

  /// Survives a kill of this process when it returns. Error{kBadInput} where a text is not UTF-8.
  void append(const Json& record);

 private:
  explicit RunJournal(const std::string& path);
  std::string path_;
  std::unique_ptr<AppendFile> file_;
};

}  // namespace qalof::app
