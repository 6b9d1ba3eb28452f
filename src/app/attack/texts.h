// Texts that an attack has found: attack.jsonl, one line per sample, and attack.json, which
// describes the run that made them (docs/file_formats.md, "Attack").
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "app/run_journal.h"

namespace qalof::app {

/// The result of one sample of the attacked file. Texts are valid UTF-8.
struct AttackRecord {
  std::uint64_t index = 0;  // of the sample in its file
  std::int32_t label = 0;
  std::string original, text;
  bool attacked = false;  // false: the original was classified wrongly, and text equals it
  bool success = false;   // every queried network classifies text wrongly
  double fooled = 0;      // share of the queried networks that do
  std::uint64_t queries = 0;
  std::uint64_t iterations = 0;
  Json losses;  // null where not attacked
};

Json to_json(const AttackRecord& record);
/// Back from it. Error{kBadInput} with where names what is missing or of another kind.
AttackRecord record_of(const Json& json, const std::string& where);

inline constexpr const char* kAttackFile = "attack.json";
inline constexpr const char* kAttackTexts = "attack.jsonl";

/// Reads the records of a file, or of an attack's directory, in order. Error{kNotFound};
/// {kCorruptFile} or {kBadInput} with the line that is no record; {kBadInput} also where there is
/// no record.
std::vector<AttackRecord> read_attack(const std::string& path);

/// The files of an attack, which can be resumed. Not thread-safe.
class AttackStore {
 public:
  /// Resumes from a directory of the same run, else creates its files; a truncated last line is
  /// dropped. Error{kUsage} where the directory holds another run, unless overwrite.
  AttackStore(const std::string& directory, const Json& identity, bool overwrite);
  /// The records so far: those of the first samples, in order.
  const std::vector<AttackRecord>& records() const { return records_; }
  /// Appends a record; when it returns the record survives a kill of this process. Records must be
  /// added in the order of their samples.
  void add(const AttackRecord& record);

 private:
  std::vector<AttackRecord> records_;
  std::optional<RunJournal> journal_;
};

}  // namespace qalof::app
