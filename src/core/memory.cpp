// Words out-of-memory errors, and tunes glibc's allocator for repeated large allocations.
#include "core/memory.h"

#include <malloc.h>

#include <cstdint>
#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace qalof {

OutOfMemory::OutOfMemory(const std::string& what)
    : Error(ErrorKind::kResource, "out of memory: " + what) {}

OutOfMemory::OutOfMemory(const std::string& what, std::size_t count, std::size_t bytes_each)
    : OutOfMemory(fmt::format("{} need{} {:.4g} MB", what, what.ends_with('s') ? "" : "s",
                              static_cast<double>(count) * static_cast<double>(bytes_each) / 1e6)) {
}

void keep_freed_memory([[maybe_unused]] std::size_t expected_bytes) {
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 64 << 20);
#if defined(__linux__)
  // The freed block becomes the top of the heap, from which later allocations are taken.
  constexpr std::uintptr_t kLargePage = std::uintptr_t{2} << 20;
  void* block = expected_bytes < 2 * kLargePage ? nullptr : std::malloc(expected_bytes);
  if (block == nullptr) return;
  const auto address = reinterpret_cast<std::uintptr_t>(block);
  const std::uintptr_t begin = (address + kLargePage - 1) & ~(kLargePage - 1);
  const std::uintptr_t end = (address + expected_bytes) & ~(kLargePage - 1);
  madvise(static_cast<char*>(block) + (begin - address), end - begin, MADV_HUGEPAGE);
  std::free(block);
#endif
#endif
}

}  // namespace qalof
