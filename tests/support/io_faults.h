// Makes the k-th system call of a kind fail, as a full or broken disk would. The definitions below
// stand in front of the C library's for the whole test program: include this in one of its files.
#pragma once

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <string>
#include <string_view>

namespace qalof::testing {

enum class SystemCall { kOpen, kWrite, kFsync, kRename, kMkdir };

/// Counts calls on paths below a directory while it lives; the k-th (0-based) and, with `lasting`,
/// all later ones fail with `error`. One at a time.
class IoFaults {
 public:
  IoFaults(SystemCall call, int failing, int error, const std::string& below, bool lasting = false)
      : call_(call), failing_(failing), error_(error), below_(below), lasting_(lasting) {
    active = this;
  }
  ~IoFaults() { active = nullptr; }
  IoFaults(const IoFaults&) = delete;
  IoFaults& operator=(const IoFaults&) = delete;

  /// Calls counted so far.
  int calls() const { return calls_.load(); }
  /// True where a call of path has to fail; sets errno.
  static bool fails(SystemCall call, std::string_view path) {
    IoFaults* faults = active;
    if (faults == nullptr || faults->call_ != call || !path.starts_with(faults->below_)) {
      return false;
    }
    const int index = faults->calls_.fetch_add(1);
    if (index != faults->failing_ && !(faults->lasting_ && index > faults->failing_)) return false;
    errno = faults->error_;
    return true;
  }
  static bool fails(SystemCall call, int fd) {
    if (active == nullptr) return false;
    char path[4096];
    const std::string link = "/proc/self/fd/" + std::to_string(fd);
    const ssize_t size = ::readlink(link.c_str(), path, sizeof path);
    return size > 0 && fails(call, std::string_view(path, static_cast<std::size_t>(size)));
  }

 private:
  inline static IoFaults* active = nullptr;
  SystemCall call_;
  int failing_, error_;
  std::string below_;
  bool lasting_;
  std::atomic<int> calls_{0};
};

template <typename Function>
Function* next_definition(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace qalof::testing

// Libraries that the program loads call these instead of the C library's only if they can see them.
#pragma GCC visibility push(default)
extern "C" {

int open(const char* path, int flags, ...) {
  using qalof::testing::IoFaults, qalof::testing::SystemCall;
  static auto* const next = qalof::testing::next_definition<int(const char*, int, ...)>("open");
  mode_t mode = 0;
  if ((flags & O_CREAT) != 0) {
    va_list arguments;
    va_start(arguments, flags);
    mode = va_arg(arguments, mode_t);
    va_end(arguments);
    if (IoFaults::fails(SystemCall::kOpen, path)) return -1;
  }
  return next(path, flags, mode);
}

ssize_t write(int fd, const void* bytes, size_t size) {
  using qalof::testing::IoFaults, qalof::testing::SystemCall;
  static auto* const next =
      qalof::testing::next_definition<ssize_t(int, const void*, size_t)>("write");
  return IoFaults::fails(SystemCall::kWrite, fd) ? -1 : next(fd, bytes, size);
}

int fsync(int fd) {
  using qalof::testing::IoFaults, qalof::testing::SystemCall;
  static auto* const next = qalof::testing::next_definition<int(int)>("fsync");
  return IoFaults::fails(SystemCall::kFsync, fd) ? -1 : next(fd);
}

int rename(const char* from, const char* to) noexcept {
  using qalof::testing::IoFaults, qalof::testing::SystemCall;
  static auto* const next =
      qalof::testing::next_definition<int(const char*, const char*)>("rename");
  return IoFaults::fails(SystemCall::kRename, to) ? -1 : next(from, to);
}

int mkdir(const char* path, mode_t mode) noexcept {
  using qalof::testing::IoFaults, qalof::testing::SystemCall;
  static auto* const next = qalof::testing::next_definition<int(const char*, mode_t)>("mkdir");
  return IoFaults::fails(SystemCall::kMkdir, path) ? -1 : next(path, mode);
}
}
#pragma GCC visibility pop
