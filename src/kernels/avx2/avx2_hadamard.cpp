// AVX2: the Hadamard transform (hadamard_row.h) with eight floats per vector.
#if defined(__x86_64__)
#include "kernels/avx2/avx2_math.h"
#include "kernels/hadamard_row.h"
#include "kernels/kernel_table.h"

namespace qalof::kernels {

namespace {

struct EightButterflies : EightFloats {
  // Each lane's partner plus the lane itself, negated if it is the second of its pair.
  static __m256 near(__m256 x) {
    const __m256 minus = _mm256_set1_ps(-0.0F), plus = _mm256_setzero_ps();
    x = _mm256_add_ps(_mm256_permute_ps(x, 0b10110001),
                      _mm256_xor_ps(x, _mm256_blend_ps(plus, minus, 0b10101010)));
    x = _mm256_add_ps(_mm256_permute_ps(x, 0b01001110),
                      _mm256_xor_ps(x, _mm256_blend_ps(plus, minus, 0b11001100)));
    return _mm256_add_ps(_mm256_permute2f128_ps(x, x, 1),
                         _mm256_xor_ps(x, _mm256_blend_ps(plus, minus, 0b11110000)));
  }
};

void multiply(const float* factors, std::size_t count, float* x) {
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(factors + i)));
  for (; i < count; ++i) x[i] *= factors[i];
}

}  // namespace

void set_avx2_hadamard(KernelTable& table) {
  table.multiply = multiply;
  table.hadamard = transform_row<EightButterflies>;
}

}  // namespace qalof::kernels
#endif
