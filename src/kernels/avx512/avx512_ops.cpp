// AVX-512: norms, GELU, SwiGLU, rotary pairs and residual addition, with gradients, bit-equal to
// the AVX2 form.
#if defined(__x86_64__)
#include "kernels/avx512/avx512_math.h"
#include "kernels/kernel_table.h"

namespace qalof::kernels {

namespace {

// Sum over i of term(x[i..i+15], mask, i), with the partial sums and the tree of the AVX2 form, so
// that norms are bit-equal on both.
template <typename Term>
[[gnu::always_inline]] inline float sum_row(std::size_t count, const Term& term) {
  __m512 ab = _mm512_setzero_ps(), cd = ab;
  std::size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    ab = _mm512_add_ps(ab, term(i, 0xFFFF));
    cd = _mm512_add_ps(cd, term(i + 16, 0xFFFF));
  }
  __m256 a = _mm512_castps512_ps256(ab);
  for (; i < count; i += 8) {
    const auto mask = static_cast<__mmask16>(lane_mask(count - i) & 0xFF);
    a = _mm256_add_ps(a, _mm512_castps512_ps256(term(i, mask)));
  }
  const __m256 sum =
      _mm256_add_ps(_mm256_add_ps(a, _mm512_extractf32x8_ps(ab, 1)),
                    _mm256_add_ps(_mm512_castps512_ps256(cd), _mm512_extractf32x8_ps(cd, 1)));
  const __m256 pairs = _mm256_hadd_ps(sum, sum);
  const __m256 fours = _mm256_hadd_ps(pairs, pairs);
  return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(fours), _mm256_extractf128_ps(fours, 1)));
}

// dst[i..i+15] = value(i, mask) for all i.
template <typename Value>
[[gnu::always_inline]] inline void map_row(std::size_t count, float* dst, const Value& value) {
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) _mm512_storeu_ps(dst + i, value(i, 0xFFFF));
  if (i < count) {
    const __mmask16 mask = lane_mask(count - i);
    _mm512_mask_storeu_ps(dst + i, mask, value(i, mask));
  }
}

#define QALOF_LANES [&](std::size_t i, __mmask16 mask) __attribute__((always_inline))

float square_root(float value) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(value))); }

void layer_norm(const float* x, std::size_t cols, const float* gamma, const float* beta, float eps,
                float* dst, float* stats) {
  const auto n = static_cast<float>(cols);
  const float mean = sum_row(
                         cols, QALOF_LANES { return _mm512_maskz_loadu_ps(mask, x + i); }) /
                     n;
  const __m512 center = _mm512_set1_ps(mean);
  const float squares = sum_row(
      cols, QALOF_LANES {
        const __m512 d = _mm512_maskz_sub_ps(mask, _mm512_maskz_loadu_ps(mask, x + i), center);
        return _mm512_mul_ps(d, d);
      });
  const float inverse = 1.0F / square_root(squares / n + eps);
  const __m512 factor = _mm512_set1_ps(inverse);
  map_row(
      cols, dst, QALOF_LANES {
        const __m512 d =
            _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), center), factor);
        return _mm512_fmadd_ps(d, _mm512_maskz_loadu_ps(mask, gamma + i),
                               _mm512_maskz_loadu_ps(mask, beta + i));
      });
  stats[0] = mean;
  stats[1] = inverse;
}

void layer_norm_dx(const float* dy, const float* x, const float* stats, const float* gamma,
                   std::size_t cols, float* dx) {
  const auto n = static_cast<float>(cols);
  const __m512 mean = _mm512_set1_ps(stats[0]);
  const __m512 inverse = _mm512_set1_ps(stats[1]);
  const auto gradient = QALOF_LANES {
    return _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, dy + i),
                         _mm512_maskz_loadu_ps(mask, gamma + i));
  };
  const auto normalized = QALOF_LANES {
    return _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), mean), inverse);
  };
  const __m512 sum = _mm512_set1_ps(sum_row(cols, gradient) / n);
  // In lanes beyond the end the gradient is 0.
  const __m512 product = _mm512_set1_ps(
      sum_row(
          cols, QALOF_LANES { return _mm512_mul_ps(gradient(i, mask), normalized(i, mask)); }) /
      n);
  map_row(
      cols, dx, QALOF_LANES {
        const __m512 rest =
            _mm512_fnmadd_ps(normalized(i, mask), product, _mm512_sub_ps(gradient(i, mask), sum));
        return _mm512_mul_ps(inverse, rest);
      });
}

void layer_norm_dparams(const float* dy, const float* x, const float* stats, std::size_t cols,
                        float* dgamma, float* dbeta) {
  const __m512 mean = _mm512_set1_ps(stats[0]);
  const __m512 inverse = _mm512_set1_ps(stats[1]);
  if (dgamma != nullptr) {
    map_row(
        cols, dgamma, QALOF_LANES {
          const __m512 d =
              _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), mean), inverse);
          return _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, dy + i), d,
                                 _mm512_maskz_loadu_ps(mask, dgamma + i));
        });
  }
  if (dbeta != nullptr) {
    map_row(
        cols, dbeta, QALOF_LANES {
          return _mm512_add_ps(_mm512_maskz_loadu_ps(mask, dbeta + i),
                               _mm512_maskz_loadu_ps(mask, dy + i));
        });
  }
}

void rms_norm(const float* x, std::size_t cols, const float* gamma, float eps, float* dst,
              float* stats) {
  const float squares = sum_row(
      cols, QALOF_LANES {
        const __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        return _mm512_mul_ps(v, v);
      });
  const float inverse = 1.0F / square_root(squares / static_cast<float>(cols) + eps);
  const __m512 factor = _mm512_set1_ps(inverse);
  map_row(
      cols, dst, QALOF_LANES {
        return _mm512_mul_ps(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), factor),
                             _mm512_maskz_loadu_ps(mask, gamma + i));
      });
  stats[0] = 0.0F;
  stats[1] = inverse;
}

void rms_norm_dx(const float* dy, const float* x, const float* stats, const float* gamma,
                 std::size_t cols, float* dx) {
  const __m512 inverse = _mm512_set1_ps(stats[1]);
  const auto gradient = QALOF_LANES {
    return _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, dy + i),
                         _mm512_maskz_loadu_ps(mask, gamma + i));
  };
  const auto normalized = QALOF_LANES {
    return _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), inverse);
  };
  const __m512 product = _mm512_set1_ps(
      sum_row(
          cols, QALOF_LANES { return _mm512_mul_ps(gradient(i, mask), normalized(i, mask)); }) /
      static_cast<float>(cols));
  map_row(
      cols, dx, QALOF_LANES {
        return _mm512_mul_ps(inverse,
                             _mm512_fnmadd_ps(normalized(i, mask), product, gradient(i, mask)));
      });
}

// 1 / (1 + exp(-2u)) and related terms of gelu_new; u = sqrt(2 / pi) (x + 0.044715 x^3).
__m512 gelu_exp(__m512 x) {
  const __m512 cubic = _mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.044715F));
  const __m512 inner = _mm512_fmadd_ps(cubic, x, x);
  return exp_lanes(_mm512_mul_ps(inner, _mm512_set1_ps(-2.0F * 0.7978845608F)));
}

void gelu(const float* x, std::size_t count, float* dst) {
  const __m512 one = _mm512_set1_ps(1.0F);
  map_row(
      count, dst, QALOF_LANES {
        const __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        return _mm512_div_ps(v, _mm512_add_ps(one, gelu_exp(v)));
      });
}

void gelu_dx(const float* dy, const float* x, std::size_t count, float* dx) {
  const __m512 one = _mm512_set1_ps(1.0F);
  // Beyond 100 the derivative is 0 or 1, and the square stays finite.
  const __m512 flat = _mm512_set1_ps(100.0F);
  map_row(
      count, dx, QALOF_LANES {
        __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        v = _mm512_min_ps(flat, _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), flat), v));
        const __m512 t = _mm512_div_ps(one, _mm512_add_ps(one, gelu_exp(v)));
        const __m512 square = _mm512_mul_ps(v, v);
        const __m512 slope =
            _mm512_mul_ps(_mm512_fmadd_ps(square, _mm512_set1_ps(3.0F * 0.044715F), one),
                          _mm512_set1_ps(2.0F * 0.7978845608F));
        const __m512 bend = _mm512_mul_ps(_mm512_mul_ps(v, t), _mm512_sub_ps(one, t));
        return _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, dy + i), _mm512_fmadd_ps(bend, slope, t));
      });
}

// Phi(x) and exp(-x^2 / 2), from which the exact GELU and its derivative are computed
// (docs/numerics.md, "Activation").
struct Normal {
  __m512 below, bell;
};
Normal normal_of(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0F);
  const __m512 bell = exp_lanes(_mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(-0.5F)));
  const __m512 size = _mm512_abs_ps(x);
  const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(size, _mm512_set1_ps(0.28F), one));
  __m512 sum = _mm512_set1_ps(0.02305598184466362F);
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-0.08466631174087524F));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.07250028103590012F));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.01769009791314602F));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.05546824634075165F));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.0911249965429306F));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.10117769986391068F));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.11195968091487885F));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.11168935894966125F));
  const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(t, sum), bell);
  return {_mm512_mask_mov_ps(_mm512_sub_ps(one, tail), _mm512_movepi32_mask(_mm512_castps_si512(x)),
                             tail),
          bell};
}

void gelu_erf(const float* x, std::size_t count, float* dst) {
  map_row(
      count, dst, QALOF_LANES {
        const __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        return _mm512_mul_ps(v, normal_of(v).below);
      });
}

void gelu_erf_dx(const float* dy, const float* x, std::size_t count, float* dx) {
  // Beyond 100 the derivative is 0 or 1, and the square stays finite.
  const __m512 flat = _mm512_set1_ps(100.0F);
  map_row(
      count, dx, QALOF_LANES {
        __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        v = _mm512_min_ps(flat, _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), flat), v));
        const Normal normal = normal_of(v);
        const __m512 density = _mm512_mul_ps(normal.bell, _mm512_set1_ps(0.3989422804F));
        return _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, dy + i),
                             _mm512_fmadd_ps(v, density, normal.below));
      });
}

// 1 / (1 + exp(-x)).
__m512 sigmoid(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0F);
  return _mm512_div_ps(one, _mm512_add_ps(one, exp_lanes(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

void swiglu(const float* gate, const float* up, std::size_t count, float* dst) {
  const __m512 one = _mm512_set1_ps(1.0F);
  map_row(
      count, dst, QALOF_LANES {
        const __m512 g = _mm512_maskz_loadu_ps(mask, gate + i);
        const __m512 grown = exp_lanes(_mm512_sub_ps(_mm512_setzero_ps(), g));
        return _mm512_mul_ps(_mm512_div_ps(g, _mm512_add_ps(one, grown)),
                             _mm512_maskz_loadu_ps(mask, up + i));
      });
}

void swiglu_dx(const float* dy, const float* gate, const float* up, std::size_t count, float* dgate,
               float* dup) {
  const __m512 one = _mm512_set1_ps(1.0F);
  const auto both = QALOF_LANES {
    const __m512 d = _mm512_maskz_loadu_ps(mask, dy + i);
    const __m512 g = _mm512_maskz_loadu_ps(mask, gate + i);
    const __m512 u = _mm512_maskz_loadu_ps(mask, up + i);
    const __m512 t = sigmoid(g);
    const __m512 slope = _mm512_fmadd_ps(g, _mm512_sub_ps(one, t), one);
    _mm512_mask_storeu_ps(dup + i, mask, _mm512_mul_ps(d, _mm512_mul_ps(g, t)));
    return _mm512_mul_ps(_mm512_mul_ps(d, u), _mm512_mul_ps(t, slope));
  };
  map_row(count, dgate, both);
}

void rotate_pairs(float* x, std::size_t half, const float* cos, const float* sin) {
  const auto turn = QALOF_LANES {
    const __m512 a = _mm512_maskz_loadu_ps(mask, x + i),
                 b = _mm512_maskz_loadu_ps(mask, x + half + i);
    const __m512 c = _mm512_maskz_loadu_ps(mask, cos + i), s = _mm512_maskz_loadu_ps(mask, sin + i);
    _mm512_mask_storeu_ps(x + half + i, mask, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
    return _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s));
  };
  map_row(half, x, turn);
}

void add(const float* src, std::size_t count, float* dst) {
  map_row(
      count, dst, QALOF_LANES {
        return _mm512_add_ps(_mm512_maskz_loadu_ps(mask, dst + i),
                             _mm512_maskz_loadu_ps(mask, src + i));
      });
}

}  // namespace

void set_avx512_ops(KernelTable& table) {
  table.layer_norm = layer_norm;
  table.layer_norm_dx = layer_norm_dx;
  table.layer_norm_dparams = layer_norm_dparams;
  table.rms_norm = rms_norm;
  table.rms_norm_dx = rms_norm_dx;
  table.gelu = gelu;
  table.gelu_dx = gelu_dx;
  table.gelu_erf = gelu_erf;
  table.gelu_erf_dx = gelu_erf_dx;
  table.swiglu = swiglu;
  table.swiglu_dx = swiglu_dx;
  table.rotate_pairs = rotate_pairs;
  table.add = add;
}

}  // namespace qalof::kernels
#endif
