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

/// The first bytes of a regular file, at most max_bytes, for recognizing its format; "" where it is
/// not a regular file or cannot be read. Never waits.
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
  /// Drops the pages that lie wholly within part, a view of bytes(), from this process's memory;
  /// reading them again loads them again. For large files that are read once, piece by piece.
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
/// A regular file is replaced as a whole and keeps its mode and, where that is permitted, its
/// owner; other hard links keep the old contents. A symbolic link stays, and its target is replaced
/// or created. Pipes, character devices and open descriptors of this process (/dev/stdout,
/// /dev/fd/3) are written in place, so a failure leaves them partly written. Directories, sockets
/// and disks are refused.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  /// Flushes the file and its directory, and renames.
  void commit();

 private:
  void flush_buffer();
  [[noreturn]] void fail_write(const char* what) const;
  std::string path_;
  std::string target_, temporary_;  // target_: after following links; temporary_: "" in place
  std::vector<std::byte> buffer_;
  int fd_ = -1;
};

void write_file_atomic(const std::string& path, std::string_view bytes);

/// Temporary storage on disk for bytes that would not fit into memory: beside the output file, or
/// in the directory for temporary files where the output is written in place. The spool file has no
/// name, so nothing is left even after a crash. Errors as AtomicFile's. Not thread-safe.
class SpoolFile {
 public:
  /// path: the output file that the bytes are for.
  explicit SpoolFile(const std::string& path);
  ~SpoolFile();
  SpoolFile(const SpoolFile&) = delete;
  SpoolFile& operator=(const SpoolFile&) = delete;
  void append(std::span<const std::byte> bytes);
  /// Bytes appended.
  std::size_t size() const { return size_; }
  /// Fills bytes with those that were appended, from byte first on. Several threads may read.
  /// Error{kResource}.
  void read(std::size_t first, std::span<std::byte> bytes) const;
  /// A mapping of everything appended so far.
  MappedFile map() const;

 private:
  std::string path_;
  std::size_t size_ = 0;
  int fd_ = -1;
};

/// A file that only grows: bytes written by append survive the death of the process. Errors as
/// AtomicFile's. Not thread-safe.
class AppendFile {
 public:
  /// Creates the file, or keeps its contents and writes after them.
  explicit AppendFile(const std::string& path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  /// One system call where the disk has room.
  void append(std::string_view bytes);
  void sync();

 private:
  std::string path_;
  int fd_ = -1;
};

/// A name beside path's that no other thread of this process gets; a long name is cut. It may be
/// taken, and its user then asks for the next: in a container every run may have the same process
/// number, so one that was killed leaves a file under the name that the next would choose first.
std::string next_temporary_name(const std::string& path);
/// False where the path does not exist or may not be looked at; never throws.
bool path_exists(const std::string& path) noexcept;
bool is_directory(const std::string& path) noexcept;
/// True where both names lead to one file or directory.
bool is_same_file(const std::string& a, const std::string& b) noexcept;
/// Creates a directory and its parents; Error{kResource}.
void make_directories(const std::string& path);
/// Removes a file, or a directory with all it holds; nothing where there is none. Error{kResource}.
void remove_tree(const std::string& path);
/// make_directories with undo: directories that it created and that are still empty when this
/// object is destroyed are removed, so that a refused command leaves nothing behind.
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
/// Flushes a file's contents to disk, whichever process wrote them.
void sync_file(const std::string& path);
/// rename(2); Error{kResource}.
void rename_path(const std::string& from, const std::string& to);

/// Holds an exclusive lock on a directory (a file .lock in it, removed at the end) while it lives.
/// Error{kUsage} where another process holds it.
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
