// AVX2 and FMA: norms, GELU, SwiGLU, rotary pairs and residual addition, with gradients.
#if defined(__x86_64__)
#include "kernels/avx2/avx2_math.h"
#include "kernels/kernel_table.h"

namespace qalof::kernels {

namespace {

// Sum over i of term(x[i..i+7], mask, i); element i is added to partial sum i mod 32.
template <typename Term>
[[gnu::always_inline]] inline float sum_row(std::size_t count, const Term& term) {
  const __m256i all = _mm256_set1_epi32(-1);
  __m256 a = _mm256_setzero_ps(), b = a, c = a, d = a;
  std::size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    a = _mm256_add_ps(a, term(i, all));
    b = _mm256_add_ps(b, term(i + 8, all));
    c = _mm256_add_ps(c, term(i + 16, all));
    d = _mm256_add_ps(d, term(i + 24, all));
  }
  for (; i < count; i += 8) a = _mm256_add_ps(a, term(i, lane_mask(count - i)));
  return sum_lanes(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)));
}

// dst[i..i+7] = value(i, mask) for all i.
template <typename Value>
[[gnu::always_inline]] inline void map_row(std::size_t count, float* dst, const Value& value) {
  const __m256i all = _mm256_set1_epi32(-1);
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) _mm256_storeu_ps(dst + i, value(i, all));
  if (i < count) {
    const __m256i mask = lane_mask(count - i);
    _mm256_maskstore_ps(dst + i, mask, value(i, mask));
  }
}

#define QALOF_LANES [&](std::size_t i, __m256i mask) __attribute__((always_inline))

__m256 square_root(float value) { return _mm256_sqrt_ps(_mm256_set1_ps(value)); }

void layer_norm(const float* x, std::size_t cols, const float* gamma, const float* beta, float eps,
                float* dst, float* stats) {
  const auto n = static_cast<float>(cols);
  const float mean = sum_row(
                         cols, QALOF_LANES { return _mm256_maskload_ps(x + i, mask); }) /
                     n;
  const __m256 center = _mm256_set1_ps(mean);
  const float squares = sum_row(
      cols, QALOF_LANES {
        const __m256 d = _mm256_and_ps(_mm256_sub_ps(_mm256_maskload_ps(x + i, mask), center),
                                       _mm256_castsi256_ps(mask));
        return _mm256_mul_ps(d, d);
      });
  const float inverse = 1.0F / _mm256_cvtss_f32(square_root(squares / n + eps));
  const __m256 factor = _mm256_set1_ps(inverse);
  map_row(
      cols, dst, QALOF_LANES {
        const __m256 d =
            _mm256_mul_ps(_mm256_sub_ps(_mm256_maskload_ps(x + i, mask), center), factor);
        return _mm256_fmadd_ps(d, _mm256_maskload_ps(gamma + i, mask),
                               _mm256_maskload_ps(beta + i, mask));
      });
  stats[0] = mean;
  stats[1] = inverse;
}

void layer_norm_dx(const float* dy, const float* x, const float* stats, const float* gamma,
                   std::size_t cols, float* dx) {
  const auto n = static_cast<float>(cols);
  const __m256 mean = _mm256_set1_ps(stats[0]);
  const __m256 inverse = _mm256_set1_ps(stats[1]);
  const auto gradient = QALOF_LANES {
    return _mm256_mul_ps(_mm256_maskload_ps(dy + i, mask), _mm256_maskload_ps(gamma + i, mask));
  };
  const auto normalized = QALOF_LANES {
    return _mm256_mul_ps(_mm256_sub_ps(_mm256_maskload_ps(x + i, mask), mean), inverse);
  };
  const __m256 sum = _mm256_set1_ps(sum_row(cols, gradient) / n);
  // In lanes beyond the end the gradient is 0.
  const __m256 product = _mm256_set1_ps(
      sum_row(
          cols, QALOF_LANES { return _mm256_mul_ps(gradient(i, mask), normalized(i, mask)); }) /
      n);
  map_row(
      cols, dx, QALOF_LANES {
        const __m256 rest =
            _mm256_fnmadd_ps(normalized(i, mask), product, _mm256_sub_ps(gradient(i, mask), sum));
        return _mm256_mul_ps(inverse, rest);
      });
}

void layer_norm_dparams(const float* dy, const float* x, const float* stats, std::size_t cols,
                        float* dgamma, float* dbeta) {
  const __m256 mean = _mm256_set1_ps(stats[0]);
  const __m256 inverse = _mm256_set1_ps(stats[1]);
  if (dgamma != nullptr) {
    map_row(
        cols, dgamma, QALOF_LANES {
          const __m256 d =
              _mm256_mul_ps(_mm256_sub_ps(_mm256_maskload_ps(x + i, mask), mean), inverse);
          return _mm256_fmadd_ps(_mm256_maskload_ps(dy + i, mask), d,
                                 _mm256_maskload_ps(dgamma + i, mask));
        });
  }
  if (dbeta != nullptr) {
    map_row(
        cols, dbeta, QALOF_LANES {
          return _mm256_add_ps(_mm256_maskload_ps(dbeta + i, mask),
                               _mm256_maskload_ps(dy + i, mask));
        });
  }
}

void rms_norm(const float* x, std::size_t cols, const float* gamma, float eps, float* dst,
              float* stats) {
  const float squares = sum_row(
      cols, QALOF_LANES {
        const __m256 v = _mm256_maskload_ps(x + i, mask);
        return _mm256_mul_ps(v, v);
      });
  const float inverse =
      1.0F / _mm256_cvtss_f32(square_root(squares / static_cast<float>(cols) + eps));
  const __m256 factor = _mm256_set1_ps(inverse);
  map_row(
      cols, dst, QALOF_LANES {
        return _mm256_mul_ps(_mm256_mul_ps(_mm256_maskload_ps(x + i, mask), factor),
                             _mm256_maskload_ps(gamma + i, mask));
      });
  stats[0] = 0.0F;
  stats[1] = inverse;
}

void rms_norm_dx(const float* dy, const float* x, const float* stats, const float* gamma,
                 std::size_t cols, float* dx) {
  const __m256 inverse = _mm256_set1_ps(stats[1]);
  const auto gradient = QALOF_LANES {
    return _mm256_mul_ps(_mm256_maskload_ps(dy + i, mask), _mm256_maskload_ps(gamma + i, mask));
  };
  const auto normalized = QALOF_LANES {
    return _mm256_mul_ps(_mm256_maskload_ps(x + i, mask), inverse);
  };
  const __m256 product = _mm256_set1_ps(
      sum_row(
          cols, QALOF_LANES { return _mm256_mul_ps(gradient(i, mask), normalized(i, mask)); }) /
      static_cast<float>(cols));
  map_row(
      cols, dx, QALOF_LANES {
        return _mm256_mul_ps(inverse,
                             _mm256_fnmadd_ps(normalized(i, mask), product, gradient(i, mask)));
      });
}

// 1 / (1 + exp(-2u)) and related terms of gelu_new; u = sqrt(2 / pi) (x + 0.044715 x^3).
__m256 gelu_exp(__m256 x) {
  const __m256 cubic = _mm256_mul_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(0.044715F));
  const __m256 inner = _mm256_fmadd_ps(cubic, x, x);
  return exp_lanes(_mm256_mul_ps(inner, _mm256_set1_ps(-2.0F * 0.7978845608F)));
}

void gelu(const float* x, std::size_t count, float* dst) {
  const __m256 one = _mm256_set1_ps(1.0F);
  map_row(
      count, dst, QALOF_LANES {
        const __m256 v = _mm256_maskload_ps(x + i, mask);
        return _mm256_div_ps(v, _mm256_add_ps(one, gelu_exp(v)));
      });
}

void gelu_dx(const float* dy, const float* x, std::size_t count, float* dx) {
  const __m256 one = _mm256_set1_ps(1.0F);
  // Beyond 100 the derivative is 0 or 1, and the square stays finite.
  const __m256 flat = _mm256_set1_ps(100.0F);
  map_row(
      count, dx, QALOF_LANES {
        __m256 v = _mm256_maskload_ps(x + i, mask);
        v = _mm256_min_ps(flat, _mm256_max_ps(_mm256_sub_ps(_mm256_setzero_ps(), flat), v));
        const __m256 t = _mm256_div_ps(one, _mm256_add_ps(one, gelu_exp(v)));
        const __m256 square = _mm256_mul_ps(v, v);
        const __m256 slope =
            _mm256_mul_ps(_mm256_fmadd_ps(square, _mm256_set1_ps(3.0F * 0.044715F), one),
                          _mm256_set1_ps(2.0F * 0.7978845608F));
        const __m256 bend = _mm256_mul_ps(_mm256_mul_ps(v, t), _mm256_sub_ps(one, t));
        return _mm256_mul_ps(_mm256_maskload_ps(dy + i, mask), _mm256_fmadd_ps(bend, slope, t));
      });
}

// Phi(x) and exp(-x^2 / 2), from which the exact GELU and its derivative are computed
// (docs/numerics.md, "Activation").
struct Normal {
  __m256 below, bell;
};
Normal normal_of(__m256 x) {
  const __m256 one = _mm256_set1_ps(1.0F);
  const __m256 bell = exp_lanes(_mm256_mul_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(-0.5F)));
  const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0F), x);
  const __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(size, _mm256_set1_ps(0.28F), one));
  __m256 sum = _mm256_set1_ps(0.02305598184466362F);
  sum = _mm256_fmadd_ps(sum, t, _mm256_set1_ps(-0.08466631174087524F));
  sum = _mm256_fmadd_ps(sum, t, _mm256_set1_ps(0.07250028103590012F));
  sum = _mm256_fmadd_ps(sum, t, _mm256_set1_ps(0.01769009791314602F));
  sum = _mm256_fmadd_ps(sum, t, _mm256_set1_ps(0.05546824634075165F));
  sum = _mm256_fmadd_ps(sum, t, _mm256_set1_ps(0.0911249965429306F));
  sum = _mm256_fmadd_ps(sum, t, _mm256_set1_ps(0.10117769986391068F));
  sum = _mm256_fmadd_ps(sum, t, _mm256_set1_ps(0.11195968091487885F));
  sum = _mm256_fmadd_ps(sum, t, _mm256_set1_ps(0.11168935894966125F));
  const __m256 tail = _mm256_mul_ps(_mm256_mul_ps(t, sum), bell);
  return {_mm256_blendv_ps(_mm256_sub_ps(one, tail), tail, x), bell};
}

void gelu_erf(const float* x, std::size_t count, float* dst) {
  map_row(
      count, dst, QALOF_LANES {
        const __m256 v = _mm256_maskload_ps(x + i, mask);
        return _mm256_mul_ps(v, normal_of(v).below);
      });
}

void gelu_erf_dx(const float* dy, const float* x, std::size_t count, float* dx) {
  // Beyond 100 the derivative is 0 or 1, and the square stays finite.
  const __m256 flat = _mm256_set1_ps(100.0F);
  map_row(
      count, dx, QALOF_LANES {
        __m256 v = _mm256_maskload_ps(x + i, mask);
        v = _mm256_min_ps(flat, _mm256_max_ps(_mm256_sub_ps(_mm256_setzero_ps(), flat), v));
        const Normal normal = normal_of(v);
        const __m256 density = _mm256_mul_ps(normal.bell, _mm256_set1_ps(0.3989422804F));
        return _mm256_mul_ps(_mm256_maskload_ps(dy + i, mask),
                             _mm256_fmadd_ps(v, density, normal.below));
      });
}

// 1 / (1 + exp(-x)).
__m256 sigmoid(__m256 x) {
  const __m256 one = _mm256_set1_ps(1.0F);
  return _mm256_div_ps(one, _mm256_add_ps(one, exp_lanes(_mm256_sub_ps(_mm256_setzero_ps(), x))));
}

void swiglu(const float* gate, const float* up, std::size_t count, float* dst) {
  const __m256 one = _mm256_set1_ps(1.0F);
  map_row(
      count, dst, QALOF_LANES {
        const __m256 g = _mm256_maskload_ps(gate + i, mask);
        const __m256 grown = exp_lanes(_mm256_sub_ps(_mm256_setzero_ps(), g));
        return _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(one, grown)),
                             _mm256_maskload_ps(up + i, mask));
      });
}

void swiglu_dx(const float* dy, const float* gate, const float* up, std::size_t count, float* dgate,
               float* dup) {
  const __m256 one = _mm256_set1_ps(1.0F);
  const auto both = QALOF_LANES {
    const __m256 d = _mm256_maskload_ps(dy + i, mask);
    const __m256 g = _mm256_maskload_ps(gate + i, mask);
    const __m256 u = _mm256_maskload_ps(up + i, mask);
    const __m256 t = sigmoid(g);
    const __m256 slope = _mm256_fmadd_ps(g, _mm256_sub_ps(one, t), one);
    _mm256_maskstore_ps(dup + i, mask, _mm256_mul_ps(d, _mm256_mul_ps(g, t)));
    return _mm256_mul_ps(_mm256_mul_ps(d, u), _mm256_mul_ps(t, slope));
  };
  map_row(count, dgate, both);
}

void rotate_pairs(float* x, std::size_t half, const float* cos, const float* sin) {
  const auto turn = QALOF_LANES {
    const __m256 a = _mm256_maskload_ps(x + i, mask), b = _mm256_maskload_ps(x + half + i, mask);
    const __m256 c = _mm256_maskload_ps(cos + i, mask), s = _mm256_maskload_ps(sin + i, mask);
    _mm256_maskstore_ps(x + half + i, mask, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
    return _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s));
  };
  map_row(half, x, turn);
}

void add(const float* src, std::size_t count, float* dst) {
  map_row(
      count, dst, QALOF_LANES {
        return _mm256_add_ps(_mm256_maskload_ps(dst + i, mask), _mm256_maskload_ps(src + i, mask));
      });
}

}  // namespace

void set_avx2_ops(KernelTable& table) {
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
