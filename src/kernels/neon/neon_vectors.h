// The base of all NEON formats of vector_tile.h: the 64 bytes of a panel's vector, and a sum per
// row and panel, are four registers. Internal linkage.
#pragma once

#include "kernels/neon/neon_math.h"
#include "kernels/vector_tile.h"

namespace qalof::kernels {
namespace {

/// Outputs 0..3, 4..7, 8..11 and 12..15 of a panel.
template <typename Register>
struct Four {
  Register part[4];
};

/// Elements of the outputs that exist, and zeros: left of 16.
[[maybe_unused]] inline Four<float32x4_t> load_outputs(const float* at, std::size_t left) {
  const F32x8 low = EightFloats::load(at, EightFloats::mask(left));
  const F32x8 high =
      left > 8 ? EightFloats::load(at + 8, EightFloats::mask(left - 8)) : EightFloats::all(0.0F);
  return {{low.low, low.high, high.low, high.high}};
}
[[maybe_unused]] inline void store_outputs(float* at, const Four<float32x4_t>& v,
                                           std::size_t left) {
  EightFloats::store(at, {v.part[0], v.part[1]}, EightFloats::mask(left));
  if (left > 8) EightFloats::store(at + 8, {v.part[2], v.part[3]}, EightFloats::mask(left - 8));
}

/// body(0) .. body(3) as the parts of a result.
template <typename Body>
[[gnu::always_inline]] inline auto four(const Body& body) {
  return Four<decltype(body(0))>{{body(0), body(1), body(2), body(3)}};
}

#define QALOF_PART [&](int i) __attribute__((always_inline))

struct NeonFormat {
  static constexpr std::size_t kUnitBytes = kVectorBytes;
  static constexpr int kWidest = 1;
  template <typename Register>
  static void settle(Four<Register>& sum) {
    asm volatile("" : "+w"(sum.part[0]), "+w"(sum.part[1]), "+w"(sum.part[2]), "+w"(sum.part[3]));
  }
};

}  // namespace
}  // namespace qalof::kernels
