// AVX-VNNI, AVX-512 and AMX on a processor that has AVX2 alone, for tests: included before all else
// in the files of these sets where QALOF_SIMULATE_SETS is on. SIMDe supplies most functions; here
// stand those that its version 0.7.4 lacks or rounds otherwise, element by element as Intel's
// intrinsics guide defines them. Slow. The bits are those of the real instructions, except that
// products of bfloat16 may be summed in another order.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

namespace qalof::simulated {

/// A register as an array.
template <class Element, class Register>
struct Lanes {
  static constexpr std::size_t kCount = sizeof(Register) / sizeof(Element);
  Element at[kCount] = {};

  Lanes() = default;
  explicit Lanes(const Register& value) { std::memcpy(at, &value, sizeof(value)); }
  Register value() const {
    Register result;
    std::memcpy(&result, at, sizeof(result));
    return result;
  }
};

template <class Element, class Register, class Mask>
Register load_where(Mask mask, const void* from) {
  Lanes<Element, Register> lanes;
  for (std::size_t i = 0; i < lanes.kCount; ++i) {
    const char* element = static_cast<const char*>(from) + i * sizeof(Element);
    if ((mask >> i & 1) != 0) std::memcpy(&lanes.at[i], element, sizeof(Element));
  }
  return lanes.value();
}

template <class Element, class Register, class Mask>
void store_where(void* to, Mask mask, const Register& value) {
  const Lanes<Element, Register> lanes(value);
  for (std::size_t i = 0; i < lanes.kCount; ++i) {
    char* element = static_cast<char*>(to) + i * sizeof(Element);
    if ((mask >> i & 1) != 0) std::memcpy(element, &lanes.at[i], sizeof(Element));
  }
}

/// Each element of the result from the element of the same number; from may have more of them.
template <class To, class ToRegister, class From, class FromRegister, class Function>
ToRegister convert(const FromRegister& from, const Function& function) {
  const Lanes<From, FromRegister> input(from);
  Lanes<To, ToRegister> output;
  const std::size_t count = std::min(input.kCount, output.kCount);
  for (std::size_t i = 0; i < count; ++i) output.at[i] = static_cast<To>(function(input.at[i]));
  return output.value();
}

template <class To, class ToRegister, class From, class FromRegister>
ToRegister widen(const FromRegister& from) {
  return convert<To, ToRegister, From>(from, [](From value) { return static_cast<To>(value); });
}

/// To the nearest integer, ties to even; what is no int32 becomes its least value.
inline std::int32_t nearest_integer(float value) {
  if (!(value >= -2147483648.0F && value < 2147483648.0F)) return INT32_MIN;
  return static_cast<std::int32_t>(std::nearbyint(value));
}

/// To the nearest bfloat16, ties to even; denormals become zeros, as the instruction has them.
inline std::uint16_t nearest_bf16(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  const auto high = static_cast<std::uint16_t>(bits >> 16);
  if (std::isnan(value)) return static_cast<std::uint16_t>(high | 0x40U);
  if (value != 0 && std::fabs(value) < 1.17549435e-38F) return high & 0x8000U;
  return static_cast<std::uint16_t>((bits + 0x7FFFU + (high & 1U)) >> 16);
}

inline float from_bf16(std::uint16_t value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
  float result = 0;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

template <class Element, class Register, class Choose>
Element reduce(const Register& from, const Choose& choose) {
  const Lanes<Element, Register> lanes(from);
  Element result = lanes.at[0];
  for (std::size_t i = 1; i < lanes.kCount; ++i) result = choose(result, lanes.at[i]);
  return result;
}

/// Within each quarter of a register, the elements that selector names by two bits each.
inline __m512 permute_quarters(const __m512& from, int selector) {
  const Lanes<float, __m512> input(from);
  Lanes<float, __m512> output;
  for (std::size_t i = 0; i < output.kCount; ++i) {
    output.at[i] = input.at[i / 4 * 4 + (static_cast<unsigned>(selector) >> (i % 4 * 2) & 3U)];
  }
  return output.value();
}

/// Quarters of a, a, b, b, as selector names them by two bits each.
inline __m512 shuffle_quarters(const __m512& a, const __m512& b, int selector) {
  const Lanes<float, __m512> first(a), second(b);
  Lanes<float, __m512> output;
  for (std::size_t i = 0; i < output.kCount; ++i) {
    const std::size_t quarter = i / 4;
    const std::size_t chosen = static_cast<unsigned>(selector) >> (quarter * 2) & 3U;
    output.at[i] = (quarter < 2 ? first : second).at[chosen * 4 + i % 4];
  }
  return output.value();
}

inline __m256 half(const __m512& from, int which) {
  const Lanes<float, __m512> input(from);
  Lanes<float, __m256> output;
  std::copy_n(input.at + which * 8, 8, output.at);
  return output.value();
}

/// values times two to the power of the largest integers not above powers, rounded once.
inline __m512 scale_by_powers(const __m512& values, const __m512& powers) {
  const Lanes<float, __m512> by(powers);
  Lanes<float, __m512> scaled(values);
  for (std::size_t i = 0; i < scaled.kCount; ++i) {
    // 600: beyond it every float is zero or infinite already.
    const float power = std::clamp(std::floor(by.at[i]), -600.0F, 600.0F);
    const bool number = !std::isnan(scaled.at[i]) && !std::isnan(power);
    scaled.at[i] = number ? std::ldexp(scaled.at[i], static_cast<int>(power)) : NAN;
  }
  return scaled.value();
}

constexpr std::size_t kTiles = 8, kTileRows = 16, kRowBytes = 64;

/// The tile registers of a thread and their shapes (Intel SDM, "AMX").
struct Tiles {
  std::uint16_t row_bytes[kTiles] = {};
  std::uint8_t rows[kTiles] = {};
  std::uint8_t data[kTiles][kTileRows][kRowBytes] = {};

  void configure(const void* from) {
    const auto* bytes = static_cast<const std::uint8_t*>(from);
    *this = Tiles();
    std::memcpy(row_bytes, bytes + 16, sizeof(row_bytes));
    std::memcpy(rows, bytes + 48, sizeof(rows));
  }
  void zero(std::size_t tile) { std::memset(data[tile], 0, sizeof(data[tile])); }
  void load(std::size_t tile, const void* from, std::size_t stride) {
    zero(tile);
    for (std::size_t row = 0; row < rows[tile]; ++row) {
      std::memcpy(data[tile][row], static_cast<const char*>(from) + row * stride, row_bytes[tile]);
    }
  }
  void store(std::size_t tile, void* to, std::size_t stride) const {
    for (std::size_t row = 0; row < rows[tile]; ++row) {
      std::memcpy(static_cast<char*>(to) + row * stride, data[tile][row], row_bytes[tile]);
    }
  }
  /// sums[m][n] += the product of a's four bytes k of row m and b's four bytes n of row k.
  template <class A, class B>
  void multiply_bytes(std::size_t sums, std::size_t a, std::size_t b) {
    for (std::size_t m = 0; m < rows[sums]; ++m) {
      for (std::size_t n = 0; n < row_bytes[sums] / 4U; ++n) {
        std::int32_t sum = 0;
        std::memcpy(&sum, &data[sums][m][n * 4], sizeof(sum));
        for (std::size_t byte = 0; byte < row_bytes[a]; ++byte) {
          sum += static_cast<A>(data[a][m][byte]) *
                 static_cast<B>(data[b][byte / 4][n * 4 + byte % 4]);
        }
        std::memcpy(&data[sums][m][n * 4], &sum, sizeof(sum));
      }
    }
  }
  /// The same with pairs of bfloat16; first and second elements of the pairs are summed apart.
  void multiply_bf16(std::size_t sums, std::size_t a, std::size_t b) {
    const auto element = [&](std::size_t tile, std::size_t row, std::size_t at) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, &data[tile][row][at * 2], sizeof(bits));
      return from_bf16(bits);
    };
    for (std::size_t m = 0; m < rows[sums]; ++m) {
      for (std::size_t n = 0; n < row_bytes[sums] / 4U; ++n) {
        float apart[2] = {}, sum = 0;
        std::memcpy(&sum, &data[sums][m][n * 4], sizeof(sum));
        for (std::size_t at = 0; at < row_bytes[a] / 2U; ++at) {
          const float second = element(b, at / 2, n * 2 + at % 2);
          apart[at % 2] = std::fma(element(a, m, at), second, apart[at % 2]);
        }
        sum += apart[0] + apart[1];
        std::memcpy(&data[sums][m][n * 4], &sum, sizeof(sum));
      }
    }
  }
};

inline Tiles& tiles() {
  static thread_local Tiles registers;
  return registers;
}

}  // namespace qalof::simulated

// NOLINTBEGIN(cppcoreguidelines-macro-usage): they take the places of the compiler's functions.
#define _mm256_dpbusd_avx_epi32(sum, a, b) simde_mm256_dpbusd_epi32(sum, a, b)

#define QALOF_LOAD(element, type, mask, at) (qalof::simulated::load_where<element, type>(mask, at))
#define _mm_maskz_loadu_epi8(mask, at) QALOF_LOAD(std::int8_t, __m128i, mask, at)
#define _mm256_maskz_loadu_epi8(mask, at) QALOF_LOAD(std::int8_t, __m256i, mask, at)
#define _mm256_maskz_loadu_epi16(mask, at) QALOF_LOAD(std::int16_t, __m256i, mask, at)
#define _mm256_maskz_loadu_ps(mask, at) QALOF_LOAD(float, __m256, mask, at)
#define _mm512_maskz_loadu_epi8(mask, at) QALOF_LOAD(std::int8_t, __m512i, mask, at)
#define _mm512_maskz_loadu_epi32(mask, at) QALOF_LOAD(std::int32_t, __m512i, mask, at)
#define _mm512_maskz_loadu_ps(mask, at) QALOF_LOAD(float, __m512, mask, at)
#define _mm_mask_storeu_epi8(at, mask, v) qalof::simulated::store_where<std::int8_t>(at, mask, v)
#define _mm512_mask_storeu_epi32(at, mask, v) qalof::simulated::store_where<int>(at, mask, v)
#define _mm512_mask_storeu_ps(at, mask, v) qalof::simulated::store_where<float>(at, mask, v)
#define _mm512_stream_ps(at, v) _mm512_storeu_ps(at, v)

#define QALOF_WIDEN(to, to_type, from, v) (qalof::simulated::widen<to, to_type, from>(v))
#define _mm512_cvtepi8_epi32(v) QALOF_WIDEN(std::int32_t, __m512i, std::int8_t, v)
#define _mm512_cvtepu8_epi16(v) QALOF_WIDEN(std::int16_t, __m512i, std::uint8_t, v)
#define _mm512_cvtepu8_epi32(v) QALOF_WIDEN(std::int32_t, __m512i, std::uint8_t, v)
#define _mm512_cvtepu16_epi32(v) QALOF_WIDEN(std::int32_t, __m512i, std::uint16_t, v)
#define _mm512_cvtepi32_epi8(v) QALOF_WIDEN(std::int8_t, __m128i, std::int32_t, v)
#define _mm512_cvtepi32_ps(v) QALOF_WIDEN(float, __m512, std::int32_t, v)
#define _mm512_cvtps_epi32(v) \
  (qalof::simulated::convert<std::int32_t, __m512i, float>(v, qalof::simulated::nearest_integer))
#define _mm512_cvtneps_pbh(v) \
  (qalof::simulated::convert<std::uint16_t, __m256bh, float>(v, qalof::simulated::nearest_bf16))

#define _mm512_srai_epi32(v, count)                                \
  (qalof::simulated::convert<std::int32_t, __m512i, std::int32_t>( \
      v, [](std::int32_t value) { return value >> (count); }))
#define _mm512_permute_ps(v, selector) qalof::simulated::permute_quarters(v, selector)
#define _mm512_shuffle_f32x4(a, b, selector) qalof::simulated::shuffle_quarters(a, b, selector)
#define _mm512_extractf32x8_ps(v, which) qalof::simulated::half(v, which)
#undef _mm512_scalef_ps
#define _mm512_scalef_ps(values, powers) qalof::simulated::scale_by_powers(values, powers)
#define _mm512_reduce_max_ps(v) \
  qalof::simulated::reduce<float>(v, [](float a, float b) { return a > b ? a : b; })
#define _mm512_reduce_max_epu32(v) \
  qalof::simulated::reduce<unsigned>(v, [](unsigned a, unsigned b) { return a > b ? a : b; })
#define _mm512_reduce_add_epi32(v) \
  static_cast<int>(qalof::simulated::reduce<unsigned>(v, std::plus<unsigned>()))
#define _mm512_reduce_min_ps(v) \
  qalof::simulated::reduce<float>(v, [](float a, float b) { return a < b ? a : b; })

#define _tile_loadconfig(at) qalof::simulated::tiles().configure(at)
#define _tile_release() (qalof::simulated::tiles() = qalof::simulated::Tiles())
#define _tile_zero(tile) qalof::simulated::tiles().zero(tile)
#define _tile_loadd(tile, at, stride) qalof::simulated::tiles().load(tile, at, stride)
#define _tile_stored(tile, at, stride) qalof::simulated::tiles().store(tile, at, stride)
#define _tile_dpbusd(sums, a, b) \
  qalof::simulated::tiles().multiply_bytes<std::uint8_t, std::int8_t>(sums, a, b)
#define _tile_dpbsud(sums, a, b) \
  qalof::simulated::tiles().multiply_bytes<std::int8_t, std::uint8_t>(sums, a, b)
#define _tile_dpbf16ps(sums, a, b) qalof::simulated::tiles().multiply_bf16(sums, a, b)
// NOLINTEND(cppcoreguidelines-macro-usage)
