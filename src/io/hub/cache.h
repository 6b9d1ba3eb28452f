// The cache directory that Python's huggingface_hub and its users share, read and written as they
// do: models--org--name/{blobs,refs,snapshots,.no_exist}, locks in .locks. A file appears under its
// name when it is complete and verified, or not at all.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "core/hash.h"
#include "core/progress.h"

namespace qalof::io {

/// A file as the hub lists it.
struct HubFile {
  std::string path;  // within the repository; is_safe_hub_path
  std::uint64_t size = 0;
  std::string hash;  // its name as a blob: sha256 where that has 64 digits, git's sha1 where 40
};

/// An exclusive lock that Python honours too (flock on the same file), held while it lives.
class HubLock {
 public:
  /// Waits for other processes, and tells observer so. Error{kInterrupted} where should_stop, which
  /// may be null, says so; {kResource}.
  HubLock(const std::string& path, const std::string& what, Observer& observer,
          const std::function<bool()>& should_stop);
  ~HubLock();
  /// False on a file system without locks: nothing is excluded then.
  bool is_held() const { return is_held_; }
  HubLock(const HubLock&) = delete;
  HubLock& operator=(const HubLock&) = delete;

 private:
  int fd_ = -1;
  bool is_held_ = true;
};

/// One repository in the cache. Names of files are safe ones (is_safe_hub_path). Errors of writing
/// are Error{kResource}.
class HubRepository {
 public:
  HubRepository(std::string cache, const std::string& repository, bool symlinks);
  const std::string& path() const { return path_; }

  /// The commit that a revision stood for when it was last seen; a commit is its own.
  std::optional<std::string> find_commit(const std::string& revision) const;
  void set_commit(const std::string& revision, const std::string& commit) const;

  std::string snapshot(const std::string& commit) const;
  bool has(const std::string& commit, const std::string& file) const;
  /// True where it is known that the commit has no such file.
  bool lacks(const std::string& commit, const std::string& file) const;
  void set_lacks(const std::string& commit, const std::string& file) const;

  std::string blob(const HubFile& file) const;
  /// True where the blob is there, with the size that the hub tells.
  bool has_blob(const HubFile& file) const;
  std::string lock(const HubFile& file) const;
  /// The blob while it is incomplete. One name per machine, where the lock protects it; network
  /// file systems exist where a lock of another machine is not seen. is_locked false: one per
  /// process.
  std::string incomplete(const HubFile& file, bool is_locked = true) const;
  /// Shows the blob in a commit's snapshot: a link, or where none can be made the file itself.
  void show(const std::string& commit, const HubFile& file) const;
  /// Makes the directories that blobs and locks need.
  void make_directories() const;

 private:
  std::string cache_, name_, path_;
  bool symlinks_;
};

/// The beginning of a blob on disk, to which the rest is added.
class IncompleteBlob {
 public:
  /// Opens or creates the file, and hashes what it holds. The caller holds the blob's lock.
  IncompleteBlob(const std::string& path, const HubFile& file);
  ~IncompleteBlob();
  IncompleteBlob(const IncompleteBlob&) = delete;
  IncompleteBlob& operator=(const IncompleteBlob&) = delete;
  std::uint64_t size() const { return size_; }
  bool is_full() const { return size_ == file_.size; }
  /// False where the bytes do not fit into the file's size; then nothing is written.
  bool append(std::span<const std::byte> bytes);
  /// Forgets everything.
  void clear();
  /// Flushes the file and gives it its name; false, and the file is removed, where its hash is not
  /// the one that its name tells (found has it). To be called once, when it is full.
  bool finish(const std::string& blob, std::string* found);
  void remove();

 private:
  void begin_hash();
  std::string path_;
  HubFile file_;
  std::unique_ptr<Hash> hash_;
  std::uint64_t size_ = 0;
  int fd_ = -1;
};

/// "org/name" where directory is a repository's snapshot in a cache, else "".
std::string find_hub_repository(const std::string& directory);
/// Bytes that a user may write on the disk of a directory; nothing where that is not known.
std::optional<std::uint64_t> free_disk_bytes(const std::string& directory);

}  // namespace qalof::io
