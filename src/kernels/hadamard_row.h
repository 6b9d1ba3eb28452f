// The fast Hadamard transform of one row, written once for vectors of any width: every addition has
// equal operands at every width, so results are bit-equal. Internal linkage, for the files of one
// instruction set.
#pragma once

#include <cstddef>

#include "kernels/unroll.h"

namespace qalof::kernels {
namespace {

// Pack supplies: Vector with + and -, kLanes, load, store, and
//   near(x)  the butterflies of distances below kLanes, inside a vector

struct OneFloat {
  using Vector = float;
  static constexpr std::size_t kLanes = 1;
  static float load(const float* at) { return *at; }
  static void store(float* at, float value) { *at = value; }
  static float near(float x) { return x; }
};

/// Butterflies of distance `distance` on x [count], in place, within every part of 2 * distance.
template <typename Pack>
void add_and_subtract(float* x, std::size_t count, std::size_t distance) {
  for (std::size_t first = 0; first < count; first += 2 * distance) {
    for (std::size_t i = first; i < first + distance; i += Pack::kLanes) {
      const auto a = Pack::load(x + i), b = Pack::load(x + i + distance);
      Pack::store(x + i, a + b);
      Pack::store(x + i + distance, a - b);
    }
  }
}

/// Butterflies of `distance`, then of 2 * distance, in one pass.
template <typename Pack>
void add_and_subtract_twice(float* x, std::size_t count, std::size_t distance) {
  for (std::size_t first = 0; first < count; first += 4 * distance) {
    for (std::size_t i = first; i < first + distance; i += Pack::kLanes) {
      const auto a = Pack::load(x + i), b = Pack::load(x + i + distance);
      const auto c = Pack::load(x + i + 2 * distance), d = Pack::load(x + i + 3 * distance);
      const auto ab = a + b, ab_less = a - b;
      const auto cd = c + d, cd_less = c - d;
      Pack::store(x + i, ab + cd);
      Pack::store(x + i + distance, ab_less + cd_less);
      Pack::store(x + i + 2 * distance, ab - cd);
      Pack::store(x + i + 3 * distance, ab_less - cd_less);
    }
  }
}

/// Row j of the conference matrix of order 6 without its diagonal; true: -1.
[[maybe_unused]] constexpr bool kMinus[6][6] = {
    {false, false, false, false, false, false}, {false, false, false, true, true, false},
    {false, false, false, false, true, true},   {false, true, false, false, false, true},
    {false, true, true, false, false, false},   {false, false, true, true, false, false}};

/// H12 of docs/numerics.md, "Hadamard transform", on x[0], x[distance], .. x[11 distance], for
/// every column of every part of 12 * distance.
template <typename Pack>
void multiply_twelve(float* x, std::size_t count, std::size_t distance) {
  for (std::size_t first = 0; first < count; first += 12 * distance) {
    for (std::size_t column = first; column < first + distance; column += Pack::kLanes) {
      typename Pack::Vector sums[6], differences[6];
      unrolled<6>(QALOF_UNROLLED(k) {
        const float* pair = x + column + static_cast<std::size_t>(2 * k) * distance;
        const auto a = Pack::load(pair), b = Pack::load(pair + distance);
        sums[k] = a + b;
        differences[k] = a - b;
      });
      unrolled<6>(QALOF_UNROLLED(j) {
        // Begins with a term whose sign is plus: the first of the others.
        const int other = j == 0 ? 1 : 0;
        auto even = differences[j] + sums[other];
        auto odd = differences[other] - sums[j];
        unrolled<6>(QALOF_UNROLLED(k) {
          if (k == j || k == other) return;
          even = kMinus[j][k] ? even - sums[k] : even + sums[k];
          odd = kMinus[j][k] ? odd - differences[k] : odd + differences[k];
        });
        float* pair = x + column + static_cast<std::size_t>(2 * j) * distance;
        Pack::store(pair, even);
        Pack::store(pair + distance, odd);
      });
    }
  }
}

/// x [power * 12^twelves] = x H, not normalized; power is a power of two.
template <typename Pack>
void transform_row(float* x, std::size_t power, std::size_t twelves) {
  std::size_t count = power;
  for (std::size_t i = 0; i < twelves; ++i) count *= 12;
  std::size_t distance = 1;
  if (power >= Pack::kLanes) {
    for (std::size_t i = 0; i < count; i += Pack::kLanes)
      Pack::store(x + i, Pack::near(Pack::load(x + i)));
    distance = Pack::kLanes;
    for (; 2 * distance < power; distance *= 4) add_and_subtract_twice<Pack>(x, count, distance);
    if (distance < power) add_and_subtract<Pack>(x, count, distance);
  } else {
    for (; distance < power; distance *= 2) add_and_subtract<OneFloat>(x, count, distance);
  }
  distance = power;
  for (std::size_t i = 0; i < twelves; ++i, distance *= 12) {
    if (distance % Pack::kLanes == 0) {
      multiply_twelve<Pack>(x, count, distance);
    } else {
      multiply_twelve<OneFloat>(x, count, distance);
    }
  }
}

}  // namespace
}  // namespace qalof::kernels
