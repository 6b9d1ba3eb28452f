// AVX-512: the Hadamard transform (hadamard_row.h) with sixteen floats per vector.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/hadamard_row.h"
#include "kernels/kernel_table.h"

namespace qalof::kernels {

namespace {

struct SixteenFloats {
  using Vector = __m512;
  static constexpr std::size_t kLanes = 16;
  static __m512 load(const float* at) { return _mm512_loadu_ps(at); }
  static void store(float* at, __m512 value) { _mm512_storeu_ps(at, value); }
  static __m512 add(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
  static __m512 sub(__m512 a, __m512 b) { return _mm512_sub_ps(a, b); }
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

void set_avx512_hadamard(KernelTable& table) { table.hadamard = transform_row<SixteenFloats>; }

}  // namespace qalof::kernels
#endif
