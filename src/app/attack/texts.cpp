// Reads attack.jsonl strictly and appends records to it; attack.json identifies the run.
#include "app/attack/texts.h"

#include <filesystem>
#include <functional>

#include "app/run_identity.h"
#include "core/error.h"
#include "core/format_version.h"
#include "text/records.h"

namespace qalof::app {

namespace {

constexpr std::size_t kMaxBytes = std::size_t{4} << 30;
constexpr int kFormatVersion = 1;
constexpr std::int64_t kMaxCount = std::int64_t{1} << 53;

std::string line_of(const AttackRecord& record, const std::string& where) {
  const Json json = {{"index", record.index},       {"label", record.label},
                     {"original", record.original}, {"text", record.text},
                     {"attacked", record.attacked}, {"success", record.success},
                     {"fooled", record.fooled},     {"queries", record.queries},
                     {"losses", record.losses},     {"iterations", record.iterations}};
  return dump_json(json, where) + "\n";
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

// Calls take for each complete line; returns the bytes of these lines.
std::size_t read_lines(const std::string& text, const std::string& path,
                       const std::function<void(AttackRecord&&)>& take) {
  return text::for_each_whole_line(text, [&](std::string_view line, std::size_t number) {
    const std::string where = fmt::format("{}: line {}", path, number);
    take(record_of(parse_json(line, where), where));
  });
}

}  // namespace

std::vector<AttackRecord> read_attack(const std::string& path) {
  const std::string file = is_directory(path) ? path + "/" + kAttackTexts : path;
  std::vector<AttackRecord> records;
  const std::string text = read_file(file, kMaxBytes);
  const std::size_t whole =
      read_lines(text, file, [&](AttackRecord&& record) { records.push_back(std::move(record)); });
  QALOF_CHECK(whole == text.size(), ErrorKind::kCorruptFile,
              "{}: its last line is cut off; the attack that wrote it can be resumed", file);
  QALOF_CHECK(!records.empty(), ErrorKind::kBadInput, "{}: holds no text", file);
  return records;
}

AttackStore::AttackStore(const std::string& directory, const Json& identity, bool overwrite) {
  make_directories(directory);
  const std::string header = directory + "/" + kAttackFile, texts = directory + "/" + kAttackTexts;
  if (!overwrite && path_exists(header)) {
    const Json there = read_json_file(header);
    read_format_version(there, header, kFormatVersion);
    check_same_run(there.value("run", Json()), identity, header);
    if (path_exists(texts)) {
      const std::string text = read_file(texts, kMaxBytes);
      const std::size_t whole = read_lines(text, texts, [&](AttackRecord&& record) {
        QALOF_CHECK(record.index == records_.size(), ErrorKind::kCorruptFile,
                    "{}: sample {} where {} was expected", texts, record.index, records_.size());
        records_.push_back(std::move(record));
      });
      if (whole < text.size()) write_file_atomic(texts, std::string_view(text).substr(0, whole));
    }
  } else {
    write_file_atomic(texts, "");
    write_file_atomic(header,
                      Json{{"format_version", kFormatVersion}, {"run", identity}}.dump(2) + "\n");
  }
  file_ = std::make_unique<AppendFile>(texts);
}

void AttackStore::add(const AttackRecord& record) {
  file_->append(line_of(record, kAttackTexts));
  records_.push_back(record);
}

}  // namespace qalof::app
