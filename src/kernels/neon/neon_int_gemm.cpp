// NEON without dot products: integer products by widening. A product of codes fits 16 bits, and
// pairs of products are added to sums of 32.
#if defined(__aarch64__)
#include "kernels/neon/neon_int_formats.h"

namespace qalof::kernels {

namespace {

struct WideningProducts {
  // Part i of low: outputs 4 i and 4 i + 1, two sums each; of high: 4 i + 2 and 4 i + 3.
  struct Sum {
    Ints low, high;
  };
  static constexpr std::size_t kTallest = 3;  // 24 of 32 registers

  static Sum add(const Sum& sum, int8x16_t x, const Bytes& w) {
    return {
        four(QALOF_PART {
          const int8x8_t codes = vget_low_s8(w.part[i]);
          return vpadalq_s16(sum.low.part[i], vmull_s8(codes, vget_low_s8(x)));
        }),
        four(QALOF_PART { return vpadalq_s16(sum.high.part[i], vmull_high_s8(w.part[i], x)); })};
  }
  static Sum from(const Ints& ints) {
    const int32x4_t zero = vdupq_n_s32(0);
    return {four(QALOF_PART { return vzip1q_s32(ints.part[i], zero); }),
            four(QALOF_PART { return vzip2q_s32(ints.part[i], zero); })};
  }
  static Ints total(const Sum& sum) {
    return four(QALOF_PART { return vpaddq_s32(sum.low.part[i], sum.high.part[i]); });
  }
  static void settle(Sum& sum) {
    NeonFormat::settle(sum.low);
    NeonFormat::settle(sum.high);
  }
};

}  // namespace

void set_neon_int_gemm(KernelTable& table) { set_neon_int_formats<WideningProducts>(table); }

}  // namespace qalof::kernels
#endif
