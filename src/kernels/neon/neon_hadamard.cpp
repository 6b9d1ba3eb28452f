// NEON: the Hadamard transform (hadamard_row.h) with eight floats per vector.
#if defined(__aarch64__)
#include "kernels/hadamard_row.h"
#include "kernels/kernel_table.h"
#include "kernels/neon/neon_math.h"

namespace qalof::kernels {

namespace {

struct NeonButterflies : EightFloats {
  static Vector near(Vector x) {
    x = {near(x.low), near(x.high)};
    return {vaddq_f32(x.high, x.low), vsubq_f32(x.low, x.high)};
  }

 private:
  // Distances 1 and 2: each lane's partner plus the lane itself, negated if it is the second of its
  // pair.
  static float32x4_t near(float32x4_t x) {
    const uint32x4_t odd = {0, 0x80000000U, 0, 0x80000000U};
    const uint32x4_t upper = {0, 0, 0x80000000U, 0x80000000U};
    x = vaddq_f32(vrev64q_f32(x), flip(x, odd));
    return vaddq_f32(vextq_f32(x, x, 2), flip(x, upper));
  }
  static float32x4_t flip(float32x4_t x, uint32x4_t signs) {
    return vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(x), signs));
  }
};

}  // namespace

void set_neon_hadamard(KernelTable& table) { table.hadamard = transform_row<NeonButterflies>; }

}  // namespace qalof::kernels
#endif
