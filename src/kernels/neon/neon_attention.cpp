// NEON: products and exponentials of attention (attention_row.h).
#if defined(__aarch64__)
#include "kernels/attention_row.h"
#include "kernels/neon/neon_math.h"

namespace qalof::kernels {

namespace {

struct AttentionFloats : EightFloats {
  static Vector load_bf16(const std::uint8_t* at) {
    const uint16x8_t half = vreinterpretq_u16_u8(vld1q_u8(at));
    return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(half), 16)),
            vreinterpretq_f32_u32(vshll_high_n_u16(half, 16))};
  }
  static Vector load_int8(const std::uint8_t* at) { return widen(vreinterpret_s8_u8(vld1_u8(at))); }
  static Vector load_int4(const std::uint8_t* at) {
    std::uint32_t word;
    __builtin_memcpy(&word, at, sizeof(word));
    const uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(word));
    const uint8x8_t codes = vzip1_u8(vand_u8(bytes, vdup_n_u8(15)), vshr_n_u8(bytes, 4));
    return widen(vsub_s8(vreinterpret_s8_u8(codes), vdup_n_s8(8)));
  }
  static void store_sums(float* at, const Vector (&v)[4], float scale) {
    const float32x4_t low =
        vpaddq_f32(vpaddq_f32(v[0].low, v[0].high), vpaddq_f32(v[1].low, v[1].high));
    const float32x4_t high =
        vpaddq_f32(vpaddq_f32(v[2].low, v[2].high), vpaddq_f32(v[3].low, v[3].high));
    vst1q_f32(at, vmulq_n_f32(vpaddq_f32(low, high), scale));
  }
  static float max_lanes(Vector v) { return vmaxvq_f32(vmaxq_f32(v.low, v.high)); }

 private:
  static Vector widen(int8x8_t codes) {
    const int16x8_t wide = vmovl_s8(codes);
    return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), vcvtq_f32_s32(vmovl_high_s16(wide))};
  }
};

}  // namespace

void set_neon_attention(KernelTable& table) { AttentionOps<AttentionFloats>::set(table); }

}  // namespace qalof::kernels
#endif
