// Reads attack.jsonl strictly and appends records to it; attack.json identifies the run.
#include "app/attack/texts.h"

#include "core/error.h"

namespace qalof::app {

namespace {

constexpr std::int64_t kMaxCount = std::int64_t{1} << 53;

}  // namespace

Json to_json(const AttackRecord& record) {
  return {{"index", record.index},       {"label", record.label},
          {"original", record.original}, {"text", record.text},
          {"attacked", record.attacked}, {"success", record.success},
          {"fooled", record.fooled},     {"queries", record.queries},
          {"losses", record.losses},     {"iterations", record.iterations}};
}

AttackRecord record_of(const Json& json, const std::string& where) {
  QALOF_CHECK(json.is_object(), ErrorKind::kBadInput, "{}: expected an object", where);
  AttackRecord record;
  record.index = static_cast<std::uint64_t>(json_int(json, "index", where, 0, kMaxCount));
  record.label = static_cast<std::int32_t>(json_int(json, "label", where, 0, 1'000'000));
  record.original = json_string(json, "original", where);
  record.text = json_string(json, "text", where);
  record.attacked = json_bool(json, "attacked", where);
  record.success = json_bool(json, "success", where);
  record.fooled = json_number(json, "fooled", where);
  record.queries = static_cast<std::uint64_t>(json_int(json, "queries", where, 0, kMaxCount));
  record.iterations = static_cast<std::uint64_t>(json_int(json, "iterations", where, 0, kMaxCount));
  record.losses = json.value("losses", Json());
  return record;
}

std::vector<AttackRecord> read_attack(const std::string& path) {
  const std::string file = is_directory(path) ? path + "/" + kAttackTexts : path;
  std::vector<AttackRecord> records;
  const bool is_whole = read_journal(file, [&](const Json& json, const std::string& where) {
    records.push_back(record_of(json, where));
  });
  QALOF_CHECK(is_whole, ErrorKind::kCorruptFile,
              "{}: its last line is cut off; the attack that wrote it can be resumed", file);
  QALOF_CHECK(!records.empty(), ErrorKind::kBadInput, "{}: holds no text", file);
  return records;
}

AttackStore::AttackStore(const std::string& directory, const Json& identity, bool overwrite) {
  make_directories(directory);
  const std::string header = directory + "/" + kAttackFile, texts = directory + "/" + kAttackTexts;
  if (!overwrite && path_exists(header)) {
    check_run_header(read_json_file(header), identity, header, header);
    if (!path_exists(texts))
      journal_ = RunJournal::create(texts);
    else
      journal_ = RunJournal::resume(texts, [&](const Json& json, const std::string& where) {
        records_.push_back(record_of(json, where));
        QALOF_CHECK(records_.back().index + 1 == records_.size(), ErrorKind::kCorruptFile,
                    "{}: sample {} where {} was expected", texts, records_.back().index,
                    records_.size() - 1);
      });
  } else {
    journal_ = RunJournal::create(texts);
    write_file_atomic(header, dump_json(run_header(identity), header, 2) + "\n");
  }
}

void AttackStore::add(const AttackRecord& record) {
  journal_->append(to_json(record));
  records_.push_back(record);
}

}  // namespace qalof::app
