// Peak of the bytes allocated with new in this program. Include it in ONE file of a test program:
// it replaces operator new.
#pragma once

#include <malloc.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace qalof::testing {

inline std::atomic<std::size_t> allocated_bytes{0}, peak_bytes{0};

/// Peak of what action allocates beyond what is allocated now.
template <typename Action>
std::size_t peak_of(Action&& action) {
  const std::size_t before = allocated_bytes;
  peak_bytes = before;
  action();
  return peak_bytes - before;
}

}  // namespace qalof::testing

// Both sides of each pair are here; the compiler inlines one and warns of the other.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

// Sizes are malloc's own, so that its rounding counts too.
void* operator new(std::size_t size) {
  void* pointer = std::malloc(size == 0 ? 1 : size);
  if (pointer == nullptr) throw std::bad_alloc();
  using namespace qalof::testing;
  const std::size_t now = allocated_bytes += malloc_usable_size(pointer);
  std::size_t peak = peak_bytes;
  while (peak < now && !peak_bytes.compare_exchange_weak(peak, now)) {
  }
  return pointer;
}
// The library's temporary buffers come from this one and are freed below.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return operator new(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* pointer) noexcept {
  if (pointer == nullptr) return;
  qalof::testing::allocated_bytes -= malloc_usable_size(pointer);
  std::free(pointer);
}
void operator delete(void* pointer, std::size_t) noexcept { operator delete(pointer); }
