// Files on POSIX: mapped and bounded reading, atomic replacement by rename, in-place writing of
// pipes and descriptors, spool files without a name, directory locks.
#include "core/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace qalof {

namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

std::string system_reason(int error = errno) { return std::generic_category().message(error); }

// A descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a disk";
  if (S_ISSOCK(mode)) return "a socket";
  return "no regular file";
}

// A clone without Git LFS holds small text pointers in place of large files. Any reader's own
// message about such a file would mislead, so it is recognized here.
bool is_lfs_pointer(int fd, std::size_t size) {
  constexpr std::string_view kStart = "version https://git-lfs.github.com/spec/";
  constexpr std::size_t kMaxPointer = 1024;  // of its specification
  if (size < kStart.size() || size >= kMaxPointer) return false;
  std::array<char, kStart.size()> start{};
  return ::pread(fd, start.data(), start.size(), 0) == static_cast<ssize_t>(start.size()) &&
         std::string_view(start.data(), start.size()) == kStart;
}

// Opens for reading and returns the size of the open descriptor, so that the path is looked up
// once.
std::size_t open_regular(const std::string& path, int* fd) {
  *fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (*fd < 0) {
    const ErrorKind kind =
        errno == EACCES || errno == EMFILE ? ErrorKind::kResource : ErrorKind::kNotFound;
    fail(kind, "{}: {}", path, system_reason());
  }
  struct stat status {};
  if (::fstat(*fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(*fd);
    fail(ErrorKind::kBadInput, "{}: is not a regular file but {}", path, kind_of(status.st_mode));
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  if (is_lfs_pointer(*fd, size)) {
    ::close(*fd);
    fail(ErrorKind::kBadInput,
         "{}: is a Git LFS pointer, not the file itself; run git lfs pull where it was cloned",
         path);
  }
  return size;
}

// False, with errno, where not every byte could be written.
bool write_all(int fd, const std::byte* bytes, std::size_t size) {
  std::size_t done = 0;
  while (done < size) {
    const ssize_t put = ::write(fd, bytes + done, size - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return false;
    done += static_cast<std::size_t>(put);
  }
  return true;
}

std::string parent_of(const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

// A new file in the directory of path, and its name; -1 on failure.
int open_temporary(const std::string& path, std::string* taken) {
  for (;;) {
    *taken = next_temporary_name(path);
    const int fd = ::open(taken->c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0 || errno != EEXIST) return fd;
  }
}

// Where a write to a path ends up.
struct OutputTarget {
  std::string path;                // after following symbolic links
  bool in_place = false;           // a pipe, device or descriptor, which a rename must not replace
  int descriptor = -1;             // of this process, where the path names one; else -1
  std::optional<struct stat> old;  // of the regular file that exists
};

// N of "/proc/self/fd/N" by any spelling; -1 for other paths.
int own_descriptor(const std::string& path) {
  const std::filesystem::path whole(path);
  std::error_code error;
  const std::filesystem::path parent = std::filesystem::canonical(parent_of(path), error);
  if (error || parent != fmt::format("/proc/{}/fd", ::getpid())) return -1;
  const std::string name = whole.filename().string();
  const bool is_number =
      !name.empty() && name.size() < 7 && name.find_first_not_of("0123456789") == std::string::npos;
  return is_number ? std::stoi(name) : -1;
}

OutputTarget find_target(const std::string& path) {
  QALOF_CHECK(!path.empty(), ErrorKind::kUsage, "the name of a file to write is empty");
  constexpr int kMaxLinks = 40;  // the system's own limit
  OutputTarget target{path, false, -1, std::nullopt};
  for (int links = 0; links <= kMaxLinks; ++links) {
    target.descriptor = own_descriptor(target.path);
    target.in_place = target.descriptor >= 0;
    struct stat status {};
    // A missing directory or permission is reported when the file is opened.
    if (target.in_place || ::lstat(target.path.c_str(), &status) != 0) return target;
    if (S_ISREG(status.st_mode)) {
      QALOF_CHECK(::faccessat(AT_FDCWD, target.path.c_str(), W_OK, AT_EACCESS) == 0,
                  ErrorKind::kResource, "{}: cannot be written: {}", path, system_reason());
      target.old = status;
      return target;
    }
    if (S_ISFIFO(status.st_mode) || S_ISCHR(status.st_mode)) {
      target.in_place = true;
      return target;
    }
    QALOF_CHECK(S_ISLNK(status.st_mode), ErrorKind::kResource,
                "{}: cannot be written: is {}, expected a file", path, kind_of(status.st_mode));
    std::error_code error;
    const std::filesystem::path link = std::filesystem::read_symlink(target.path, error);
    QALOF_CHECK(!error, ErrorKind::kResource, "{}: cannot be written: {}", path, error.message());
    target.path = (std::filesystem::path(parent_of(target.path)) / link).string();
  }
  fail(ErrorKind::kResource, "{}: cannot be written: {}", path, system_reason(ELOOP));
}

int open_in_place(const OutputTarget& target) {
  return target.descriptor >= 0 ? ::fcntl(target.descriptor, F_DUPFD_CLOEXEC, 0)
                                : ::open(target.path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY);
}

// The new file gets the permissions of the one it replaces before its first byte is written.
void take_over_rights(int fd, const struct stat& old) {
  constexpr mode_t kRights = 0777;
  // Without privileges another user's file can be replaced, but its owner cannot be kept.
  const bool is_kept = ::fchown(fd, old.st_uid, old.st_gid) == 0;
  static_cast<void>(is_kept);
  // Some file systems store no modes.
  static_cast<void>(::fchmod(fd, old.st_mode & kRights));
}

[[noreturn]] void fail_write(const std::string& path, const char* what) {
  const std::string reason = system_reason();
  fail(ErrorKind::kResource, "{}: cannot be written ({}): {}; what was there before is unchanged",
       path, what, reason);
}

}  // namespace

std::string next_temporary_name(const std::string& path) {
  static std::atomic<unsigned> counter{0};
  constexpr std::size_t kMostOfName = 200;
  const std::size_t name = path.rfind('/') + 1;  // 0 where there is none
  return fmt::format("{}.tmp-{}-{}", path.substr(0, name + kMostOfName), ::getpid(),
                     counter.fetch_add(1));
}

std::string read_file(const std::string& path, std::size_t max_bytes) {
  int fd = -1;
  const std::size_t size = open_regular(path, &fd);
  const Descriptor descriptor(fd);
  QALOF_CHECK(size <= max_bytes, ErrorKind::kBadInput, "{}: has {} bytes, at most {} are read",
              path, size, max_bytes);
  std::string bytes(size, '\0');
  std::size_t done = 0;
  while (done < size) {
    const ssize_t got = ::read(fd, bytes.data() + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    QALOF_CHECK(got >= 0, ErrorKind::kResource, "{}: {}", path, system_reason());
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

std::string read_start(const std::string& path, std::size_t max_bytes) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (file.get() < 0 || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) return "";
  std::string bytes(max_bytes, '\0');
  const ssize_t got = ::pread(file.get(), bytes.data(), max_bytes, 0);
  bytes.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  return bytes;
}

MappedFile MappedFile::open(const std::string& path) {
  int fd = -1;
  const std::size_t size = open_regular(path, &fd);
  const Descriptor descriptor(fd);
  return map(fd, size, path);
}

MappedFile MappedFile::map(int fd, std::size_t size, const std::string& path) {
  MappedFile file;
  file.path_ = path;
  if (size == 0) return file;
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  QALOF_CHECK(data != MAP_FAILED, ErrorKind::kResource, "{}: cannot be mapped: {}", path,
              system_reason());
  file.data_ = static_cast<const std::byte*>(data);
  file.size_ = size;
  return file;
}

void MappedFile::release(std::span<const std::byte> part) const {
  static const auto kPage = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = static_cast<std::size_t>(part.data() - data_);
  const std::size_t first = (begin + kPage - 1) / kPage * kPage;
  const std::size_t last =
      begin + part.size() == size_ ? size_ : (begin + part.size()) / kPage * kPage;
  // Advice only: where the system ignores it, the pages stay in memory.
  if (first < last) ::madvise(const_cast<std::byte*>(data_) + first, last - first, MADV_DONTNEED);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

AtomicFile::AtomicFile(const std::string& path) : path_(path) {
  buffer_.reserve(kBufferBytes);
  const OutputTarget target = find_target(path);
  target_ = target.path;
  fd_ = target.in_place ? open_in_place(target) : open_temporary(target_, &temporary_);
  if (fd_ < 0) fail_write("open");
  if (target.old) take_over_rights(fd_, *target.old);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::fail_write(const char* what) const {
  if (!temporary_.empty()) qalof::fail_write(path_, what);
  fail(ErrorKind::kResource, "{}: cannot be written ({}): {}", path_, what, system_reason());
}

void AtomicFile::flush_buffer() {
  if (!write_all(fd_, buffer_.data(), buffer_.size())) fail_write("write");
  buffer_.clear();
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::size_t part = std::min(bytes.size(), kBufferBytes - buffer_.size());
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(part));
    bytes = bytes.subspan(part);
    if (buffer_.size() == kBufferBytes) flush_buffer();
  }
}

void AtomicFile::write(std::string_view text) {
  write(std::as_bytes(std::span(text.data(), text.size())));
}

void AtomicFile::commit() {
  flush_buffer();
  // Pipes and devices have nothing to flush.
  if (::fsync(fd_) != 0 && (!temporary_.empty() || errno == EIO)) fail_write("fsync");
  if (!temporary_.empty() && ::rename(temporary_.c_str(), target_.c_str()) != 0)
    fail_write("rename");
  ::close(std::exchange(fd_, -1));
  if (!temporary_.empty()) sync_directory(parent_of(target_));
}

void write_file_atomic(const std::string& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

SpoolFile::SpoolFile(const std::string& path) : path_(path) {
  const OutputTarget target = find_target(path);
  std::error_code ignored;
  std::string name;
  fd_ = open_temporary(target.in_place
                           ? (std::filesystem::temp_directory_path(ignored) / "qalof").string()
                           : target.path,
                       &name);
  if (fd_ < 0) fail_write(path_, "open");
  ::unlink(name.c_str());
}

SpoolFile::~SpoolFile() { ::close(fd_); }

void SpoolFile::append(std::span<const std::byte> bytes) {
  if (!write_all(fd_, bytes.data(), bytes.size())) fail_write(path_, "write");
  size_ += bytes.size();
}

void SpoolFile::read(std::size_t first, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(first));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) fail_write(path_, "read");
    first += static_cast<std::size_t>(got);
    bytes = bytes.subspan(static_cast<std::size_t>(got));
  }
}

MappedFile SpoolFile::map() const { return MappedFile::map(fd_, size_, path_); }

AppendFile::AppendFile(const std::string& path)
    : path_(path), fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  QALOF_CHECK(fd_ >= 0, ErrorKind::kResource, "{}: cannot be written: {}", path, system_reason());
}

AppendFile::~AppendFile() { ::close(fd_); }

void AppendFile::append(std::string_view bytes) {
  QALOF_CHECK(write_all(fd_, reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()),
              ErrorKind::kResource, "{}: cannot be written: {}", path_, system_reason());
}

void AppendFile::sync() {
  QALOF_CHECK(::fsync(fd_) == 0, ErrorKind::kResource, "{}: cannot be flushed: {}", path_,
              system_reason());
}

bool path_exists(const std::string& path) noexcept {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

bool is_directory(const std::string& path) noexcept {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

bool is_same_file(const std::string& a, const std::string& b) noexcept {
  struct stat first {
  }, second{};
  return ::stat(a.c_str(), &first) == 0 && ::stat(b.c_str(), &second) == 0 &&
         first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

void make_directories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  QALOF_CHECK(!error && is_directory(path), ErrorKind::kResource,
              "{}: cannot be made a directory: {}", path,
              error ? error.message() : "a file of that name is there");
}

void remove_tree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  QALOF_CHECK(!error, ErrorKind::kResource, "{}: cannot be removed: {}", path, error.message());
}

NewDirectory::NewDirectory(const std::string& path) : NewDirectory() {
  // This constructor delegates, so that the destructor runs where the rest throws.
  std::filesystem::path missing = path;
  if (!missing.has_filename()) missing = missing.parent_path();
  for (; !missing.empty() && !path_exists(missing.string()); missing = missing.parent_path())
    made_.push_back(missing.string());
  make_directories(path);
}

NewDirectory::~NewDirectory() {
  for (const std::string& path : made_) ::rmdir(path.c_str());  // fails unless it is empty
}

void sync_directory(const std::string& path) {
  const Descriptor directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  QALOF_CHECK(directory.get() >= 0 && ::fsync(directory.get()) == 0, ErrorKind::kResource,
              "{}: the directory cannot be flushed: {}", path, system_reason());
}

void sync_file(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  QALOF_CHECK(file.get() >= 0 && ::fsync(file.get()) == 0, ErrorKind::kResource,
              "{}: cannot be flushed: {}", path, system_reason());
}

void rename_path(const std::string& from, const std::string& to) {
  QALOF_CHECK(::rename(from.c_str(), to.c_str()) == 0, ErrorKind::kResource,
              "{}: cannot be renamed to {}: {}", from, to, system_reason());
}

DirectoryLock::DirectoryLock(const std::string& directory) {
  path_ = directory + "/.lock";
  for (;;) {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    QALOF_CHECK(fd_ >= 0, ErrorKind::kResource, "{}: {}", path_, system_reason());
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) break;
    // A previous holder may have removed the file after it was opened here; a lock on a removed
    // file protects nothing.
    struct stat opened {
    }, there{};
    if (::fstat(fd_, &opened) == 0 && ::stat(path_.c_str(), &there) == 0 &&
        opened.st_ino == there.st_ino && opened.st_dev == there.st_dev)
      return;
    ::close(std::exchange(fd_, -1));
  }
  const int error = errno;
  ::close(std::exchange(fd_, -1));
  QALOF_CHECK(error != EWOULDBLOCK, ErrorKind::kUsage,
              "{}: another run writes there; choose another directory", directory);
  fail(ErrorKind::kResource, "{}: cannot be locked: {}", path_, system_reason(error));
}

DirectoryLock::~DirectoryLock() {
  if (fd_ < 0) return;
  ::unlink(path_.c_str());  // while the lock is still held
  ::close(fd_);
}

}  // namespace qalof
