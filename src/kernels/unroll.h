// Loops over the registers of a tile, unrolled before the compiler decides where arrays live: with
// plain loops it keeps the sums in memory. Internal linkage, for the files of one instruction set.
#pragma once

namespace qalof::kernels {
namespace {

/// body(0) .. body(kCount - 1), each with a constant.
template <int kCount, typename Body>
[[gnu::always_inline]] inline void unrolled(const Body& body) {
  if constexpr (kCount > 0) {
    unrolled<kCount - 1>(body);
    body(kCount - 1);
  }
}

}  // namespace
}  // namespace qalof::kernels

/// A body for unrolled: QALOF_UNROLLED(r) { ... }.
#define QALOF_UNROLLED(index) [&](int index) __attribute__((always_inline))
