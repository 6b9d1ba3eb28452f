// Norms, GELU, SwiGLU, rotary pairs and residual addition on one row, with gradients, written once
// for vectors of any width: every lane does the same steps and sums have one tree, so results are
// bit-equal at every width. Formulas: docs/numerics.md. Internal linkage, for the files of one
// instruction set.
#pragma once

#include <cstddef>

#include "kernels/kernel_table.h"

namespace qalof::kernels {
namespace {

/// In place of a mask where all lanes hold elements.
struct AllLanes {};

// Pack supplies: Vector, which has the operators + - * /, Mask, kLanes, and
//   mask(count)                     the first count lanes, all lanes for kLanes and more
//   load(at, mask)                  lanes beyond the mask are 0
//   store(at, v, mask)
//   keep(v, mask)                   0 in the lanes beyond
//   the same with AllLanes in place of the mask, the default of load and store
//   all(value)                      value in every lane
//   fmadd, fmsub, fnmadd            a b + c, a b - c, c - a b, rounded once
//   min, max                        the second operand where one is NaN
//   size(v)                         absolute values
//   where_negative(v, a, b)         a in the lanes whose sign bit is set, else b
//   nearest(v)                      integers, ties to even
//   times_power(v, n)               v 2^n for integers n; n from -150 to 129
//   root(value)                     the square root of one float
//   sum(row), see sum_row

/// exp(x) within 1 ulp (2 where the result is subnormal); 0 and infinity beyond the range, NaN for
/// NaN.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r = 1 + r + r^2 P(r), where P of degree 4 interpolates at
/// Chebyshev points with a relative error of 1e-8.
template <typename Pack>
[[gnu::always_inline]] inline auto exp_of(typename Pack::Vector x) {
  x = Pack::min(Pack::all(89.0F), Pack::max(Pack::all(-104.0F), x));
  const auto n = Pack::nearest(x * Pack::all(1.44269502F));
  // ln 2 in two parts; the first has few enough bits for an exact product.
  auto r = Pack::fnmadd(n, Pack::all(0.693115234375F), x);
  r = Pack::fnmadd(n, Pack::all(3.194618329871446e-05F), r);
  auto p = Pack::all(0.0013926326064392924F);
  p = Pack::fmadd(p, r, Pack::all(0.008363292552530766F));
  p = Pack::fmadd(p, r, Pack::all(0.04166655242443085F));
  p = Pack::fmadd(p, r, Pack::all(0.16666576266288757F));
  p = Pack::fmadd(p, r, Pack::all(0.5F));
  return Pack::times_power(Pack::fmadd(r * r, p, r) + Pack::all(1.0F), n);
}

/// The functions of a KernelTable that work on floats of a row.
template <typename Pack>
struct RowOps {
  using Vector = typename Pack::Vector;

  // dst[i..] = value(i, mask) for all i.
  template <typename Value>
  [[gnu::always_inline]] static void map_row(std::size_t count, float* dst, const Value& value) {
    std::size_t i = 0;
    for (; i + Pack::kLanes <= count; i += Pack::kLanes) Pack::store(dst + i, value(i, AllLanes{}));
    if (i < count) {
      const auto mask = Pack::mask(count - i);
      Pack::store(dst + i, value(i, mask), mask);
    }
  }

  // Sum over i of term(i, mask), which is 0 in lanes beyond the mask. Element i is added to partial
  // sum i mod 32, after the last whole 32 to i mod 8; of the four eights of partial sums,
  // (first + second) + (third + fourth) is added up as ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)).
  template <typename Term>
  [[gnu::always_inline]] static float sum_row(std::size_t count, const Term& term) {
    return Pack::sum(count, term);
  }

#define QALOF_LANES [&](std::size_t i, auto mask) __attribute__((always_inline))

  static void layer_norm(const float* x, std::size_t cols, const float* gamma, const float* beta,
                         float eps, float* dst, float* stats) {
    const auto n = static_cast<float>(cols);
    const float mean = sum_row(
                           cols, QALOF_LANES { return Pack::load(x + i, mask); }) /
                       n;
    const Vector center = Pack::all(mean);
    const float squares = sum_row(
        cols, QALOF_LANES {
          const Vector d = Pack::keep(Pack::load(x + i, mask) - center, mask);
          return d * d;
        });
    const float inverse = 1.0F / Pack::root(squares / n + eps);
    const Vector factor = Pack::all(inverse);
    map_row(
        cols, dst, QALOF_LANES {
          const Vector d = (Pack::load(x + i, mask) - center) * factor;
          return Pack::fmadd(d, Pack::load(gamma + i, mask), Pack::load(beta + i, mask));
        });
    stats[0] = mean;
    stats[1] = inverse;
  }

  static void layer_norm_dx(const float* dy, const float* x, const float* stats, const float* gamma,
                            std::size_t cols, float* dx) {
    const auto n = static_cast<float>(cols);
    const Vector mean = Pack::all(stats[0]), inverse = Pack::all(stats[1]);
    const auto gradient = QALOF_LANES {
      return Pack::load(dy + i, mask) * Pack::load(gamma + i, mask);
    };
    const auto normalized = QALOF_LANES { return (Pack::load(x + i, mask) - mean) * inverse; };
    const Vector sum = Pack::all(sum_row(cols, gradient) / n);
    // In lanes beyond the end the gradient is 0.
    const Vector product =
        Pack::all(sum_row(
                      cols, QALOF_LANES { return gradient(i, mask) * normalized(i, mask); }) /
                  n);
    map_row(
        cols, dx, QALOF_LANES {
          return inverse * Pack::fnmadd(normalized(i, mask), product, gradient(i, mask) - sum);
        });
  }

  static void layer_norm_dparams(const float* dy, const float* x, const float* stats,
                                 std::size_t cols, float* dgamma, float* dbeta) {
    const Vector mean = Pack::all(stats[0]), inverse = Pack::all(stats[1]);
    if (dgamma != nullptr) {
      map_row(
          cols, dgamma, QALOF_LANES {
            const Vector d = (Pack::load(x + i, mask) - mean) * inverse;
            return Pack::fmadd(Pack::load(dy + i, mask), d, Pack::load(dgamma + i, mask));
          });
    }
    if (dbeta != nullptr) add(dy, cols, dbeta);
  }

  static void rms_norm(const float* x, std::size_t cols, const float* gamma, float eps, float* dst,
                       float* stats) {
    const float squares = sum_row(
        cols, QALOF_LANES {
          const Vector v = Pack::load(x + i, mask);
          return v * v;
        });
    const float inverse = 1.0F / Pack::root(squares / static_cast<float>(cols) + eps);
    const Vector factor = Pack::all(inverse);
    map_row(
        cols, dst,
        QALOF_LANES { return Pack::load(x + i, mask) * factor * Pack::load(gamma + i, mask); });
    stats[0] = 0.0F;
    stats[1] = inverse;
  }

  static void rms_norm_dx(const float* dy, const float* x, const float* stats, const float* gamma,
                          std::size_t cols, float* dx) {
    const Vector inverse = Pack::all(stats[1]);
    const auto gradient = QALOF_LANES {
      return Pack::load(dy + i, mask) * Pack::load(gamma + i, mask);
    };
    const auto normalized = QALOF_LANES { return Pack::load(x + i, mask) * inverse; };
    const Vector product =
        Pack::all(sum_row(
                      cols, QALOF_LANES { return gradient(i, mask) * normalized(i, mask); }) /
                  static_cast<float>(cols));
    map_row(
        cols, dx, QALOF_LANES {
          return inverse * Pack::fnmadd(normalized(i, mask), product, gradient(i, mask));
        });
  }

  // exp(-2u) with u = sqrt(2 / pi) (x + 0.044715 x^3).
  [[gnu::always_inline]] static Vector gelu_exp(Vector x) {
    const Vector inner = Pack::fmadd(x * x * Pack::all(0.044715F), x, x);
    return exp_of<Pack>(inner * Pack::all(-2.0F * 0.7978845608F));
  }

  // Beyond 100 the derivatives of both GELUs are 0 or 1, and the square stays finite.
  [[gnu::always_inline]] static Vector within_100(Vector x) {
    const Vector flat = Pack::all(100.0F);
    return Pack::min(flat, Pack::max(Pack::all(0.0F) - flat, x));
  }

  static void gelu(const float* x, std::size_t count, float* dst) {
    const Vector one = Pack::all(1.0F);
    map_row(
        count, dst, QALOF_LANES {
          const Vector v = Pack::load(x + i, mask);
          return v / (one + gelu_exp(v));
        });
  }

  static void gelu_dx(const float* dy, const float* x, std::size_t count, float* dx) {
    const Vector one = Pack::all(1.0F);
    map_row(
        count, dx, QALOF_LANES {
          const Vector v = within_100(Pack::load(x + i, mask));
          const Vector t = one / (one + gelu_exp(v));
          const Vector slope = Pack::fmadd(v * v, Pack::all(3.0F * 0.044715F), one) *
                               Pack::all(2.0F * 0.7978845608F);
          const Vector bend = v * t * (one - t);
          return Pack::load(dy + i, mask) * Pack::fmadd(bend, slope, t);
        });
  }

  // Phi(x) and exp(-x^2 / 2), from which the exact GELU and its derivative are computed
  // (docs/numerics.md, "Activation").
  struct Normal {
    Vector below, bell;
  };
  [[gnu::always_inline]] static Normal normal_at(Vector x) {
    const Vector one = Pack::all(1.0F);
    const Vector bell = exp_of<Pack>(x * x * Pack::all(-0.5F));
    const Vector t = one / Pack::fmadd(Pack::size(x), Pack::all(0.28F), one);
    Vector sum = Pack::all(0.02305598184466362F);
    sum = Pack::fmadd(sum, t, Pack::all(-0.08466631174087524F));
    sum = Pack::fmadd(sum, t, Pack::all(0.07250028103590012F));
    sum = Pack::fmadd(sum, t, Pack::all(0.01769009791314602F));
    sum = Pack::fmadd(sum, t, Pack::all(0.05546824634075165F));
    sum = Pack::fmadd(sum, t, Pack::all(0.0911249965429306F));
    sum = Pack::fmadd(sum, t, Pack::all(0.10117769986391068F));
    sum = Pack::fmadd(sum, t, Pack::all(0.11195968091487885F));
    sum = Pack::fmadd(sum, t, Pack::all(0.11168935894966125F));
    const Vector tail = t * sum * bell;
    return {Pack::where_negative(x, tail, one - tail), bell};
  }

  static void gelu_erf(const float* x, std::size_t count, float* dst) {
    map_row(
        count, dst, QALOF_LANES {
          const Vector v = Pack::load(x + i, mask);
          return v * normal_at(v).below;
        });
  }

  static void gelu_erf_dx(const float* dy, const float* x, std::size_t count, float* dx) {
    map_row(
        count, dx, QALOF_LANES {
          const Vector v = within_100(Pack::load(x + i, mask));
          const Normal normal = normal_at(v);
          const Vector density = normal.bell * Pack::all(0.3989422804F);
          return Pack::load(dy + i, mask) * Pack::fmadd(v, density, normal.below);
        });
  }

  // 1 + exp(-x).
  [[gnu::always_inline]] static Vector one_and_exp(Vector x) {
    return Pack::all(1.0F) + exp_of<Pack>(Pack::all(0.0F) - x);
  }

  static void swiglu(const float* gate, const float* up, std::size_t count, float* dst) {
    map_row(
        count, dst, QALOF_LANES {
          const Vector g = Pack::load(gate + i, mask);
          return g / one_and_exp(g) * Pack::load(up + i, mask);
        });
  }

  static void swiglu_dx(const float* dy, const float* gate, const float* up, std::size_t count,
                        float* dgate, float* dup) {
    const Vector one = Pack::all(1.0F);
    map_row(
        count, dgate, QALOF_LANES {
          const Vector d = Pack::load(dy + i, mask), g = Pack::load(gate + i, mask);
          const Vector u = Pack::load(up + i, mask);
          const Vector t = one / one_and_exp(g);
          const Vector slope = Pack::fmadd(g, one - t, one);
          Pack::store(dup + i, d * (g * t), mask);
          return (d * u) * (t * slope);
        });
  }

  static void rotate_pairs(float* x, std::size_t half, const float* cos, const float* sin) {
    map_row(
        half, x, QALOF_LANES {
          const Vector a = Pack::load(x + i, mask), b = Pack::load(x + half + i, mask);
          const Vector c = Pack::load(cos + i, mask), s = Pack::load(sin + i, mask);
          Pack::store(x + half + i, Pack::fmadd(b, c, a * s), mask);
          return Pack::fmsub(a, c, b * s);
        });
  }

  static void add(const float* src, std::size_t count, float* dst) {
    map_row(
        count, dst, QALOF_LANES { return Pack::load(dst + i, mask) + Pack::load(src + i, mask); });
  }

#undef QALOF_LANES

  static void set(KernelTable& table) {
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
};

}  // namespace
}  // namespace qalof::kernels
