// NEON: rows of the quantizer. Bit-equal to the portable kernels; the others of those are loops
// that the compiler turns into NEON instructions itself.
#if defined(__aarch64__)
#include "kernels/kernel_table.h"
#include "kernels/neon/neon_math.h"

namespace qalof::kernels {

namespace {

float max_abs(const float* x, std::size_t count) {
  float32x4_t a = vdupq_n_f32(0.0F), b = a;
  std::size_t i = 0;
  // maxnm passes NaN over, as the portable kernel does.
  for (; i + 8 <= count; i += 8) {
    a = vmaxnmq_f32(a, vabsq_f32(vld1q_f32(x + i)));
    b = vmaxnmq_f32(b, vabsq_f32(vld1q_f32(x + i + 4)));
  }
  if (i < count) {
    const F32x8 rest = load_first(x + i, count - i);
    a = vmaxnmq_f32(a, vabsq_f32(rest.low));
    b = vmaxnmq_f32(b, vabsq_f32(rest.high));
  }
  return vmaxnmvq_f32(vmaxnmq_f32(a, b));
}

// Lanes beyond the end are 0, which is part of the range by definition.
void min_max(const float* x, std::size_t count, float* low, float* high) {
  float32x4_t least = vdupq_n_f32(0.0F), most = least;
  for (std::size_t i = 0; i < count; i += 8) {
    const F32x8 value = EightFloats::load(x + i, EightFloats::mask(count - i));
    least = vminq_f32(least, vminq_f32(value.low, value.high));
    most = vmaxq_f32(most, vmaxq_f32(value.low, value.high));
  }
  *low = vminvq_f32(least);
  *high = vmaxvq_f32(most);
}

// quantize, with a limit applied to the integers between rounding (to nearest, ties to even) and
// packing.
template <typename Limit>
[[gnu::always_inline]] inline void quantize_limited(const float* x, std::size_t count,
                                                    float multiplier, std::int8_t* codes,
                                                    const Limit& limit) {
  const auto eight = [&](F32x8 v) __attribute__((always_inline)) {
    const int32x4_t low = limit(vcvtnq_s32_f32(vmulq_n_f32(v.low, multiplier)));
    const int32x4_t high = limit(vcvtnq_s32_f32(vmulq_n_f32(v.high, multiplier)));
    return vqmovn_s16(vcombine_s16(vqmovn_s32(low), vqmovn_s32(high)));
  };
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) vst1_s8(codes + i, eight(EightFloats::load(x + i)));
  if (i == count) return;
  std::int8_t rest[8];
  vst1_s8(rest, eight(load_first(x + i, count - i)));
  for (std::size_t lane = 0; i < count; ++i, ++lane) codes[i] = rest[lane];
}

void quantize(const float* x, std::size_t count, float multiplier, std::int8_t* codes) {
  quantize_limited(x, count, multiplier, codes, [](int32x4_t code) { return code; });
}

void quantize_within(const float* x, std::size_t count, float multiplier, int low, int high,
                     std::int8_t* codes) {
  const int32x4_t least = vdupq_n_s32(low), most = vdupq_n_s32(high);
  quantize_limited(x, count, multiplier, codes, [least, most](int32x4_t code) {
    return vminq_s32(vmaxq_s32(code, least), most);
  });
}

}  // namespace

void set_neon_quantize(KernelTable& table) {
  table.max_abs = max_abs;
  table.min_max = min_max;
  table.quantize = quantize;
  table.quantize_within = quantize_within;
}

}  // namespace qalof::kernels
#endif
