// Files: bounded reading, mapping, and writing that leaves the old file or the new one, never half.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qalof {

/// Whole contents of a regular file of at most max_bytes. Error{kNotFound}, or {kBadInput} where it
/// is larger or not a regular file: a pipe has no size, and waiting for its writer has no bound.
std::string read_file(const std::string& path, std::size_t max_bytes);

/// The first bytes of a regular file, at most max_bytes, by which to tell what it is; "" for what
/// is no such file or cannot be read. Never waits.
std::string read_start(const std::string& path, std::size_t max_bytes);

/// A read-only mapping of a regular file. Movable; views stay valid while it lives. Threads may
/// share it.
class MappedFile {
 public:
  static MappedFile open(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  /// The pages that lie within part, a view of bytes(), no longer count as memory of this process;
  /// reading them again brings them back. For large files that are read once, piece by piece.
  void release(std::span<const std::byte> part) const;

 private:
  friend class SpoolFile;
  MappedFile() = default;
  static MappedFile map(int fd, std::size_t size, const std::string& path);
  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A file that appears under its name only when commit() has flushed it; without commit it is
/// removed. Write errors are Error{kResource} naming the path and the system's reason. Not
/// thread-safe.
///
/// A regular file is replaced whole and keeps its mode and, where that is allowed, its owner; other
/// hard links keep what it held. A symbolic link stays, and what it leads to is replaced or made.
/// Pipes, character devices and open descriptors of this process (/dev/stdout, /dev/fd/3) are
/// written in place, as far as the writing gets. Directories, sockets and disks are refused.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  /// Flushes file and directory and renames.
  void commit();

 private:
  void flush_buffer();
  [[noreturn]] void fail_write(const char* what) const;
  std::string path_;
  std::string target_, temporary_;  // what the links lead to; temporary_ is empty in place
  std::vector<std::byte> buffer_;
  int fd_ = -1;
};

void write_file_atomic(const std::string& path, std::string_view bytes);

/// Bytes that would not fit memory, kept on the disk beside a file that is being made of them, or
/// among temporary files where that is written in place. It has no name, so that nothing is left
/// whatever happens. Errors as AtomicFile's. Not thread-safe.
class SpoolFile {
 public:
  /// path: of the file that is being made.
  explicit SpoolFile(const std::string& path);
  ~SpoolFile();
  SpoolFile(const SpoolFile&) = delete;
  SpoolFile& operator=(const SpoolFile&) = delete;
  void append(std::span<const std::byte> bytes);
  /// Bytes appended.
  std::size_t size() const { return size_; }
  /// All that was appended so far.
  MappedFile map() const;

 private:
  std::string path_;
  std::size_t size_ = 0;
  int fd_ = -1;
};

/// A file that grows: what append has written stays where the process dies. Errors as AtomicFile's.
/// Not thread-safe.
class AppendFile {
 public:
  /// Makes the file, or keeps what it holds and writes behind it.
  explicit AppendFile(const std::string& path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  /// In one system call where the disk has room.
  void append(std::string_view bytes);
  void sync();

 private:
  std::string path_;
  int fd_ = -1;
};

/// False where the path leads nowhere or may not be looked at; never throws.
bool path_exists(const std::string& path) noexcept;
bool is_directory(const std::string& path) noexcept;
/// True where both lead to one file or directory, by whatever names.
bool is_same_file(const std::string& a, const std::string& b) noexcept;
/// mkdir -p; Error{kResource}.
void make_directories(const std::string& path);
/// make_directories whose work is undone where nothing comes of it: directories that were made and
/// are empty when this ends are removed, so that a refusal leaves nothing behind.
class NewDirectory {
 public:
  explicit NewDirectory(const std::string& path);
  ~NewDirectory();
  NewDirectory(const NewDirectory&) = delete;
  NewDirectory& operator=(const NewDirectory&) = delete;

 private:
  NewDirectory() = default;
  std::vector<std::string> made_;  // innermost first
};
/// Flushes a directory's entries to disk.
void sync_directory(const std::string& path);
/// Flushes a file's contents to disk, whoever wrote it.
void sync_file(const std::string& path);
/// rename(2); Error{kResource}.
void rename_path(const std::string& from, const std::string& to);

/// Holds an exclusive lock on a directory (a file .lock in it, removed in the end) while it lives.
/// Error{kUsage} where another process has it.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::string& directory);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  std::string path_;
  int fd_ = -1;
};

}  // namespace qalof
