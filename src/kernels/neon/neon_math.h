// Vector helpers of the NEON files: the vector of ops_row.h, eight floats in two registers, whose
// steps are those of AVX2, so that results are bit-equal to AVX2's. Internal linkage.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "kernels/ops_row.h"

namespace qalof::kernels {
namespace {

/// Lanes 0..3 and 4..7.
struct F32x8 {
  float32x4_t low, high;
};
inline F32x8 operator+(F32x8 a, F32x8 b) {
  return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)};
}
inline F32x8 operator-(F32x8 a, F32x8 b) {
  return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)};
}
inline F32x8 operator*(F32x8 a, F32x8 b) {
  return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)};
}
inline F32x8 operator/(F32x8 a, F32x8 b) {
  return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)};
}

// The first count (at most 8) of eight elements, and zeros.
inline F32x8 load_first(const float* at, std::size_t count) {
  float lanes[8] = {};
  for (std::size_t i = 0; i < count; ++i) lanes[i] = at[i];
  return {vld1q_f32(lanes), vld1q_f32(lanes + 4)};
}
inline void store_first(float* at, F32x8 v, std::size_t count) {
  float lanes[8];
  vst1q_f32(lanes, v.low);
  vst1q_f32(lanes + 4, v.high);
  for (std::size_t i = 0; i < count; ++i) at[i] = lanes[i];
}

/// Pack of ops_row.h.
struct EightFloats {
  using Vector = F32x8;
  using Mask = std::size_t;  // the number of lanes in use, at most 8
  static constexpr std::size_t kLanes = 8;
  static Mask mask(std::size_t count) { return count < kLanes ? count : kLanes; }
  static Vector load(const float* at, AllLanes = {}) { return {vld1q_f32(at), vld1q_f32(at + 4)}; }
  static Vector load(const float* at, Mask mask) {
    return mask == kLanes ? load(at) : load_first(at, mask);
  }
  static void store(float* at, Vector v, AllLanes = {}) {
    vst1q_f32(at, v.low);
    vst1q_f32(at + 4, v.high);
  }
  static void store(float* at, Vector v, Mask mask) {
    return mask == kLanes ? store(at, v) : store_first(at, v, mask);
  }
  static Vector all(float value) { return {vdupq_n_f32(value), vdupq_n_f32(value)}; }
  static Vector keep(Vector v, AllLanes) { return v; }
  static Vector keep(Vector v, Mask mask) { return where(mask, v, all(0.0F)); }
  static Vector fmadd(Vector a, Vector b, Vector c) {
    return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
  }
  static Vector fmsub(Vector a, Vector b, Vector c) {
    return {vfmaq_f32(vnegq_f32(c.low), a.low, b.low),
            vfmaq_f32(vnegq_f32(c.high), a.high, b.high)};
  }
  static Vector fnmadd(Vector a, Vector b, Vector c) {
    return {vfmsq_f32(c.low, a.low, b.low), vfmsq_f32(c.high, a.high, b.high)};
  }
  static Vector min(Vector a, Vector b) {
    return {vbslq_f32(vcltq_f32(a.low, b.low), a.low, b.low),
            vbslq_f32(vcltq_f32(a.high, b.high), a.high, b.high)};
  }
  static Vector max(Vector a, Vector b) {
    return {vbslq_f32(vcgtq_f32(a.low, b.low), a.low, b.low),
            vbslq_f32(vcgtq_f32(a.high, b.high), a.high, b.high)};
  }
  static Vector size(Vector v) { return {vabsq_f32(v.low), vabsq_f32(v.high)}; }
  static Vector where_negative(Vector v, Vector a, Vector b) {
    return {vbslq_f32(sign(v.low), a.low, b.low), vbslq_f32(sign(v.high), a.high, b.high)};
  }
  /// other in the lanes beyond the mask.
  static Vector where(Mask mask, Vector v, Vector other) {
    const uint32_t lanes[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    const uint32x4_t count = vdupq_n_u32(static_cast<uint32_t>(mask));
    return {vbslq_f32(vcltq_u32(vld1q_u32(lanes), count), v.low, other.low),
            vbslq_f32(vcltq_u32(vld1q_u32(lanes + 4), count), v.high, other.high)};
  }
  static Vector nearest(Vector v) { return {vrndnq_f32(v.low), vrndnq_f32(v.high)}; }
  static Vector times_power(Vector v, Vector n) {
    return {times_power(v.low, n.low), times_power(v.high, n.high)};
  }
  static float root(float value) { return __builtin_sqrtf(value); }
  /// ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))
  static float sum_lanes(Vector v) {
    const float32x4_t pairs = vpaddq_f32(v.low, v.high);
    return vpadds_f32(vget_low_f32(vpaddq_f32(pairs, pairs)));
  }
  template <typename Term>
  [[gnu::always_inline]] static float sum(std::size_t count, const Term& term) {
    Vector a = all(0.0F), b = a, c = a, d = a;
    std::size_t i = 0;
    for (; i + 32 <= count; i += 32) {
      a = a + term(i, AllLanes{});
      b = b + term(i + 8, AllLanes{});
      c = c + term(i + 16, AllLanes{});
      d = d + term(i + 24, AllLanes{});
    }
    for (; i + 8 <= count; i += 8) a = a + term(i, AllLanes{});
    if (i < count) a = a + term(i, mask(count - i));
    return sum_lanes((a + b) + (c + d));
  }

 private:
  static uint32x4_t sign(float32x4_t v) {
    return vreinterpretq_u32_s32(vshrq_n_s32(vreinterpretq_s32_f32(v), 31));
  }
  // In two halves, so that results near both ends of the range are right.
  static float32x4_t times_power(float32x4_t v, float32x4_t n) {
    const int32x4_t exponent = vcvtnq_s32_f32(n);
    const int32x4_t half = vshrq_n_s32(exponent, 1);
    const int32x4_t bias = vdupq_n_s32(127);
    const int32x4_t first = vshlq_n_s32(vaddq_s32(half, bias), 23);
    const int32x4_t second = vshlq_n_s32(vaddq_s32(vsubq_s32(exponent, half), bias), 23);
    return vmulq_f32(vmulq_f32(v, vreinterpretq_f32_s32(first)), vreinterpretq_f32_s32(second));
  }
};

}  // namespace
}  // namespace qalof::kernels
