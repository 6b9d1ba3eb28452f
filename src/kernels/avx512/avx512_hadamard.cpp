// AVX-512: the Hadamard transform (hadamard_row.h) with sixteen floats per vector.
#if defined(__x86_64__)
#include "kernels/avx512/avx512_math.h"
#include "kernels/hadamard_row.h"
#include "kernels/kernel_table.h"

namespace qalof::kernels {

namespace {

struct SixteenButterflies : SixteenFloats {
  // Each lane's partner plus the lane itself, subtracted if it is the second of its pair.
  static __m512 near(__m512 x) {
    x = pair(_mm512_permute_ps(x, 0b10110001), x, 0xAAAA);
    x = pair(_mm512_permute_ps(x, 0b01001110), x, 0xCCCC);
    x = pair(_mm512_shuffle_f32x4(x, x, 0b10110001), x, 0xF0F0);
    return pair(_mm512_shuffle_f32x4(x, x, 0b01001110), x, 0xFF00);
  }

 private:
  static __m512 pair(__m512 partner, __m512 x, __mmask16 second) {
    return _mm512_mask_sub_ps(_mm512_add_ps(partner, x), second, partner, x);
  }
};

}  // namespace

void set_avx512_hadamard(KernelTable& table) { table.hadamard = transform_row<SixteenButterflies>; }

}  // namespace qalof::kernels
#endif
