// A memfd whose first pages are a table of parts. The process of the lowest rank makes it, the
// others of its machine open it through /proc; a lock on it lets one write at a time.
#include "core/shared_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <system_error>

#include "core/error.h"
#include "core/hash.h"

namespace qalof {

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kMaxParts = 1 << 14;

struct Part {
  char name[64];  // sha256 in hex
  std::uint64_t offset, size;
};

struct Table {
  std::uint64_t count, end;  // bytes in use
  Part parts[kMaxParts];
};

std::size_t whole_pages(std::size_t size) { return (size + kPage - 1) / kPage * kPage; }

[[noreturn]] void fail_with_errno(const char* what) {
  fail(ErrorKind::kResource, "memory shared by processes: {}: {}", what,
       std::generic_category().message(errno));
}

void write_all(int fd, const void* bytes, std::size_t size, std::size_t offset) {
  const char* from = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t written = ::pwrite(fd, from, size, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail_with_errno("write");
    from += written;
    size -= static_cast<std::size_t>(written);
    offset += static_cast<std::size_t>(written);
  }
}

// Another process's files are found through /proc where both run on one kernel and see the same
// processes.
std::string machine() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  const std::string boot{std::istreambuf_iterator<char>(file), {}};
  struct stat processes {};
  if (boot.empty() || ::stat("/proc/self/ns/pid", &processes) != 0) return "";
  return fmt::format("{} {}", boot, processes.st_ino);
}

// Held by one process at a time, and let go where that process ends.
class FileLock {
 public:
  explicit FileLock(int fd) : fd_(fd) {
    while (::flock(fd_, LOCK_EX) != 0) {
      if (errno != EINTR) fail_with_errno("lock");
    }
  }
  ~FileLock() { ::flock(fd_, LOCK_UN); }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int fd_;
};

}  // namespace

std::shared_ptr<SharedMemory> SharedMemory::connect(ProcessGroup& group) {
  // Each tells where it runs and the memory it offers.
  const std::string here = machine();
  const int own = here.empty() ? -1 : ::memfd_create("qalof", MFD_CLOEXEC);
  if (own >= 0 && ::ftruncate(own, static_cast<off_t>(whole_pages(sizeof(Table)))) == 0) {
    const std::uint64_t start[] = {0, whole_pages(sizeof(Table))};
    write_all(own, start, sizeof start, 0);
  }
  const std::string place = fmt::format("/proc/{}/fd/{}", ::getpid(), own);
  const std::vector<std::string> machines = gather_texts(group, here);
  const std::vector<std::string> places = gather_texts(group, own < 0 ? "" : place);
  std::size_t first = group.rank(), members = 0;
  for (std::size_t rank = group.size(); rank-- > 0;) {
    if (machines[rank] != here) continue;
    first = rank;
    ++members;
  }
  int fd = own;
  if (first != group.rank())
    fd = places[first].empty() ? -1 : ::open(places[first].c_str(), O_RDWR | O_CLOEXEC);
  // One that cannot take part does without, and so do all of its machine: none waits for it.
  const bool works = !here.empty() && members > 1 && fd >= 0;
  const std::vector<std::string> all = gather_texts(group, works ? "1" : "0");
  bool agreed = works;
  for (std::size_t rank = 0; rank < group.size(); ++rank)
    agreed = agreed && (machines[rank] != here || all[rank] == "1");
  if (own >= 0 && (fd != own || !agreed)) ::close(own);
  if (agreed) return std::shared_ptr<SharedMemory>(new SharedMemory(fd));
  if (fd >= 0 && fd != own) ::close(fd);
  return nullptr;
}

SharedMemory::~SharedMemory() {
  for (const Mapping& mapping : mappings_) ::munmap(mapping.address, mapping.size);
  ::close(fd_);
}

const std::byte* SharedMemory::map(std::size_t offset, std::size_t size) {
  void* address =
      ::mmap(nullptr, whole_pages(size), PROT_READ, MAP_SHARED, fd_, static_cast<off_t>(offset));
  if (address == MAP_FAILED) fail_with_errno("map");
  mappings_.push_back({address, whole_pages(size)});
  return static_cast<const std::byte*>(address);
}

std::span<const std::byte> SharedMemory::get(const std::string& name,
                                             const std::function<std::vector<std::byte>()>& make) {
  const std::lock_guard guard(mutex_);
  const FileLock lock(fd_);
  if (mappings_.empty()) map(0, sizeof(Table));
  const auto* table = static_cast<const Table*>(mappings_.front().address);
  const std::string hash = sha256_hex(std::as_bytes(std::span(name)));
  for (std::size_t i = 0; i < table->count; ++i) {
    const Part& part = table->parts[i];
    if (std::memcmp(part.name, hash.data(), sizeof part.name) == 0)
      return {map(part.offset, part.size), part.size};
  }
  QALOF_CHECK(table->count < kMaxParts, ErrorKind::kResource,
              "memory shared by processes: more than {} parts", kMaxParts);
  const std::vector<std::byte> bytes = make();
  Part part{};
  std::memcpy(part.name, hash.data(), sizeof part.name);
  part.offset = table->end;
  part.size = bytes.size();
  write_all(fd_, bytes.data(), bytes.size(), part.offset);
  if (::ftruncate(fd_, static_cast<off_t>(part.offset + whole_pages(part.size))) != 0)
    fail_with_errno("grow");
  // The table names the part when all of it stands.
  write_all(fd_, &part, sizeof part, offsetof(Table, parts) + table->count * sizeof part);
  const std::uint64_t now[] = {table->count + 1, part.offset + whole_pages(part.size)};
  write_all(fd_, now, sizeof now, 0);
  return {map(part.offset, part.size), part.size};
}

}  // namespace qalof
