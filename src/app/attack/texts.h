// Texts that an attack has found: attack.jsonl, one line a sample, beside attack.json, which says
// what made them (docs/file_formats.md, "Attack").
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/json.h"

namespace qalof::app {

/// What one sample of the attacked file has become. Texts are valid UTF-8.
struct AttackRecord {
  std::uint64_t index = 0;  // of the sample in its file
  std::int32_t label = 0;
  std::string original, text;
  bool attacked = false;  // else it was classified wrongly to begin with, and text is original
  bool success = false;   // every network that was asked is wrong about text
  double fooled = 0;      // the share of them that is
  std::uint64_t queries = 0;
  std::uint64_t iterations = 0;
  Json losses;  // null where it was not attacked
};

inline constexpr const char* kAttackFile = "attack.json";
inline constexpr const char* kAttackTexts = "attack.jsonl";

/// Records of a file, or of an attack's directory, in their order. Error{kNotFound};
/// {kCorruptFile}, {kBadInput} name the line that is no record, {kBadInput} also where there is
/// none.
std::vector<AttackRecord> read_attack(const std::string& path);

/// The files of an attack that goes on where it was stopped. Not thread-safe.
class AttackStore {
 public:
  /// Takes up a directory of the same run, else begins it; a last line that was cut off is dropped.
  /// Error{kUsage} where it holds another run, unless overwrite.
  AttackStore(const std::string& directory, const Json& identity, bool overwrite);
  /// Those that are there, in their order: samples from the first on.
  const std::vector<AttackRecord>& records() const { return records_; }
  /// On disk when it returns, as far as a killed process is concerned. Records come in the order of
  /// their samples.
  void add(const AttackRecord& record);

 private:
  std::vector<AttackRecord> records_;
  std::unique_ptr<AppendFile> file_;
};

}  // namespace qalof::app
