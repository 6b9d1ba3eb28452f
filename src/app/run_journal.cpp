// Headers and JSON lines of files that a killed run leaves and the same run continues.
#include "app/run_journal.h"

#include <filesystem>

#include "core/error.h"
#include "core/format_version.h"
#include "text/records.h"

namespace qalof::app {

namespace {

constexpr int kFormatVersion = 1;
constexpr std::size_t kMaxBytes = std::size_t{4} << 30;

// Returns the bytes of whole lines.
std::size_t take_lines(const std::string& text, const std::string& path, const TakeRecord& take) {
  return text::for_each_whole_line(text, [&](std::string_view line, std::size_t number) {
    const std::string where = fmt::format("{}: line {}", path, number);
    take(parse_json(line, where), where);
  });
}

}  // namespace

std::string member_difference(const Json& stored, const Json& current) {
  for (const auto& [key, value] : current.items()) {
    const Json other = stored.is_object() ? stored.value(key, Json()) : Json();
    if (other != value)
      return fmt::format("{} was {:.80} and is now {:.80}", key, other.dump(), value.dump());
  }
  return stored == current ? "" : "it has more members";
}

Json run_header(const Json& identity) {
  return {{"format_version", kFormatVersion}, {"run", identity}};
}

void check_run_header(const Json& header, const Json& identity, const std::string& path,
                      const std::string& where) {
  read_format_version(header, where, kFormatVersion);
  const std::string differs = member_difference(header.value("run", Json()), identity);
  QALOF_CHECK(differs.empty(), ErrorKind::kUsage,
              "{}: is of another run ({}); give another --output_dir or --overwrite_output_dir",
              path, differs);
}

bool read_journal(const std::string& path, const TakeRecord& take) {
  const std::string text = read_file(path, kMaxBytes);
  return take_lines(text, path, take) == text.size();
}

RunJournal::RunJournal(const std::string& path)
    : path_(path), file_(std::make_unique<AppendFile>(path)) {}

RunJournal RunJournal::resume(const std::string& path, const TakeRecord& take) {
  const std::string text = read_file(path, kMaxBytes);
  const std::size_t whole = take_lines(text, path, take);
  if (whole < text.size()) write_file_atomic(path, std::string_view(text).substr(0, whole));
  return RunJournal(path);
}

RunJournal RunJournal::create(const std::string& path, const std::vector<Json>& records) {
  make_directories(std::filesystem::path(path).parent_path().string());
  std::string text;
  for (const Json& record : records) text += dump_json(record, path) + "\n";
  write_file_atomic(path, text);
  return RunJournal(path);
}

void RunJournal::append(const Json& record) { file_->append(dump_json(record, path_) + "\n"); }

}  // namespace qalof::app
