// Unrolls loops over the registers of a tile early enough that the compiler keeps arrays in
// registers; with plain loops it keeps the sums in memory. Internal linkage, for the files of one
// instruction set.
#pragma once

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define QALOF_PLAIN_LOOPS
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define QALOF_PLAIN_LOOPS
#endif
#endif

namespace qalof::kernels {
namespace {

/// Calls body(0) .. body(kCount - 1), each with a constant. A plain loop under sanitizers: they
/// check the accesses just as well, and fully unrolled code takes them many minutes to compile.
#ifdef QALOF_PLAIN_LOOPS
template <int kCount, typename Body>
inline void unrolled(const Body& body) {
  for (int i = 0; i < kCount; ++i) body(i);
}
#else
template <int kCount, typename Body>
[[gnu::always_inline]] inline void unrolled(const Body& body) {
  if constexpr (kCount > 0) {
    unrolled<kCount - 1>(body);
    body(kCount - 1);
  }
}
#endif

}  // namespace
}  // namespace qalof::kernels

/// Marks a tile function: not inlined under sanitizers, to limit their compile time.
#ifdef QALOF_PLAIN_LOOPS
#define QALOF_TILE [[gnu::noinline]]
#else
#define QALOF_TILE
#endif

/// A body for unrolled: QALOF_UNROLLED(r) { ... }.
// NOLINTNEXTLINE(bugprone-macro-parentheses): index is a parameter's name.
#define QALOF_UNROLLED(index) [&](int index) __attribute__((always_inline))
