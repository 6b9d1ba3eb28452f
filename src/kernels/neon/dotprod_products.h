// Products of neon_int_formats.h by SDOT, which adds four products to each of four sums. Internal
// linkage, for files compiled for it.
#pragma once

#include "kernels/neon/neon_int_formats.h"

namespace qalof::kernels {
namespace {

struct DotProducts {
  using Sum = Ints;
  static constexpr std::size_t kTallest = 6;  // 24 of 32 registers
  static Ints add(const Ints& sum, int8x16_t x, const Bytes& w) {
    return four(QALOF_PART { return vdotq_s32(sum.part[i], w.part[i], x); });
  }
  static Ints from(const Ints& ints) { return ints; }
  static Ints total(const Ints& sum) { return sum; }
  static void settle(Ints& sum) { NeonFormat::settle(sum); }
};

}  // namespace
}  // namespace qalof::kernels
