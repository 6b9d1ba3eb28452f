// Paths, locks, links and incomplete blobs of the cache.
#include "io/hub/cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "io/hub/name.h"

namespace qalof::io {

namespace {

namespace fs = std::filesystem;

constexpr const char* kModels = "models--";

[[noreturn]] void fail_for_system(const std::string& path, int error = errno) {
  fail(ErrorKind::kResource, "{}: {}", path, std::generic_category().message(error));
}

// Eight digits that are this machine's.
std::string machine_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "00000000";
  const std::string_view text(name.data());
  return sha256_hex(std::as_bytes(std::span(text.data(), text.size()))).substr(0, 8);
}

bool is_same_inode(int fd, const std::string& path) {
  struct stat held {
  }, named{};
  return ::fstat(fd, &held) == 0 && ::stat(path.c_str(), &named) == 0 &&
         held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

}  // namespace

HubLock::HubLock(const std::string& path, const std::string& what, Observer& observer,
                 const std::function<bool()>& should_stop) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begun = Clock::now();
  bool is_told = false;
  for (;;) {
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0664);
    if (fd_ < 0) fail_for_system(path);
    if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) {
      if (is_same_inode(fd_, path)) break;  // else another process has removed it
    } else if (errno == ENOSYS || errno == EOPNOTSUPP || errno == ENOLCK) {
      is_held_ = false;
      break;
    } else if (errno != EWOULDBLOCK && errno != EINTR) {
      const int error = errno;
      ::close(fd_);
      fail_for_system(path, error);
    }
    ::close(fd_);
    fd_ = -1;
    QALOF_CHECK(!should_stop || !should_stop(), ErrorKind::kInterrupted, "stopped");
    if (!is_told && Clock::now() - begun > std::chrono::seconds(1)) {
      observer.status("waiting for another process that downloads " + what);
      is_told = true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  if (is_told) observer.status("");
}

HubLock::~HubLock() {
  if (fd_ >= 0) ::close(fd_);
}

HubRepository::HubRepository(std::string cache, const std::string& repository, bool symlinks)
    : cache_(std::move(cache)), name_(kModels), symlinks_(symlinks) {
  for (const char c : repository) name_ += c == '/' ? std::string("--") : std::string(1, c);
  path_ = cache_ + "/" + name_;
}

std::optional<std::string> HubRepository::find_commit(const std::string& revision) const {
  if (is_commit(revision)) return revision;
  const std::string path = path_ + "/refs/" + revision;
  constexpr std::size_t kMostBytes = 100;
  if (!path_exists(path) || is_directory(path)) return std::nullopt;
  std::string commit = read_file(path, kMostBytes);
  while (commit.ends_with('\n')) commit.pop_back();
  return is_commit(commit) ? std::optional(commit) : std::nullopt;
}

void HubRepository::set_commit(const std::string& revision, const std::string& commit) const {
  if (find_commit(revision) == commit) return;
  const std::string path = path_ + "/refs/" + revision;
  qalof::make_directories(fs::path(path).parent_path().string());
  write_file_atomic(path, commit);
}

std::string HubRepository::snapshot(const std::string& commit) const {
  return path_ + "/snapshots/" + commit;
}

bool HubRepository::has(const std::string& commit, const std::string& file) const {
  return path_exists(snapshot(commit) + "/" + file);
}

bool HubRepository::lacks(const std::string& commit, const std::string& file) const {
  return path_exists(path_ + "/.no_exist/" + commit + "/" + file);
}

void HubRepository::set_lacks(const std::string& commit, const std::string& file) const {
  if (lacks(commit, file)) return;
  const std::string path = path_ + "/.no_exist/" + commit + "/" + file;
  qalof::make_directories(fs::path(path).parent_path().string());
  write_file_atomic(path, "");
}

std::string HubRepository::blob(const HubFile& file) const { return path_ + "/blobs/" + file.hash; }

bool HubRepository::has_blob(const HubFile& file) const {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(blob(file), error);
  return !error && size == file.size;
}

std::string HubRepository::lock(const HubFile& file) const {
  return cache_ + "/.locks/" + name_ + "/" + file.hash + ".lock";
}

std::string HubRepository::incomplete(const HubFile& file, bool is_locked) const {
  const std::string owner =
      is_locked ? machine_name() : fmt::format("{:08x}", static_cast<unsigned>(::getpid()));
  return fmt::format("{}.{}.incomplete", blob(file), owner);
}

void HubRepository::show(const std::string& commit, const HubFile& file) const {
  const std::string path = snapshot(commit) + "/" + file.path;
  if (is_same_file(path, blob(file))) return;
  qalof::make_directories(fs::path(path).parent_path().string());
  if (symlinks_) {
    std::string target = "../../blobs/" + file.hash;
    for (const char c : file.path) {
      if (c == '/') target.insert(0, "../");
    }
    std::string link;
    int failure = 0;
    do {
      link = next_temporary_name(path);
      failure = ::symlink(target.c_str(), link.c_str()) == 0 ? 0 : errno;
    } while (failure == EEXIST);
    if (failure == 0) return rename_path(link, path);
    if (failure != EPERM && failure != EOPNOTSUPP && failure != ENOSYS)
      fail_for_system(link, failure);
  }
  std::error_code error;
  fs::rename(blob(file), path, error);
  // Another process may have moved it.
  if (error && !has(commit, file.path)) fail_for_system(path, error.value());
}

void HubRepository::make_directories() const {
  for (const std::string& path : {path_ + "/blobs", path_ + "/refs", path_ + "/snapshots"})
    qalof::make_directories(path);
  qalof::make_directories(cache_ + "/.locks/" + name_);
  // For programs that make backups.
  if (const std::string tag = cache_ + "/CACHEDIR.TAG"; !path_exists(tag)) {
    write_file_atomic(tag,
                      "Signature: 8a477f597d28d172789f06886806bc55\n"
                      "# This directory holds files that can be downloaded again; see "
                      "https://bford.info/cachedir/\n");
  }
}

IncompleteBlob::IncompleteBlob(const std::string& path, const HubFile& file)
    : path_(path), file_(file) {
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd_ < 0) fail_for_system(path);
  begin_hash();
  std::vector<std::byte> part(std::size_t{1} << 20);
  for (;;) {
    const ssize_t got = ::pread(fd_, part.data(), part.size(), static_cast<off_t>(size_));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_for_system(path);
    if (got == 0) break;
    size_ += static_cast<std::uint64_t>(got);
    if (size_ > file_.size) {
      clear();
      return;
    }
    hash_->update(std::span(part).first(static_cast<std::size_t>(got)));
  }
}

IncompleteBlob::~IncompleteBlob() {
  if (fd_ >= 0) ::close(fd_);
}

void IncompleteBlob::begin_hash() {
  constexpr std::size_t kSha256Digits = 64;
  if (file_.hash.size() == kSha256Digits) {
    hash_ = std::make_unique<Sha256>();
    return;
  }
  hash_ = std::make_unique<Sha1>();  // as git names a file: of its size, then its bytes
  const std::string head = fmt::format("blob {}", file_.size) + '\0';
  hash_->update(std::as_bytes(std::span(head)));
}

bool IncompleteBlob::append(std::span<const std::byte> bytes) {
  if (bytes.size() > file_.size - size_) return false;
  hash_->update(bytes);
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(size_));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail_for_system(path_);
    size_ += static_cast<std::uint64_t>(put);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  return true;
}

void IncompleteBlob::clear() {
  if (::ftruncate(fd_, 0) != 0) fail_for_system(path_);
  size_ = 0;
  begin_hash();
}

bool IncompleteBlob::finish(const std::string& blob, std::string* found) {
  *found = hash_->finish();
  if (*found != file_.hash) {
    remove();
    return false;
  }
  if (::fsync(fd_) != 0) fail_for_system(path_);
  rename_path(path_, blob);
  sync_directory(fs::path(blob).parent_path().string());
  return true;
}

void IncompleteBlob::remove() { ::unlink(path_.c_str()); }

std::string find_hub_repository(const std::string& directory) {
  const fs::path path = fs::path(directory).lexically_normal();
  const fs::path snapshots = path.parent_path();
  std::string name = snapshots.parent_path().filename().string();
  if (snapshots.filename() != "snapshots" || !is_commit(path.filename().string()) ||
      !name.starts_with(kModels)) {
    return "";
  }
  name.erase(0, std::string_view(kModels).size());
  const std::size_t half = name.find("--");
  if (half != std::string::npos) name.replace(half, 2, "/");
  return parse_hub_name(name) ? name : "";
}

std::optional<std::uint64_t> free_disk_bytes(const std::string& directory) {
  struct statvfs status {};
  if (::statvfs(directory.c_str(), &status) != 0) return std::nullopt;
  return static_cast<std::uint64_t>(status.f_bavail) * status.f_frsize;
}

}  // namespace qalof::io
