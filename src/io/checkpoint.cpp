// Writes checkpoints under a temporary name and renames them once their manifest is on disk;
// verifies, limits and removes them.
#include "io/checkpoint.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/json.h"

namespace qalof::io {

namespace fs = std::filesystem;

namespace {

constexpr int kCheckpointFormatVersion = 1;
constexpr std::size_t kMaxManifestBytes = std::size_t{16} << 20;
constexpr std::string_view kManifest = "manifest.json";
constexpr std::string_view kPrefix = "checkpoint-";
constexpr std::string_view kTemporary = ".tmp-";
constexpr std::size_t kHexDigits = 64;
// The manifest ends in its own checksum, computed over the bytes before this text.
constexpr std::string_view kChecksumBegin = ",\"sha256\":\"";
constexpr std::string_view kChecksumEnd = "\"}\n";

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// The step of "checkpoint-40"; nullopt for other names, "checkpoint-040" and "checkpoint-40.tmp-7"
// included.
std::optional<std::int64_t> step_of(std::string_view name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  constexpr std::size_t kMaxDigits = 18;
  if (name.empty() || name.size() > kMaxDigits || (name.size() > 1 && name[0] == '0') ||
      name.find_first_not_of("0123456789") != std::string_view::npos) {
    return std::nullopt;
  }
  return std::stoll(std::string(name));
}

bool is_unfinished(std::string_view name) {
  const std::size_t mark = name.find(kTemporary);
  return mark != std::string_view::npos && step_of(name.substr(0, mark)).has_value();
}

// Names in a directory; throws Error{kResource} where it cannot be listed.
std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  QALOF_CHECK(!error, ErrorKind::kResource, "{}: cannot be listed: {}", directory, error.message());
  return names;
}

std::string temporary_name(const std::string& path, const char* suffix = "") {
  return fmt::format("{}{}{}{}", path, kTemporary, ::getpid(), suffix);
}

struct Contents {
  std::vector<std::string> files;        // relative to the checkpoint, sorted
  std::vector<std::string> directories;  // absolute, children before their parents
};

Contents contents_of(const std::string& root) {
  Contents contents;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(root, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->is_directory()) {
      contents.directories.push_back(entry->path().string());
    } else {
      contents.files.push_back(entry->path().lexically_relative(root).generic_string());
    }
  }
  QALOF_CHECK(!error, ErrorKind::kResource, "{}: cannot be listed: {}", root, error.message());
  std::sort(contents.files.begin(), contents.files.end());
  std::sort(contents.directories.rbegin(), contents.directories.rend());
  contents.directories.push_back(root);
  return contents;
}

// True where a name from a manifest stays inside its checkpoint.
bool is_inside(const std::string& name) {
  const fs::path path(name);
  if (name.empty() || path.is_absolute() || name.find('\0') != std::string::npos) return false;
  return std::none_of(path.begin(), path.end(), [](const fs::path& part) { return part == ".."; });
}

// Reads the manifest's JSON after comparing its checksum.
Json read_manifest(const std::string& where) {
  const std::string text = read_file(where, kMaxManifestBytes);
  const std::size_t tail = kChecksumBegin.size() + kHexDigits + kChecksumEnd.size();
  QALOF_CHECK(text.size() > tail, ErrorKind::kCorruptFile, "{}: has {} bytes, too few", where,
              text.size());
  const std::string_view body = std::string_view(text).substr(0, text.size() - tail);
  const std::string expected =
      fmt::format("{}{}{}", kChecksumBegin, sha256_hex(bytes_of(body)), kChecksumEnd);
  QALOF_CHECK(std::string_view(text).substr(body.size()) == expected, ErrorKind::kCorruptFile,
              "{}: its checksum does not fit its contents", where);
  return parse_json(text, where);
}

}  // namespace

std::vector<CheckpointDir> list_checkpoints(const std::string& output_dir) {
  std::vector<CheckpointDir> checkpoints;
  if (!is_directory(output_dir)) return checkpoints;
  for (const std::string& name : names_in(output_dir)) {
    const std::string path = output_dir + "/" + name;
    if (const auto step = step_of(name); step && is_directory(path)) {
      checkpoints.push_back({path, *step});
    }
  }
  std::sort(checkpoints.begin(), checkpoints.end(),
            [](const CheckpointDir& a, const CheckpointDir& b) { return a.step > b.step; });
  return checkpoints;
}

std::int64_t verify_checkpoint(const std::string& path) {
  QALOF_CHECK(is_directory(path), ErrorKind::kNotFound, "{}: no such checkpoint directory", path);
  const std::string where = fmt::format("{}/{}", path, kManifest);
  QALOF_CHECK(path_exists(where), ErrorKind::kCorruptFile,
              "{}: is missing, so the checkpoint is not whole", where);
  const Json manifest = read_manifest(where);
  const std::int64_t version = json_int(manifest, "format_version", where, 0, 1'000'000);
  QALOF_CHECK(version == kCheckpointFormatVersion, ErrorKind::kUnsupported,
              "{}: format_version {}, this program reads {}; a newer qalof wrote it", where,
              version, kCheckpointFormatVersion);
  QALOF_CHECK(manifest.contains("files") && manifest["files"].is_object(), ErrorKind::kCorruptFile,
              "{}: files is missing or not an object", where);
  for (const auto& [name, entry] : manifest["files"].items()) {
    const std::string file_where = fmt::format("{}: files[\"{:.80}\"]", where, name);
    QALOF_CHECK(is_inside(name), ErrorKind::kCorruptFile, "{}: leads out of the checkpoint",
                file_where);
    const std::int64_t size = json_int(entry, "size", file_where, 0, INT64_MAX);
    const std::string sha256 = json_string(entry, "sha256", file_where);
    const std::string file_path = path + "/" + name;
    QALOF_CHECK(path_exists(file_path), ErrorKind::kCorruptFile,
                "{}: is missing, the manifest names it", file_path);
    const MappedFile file = MappedFile::open(file_path);
    QALOF_CHECK(file.bytes().size() == static_cast<std::size_t>(size), ErrorKind::kCorruptFile,
                "{}: has {} bytes, the manifest says {}", file_path, file.bytes().size(), size);
    QALOF_CHECK(sha256_hex(file.bytes()) == sha256, ErrorKind::kCorruptFile,
                "{}: is damaged, its sha256 is not that of the manifest", file_path);
  }
  return json_int(manifest, "step", where, 0, INT64_MAX);
}

std::optional<CheckpointDir> newest_checkpoint(const std::string& output_dir, Observer& observer) {
  for (const CheckpointDir& checkpoint : list_checkpoints(output_dir)) {
    try {
      const std::int64_t step = verify_checkpoint(checkpoint.path);
      QALOF_CHECK(step == checkpoint.step, ErrorKind::kCorruptFile,
                  "{}: its manifest is that of step {}", checkpoint.path, step);
      return checkpoint;
    } catch (const Error& error) {
      observer.warn(fmt::format("checkpoint passed over: {}", error.what()));
    }
  }
  return std::nullopt;
}

CheckpointWriter::CheckpointWriter(const std::string& output_dir, std::int64_t step)
    : output_dir_(output_dir),
      path_(fmt::format("{}/{}{}", output_dir, kPrefix, step)),
      step_(step) {
  temporary_ = temporary_name(path_);
  remove_tree(temporary_);
  make_directories(temporary_);
}

CheckpointWriter::~CheckpointWriter() {
  if (committed_) return;
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);
}

void CheckpointWriter::commit() {
  const Contents contents = contents_of(temporary_);
  Json files = Json::object();
  for (const std::string& name : contents.files) {
    const std::string file_path = temporary_ + "/" + name;
    sync_file(file_path);
    const MappedFile file = MappedFile::open(file_path);
    files[name] = {{"size", file.bytes().size()}, {"sha256", sha256_hex(file.bytes())}};
  }
  const std::string where = fmt::format("{}/{}", temporary_, kManifest);
  std::string text = dump_json(
      {{"format_version", kCheckpointFormatVersion}, {"step", step_}, {"files", std::move(files)}},
      where);
  text.pop_back();  // the closing brace, which kChecksumEnd adds again
  write_file_atomic(where, fmt::format("{}{}{}{}", text, kChecksumBegin, sha256_hex(bytes_of(text)),
                                       kChecksumEnd));
  for (const std::string& directory : contents.directories) sync_directory(directory);
  // rename(2) cannot replace a directory that is not empty.
  std::string replaced;
  if (path_exists(path_)) {
    replaced = temporary_name(path_, "-replaced");
    remove_tree(replaced);  // of a killed process that had the same number
    rename_path(path_, replaced);
  }
  try {
    rename_path(temporary_, path_);
  } catch (const Error&) {
    if (!replaced.empty()) rename_path(replaced, path_);
    throw;
  }
  committed_ = true;
  sync_directory(output_dir_);
  if (!replaced.empty()) remove_tree(replaced);
}

void remove_checkpoint(const CheckpointDir& checkpoint) {
  const std::string away = temporary_name(checkpoint.path, "-removed");
  remove_tree(away);
  rename_path(checkpoint.path, away);
  remove_tree(away);
}

void remove_checkpoints_after(const std::string& output_dir, std::int64_t step) {
  for (const CheckpointDir& checkpoint : list_checkpoints(output_dir)) {
    if (checkpoint.step > step) remove_checkpoint(checkpoint);
  }
}

void limit_checkpoints(const std::string& output_dir, std::size_t limit) {
  if (limit == 0) return;
  const std::vector<CheckpointDir> checkpoints = list_checkpoints(output_dir);
  for (std::size_t i = limit; i < checkpoints.size(); ++i) remove_checkpoint(checkpoints[i]);
}

void remove_unfinished_checkpoints(const std::string& output_dir) {
  if (!is_directory(output_dir)) return;
  for (const std::string& name : names_in(output_dir)) {
    if (is_unfinished(name)) remove_tree(output_dir + "/" + name);
  }
}

}  // namespace qalof::io
