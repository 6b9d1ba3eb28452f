#include "peak.h"

#include <chrono>
#include <cstdint>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/isa.h"

namespace qalof::bench {

namespace {

using kernels::Isa;

// The best of several runs: others may use the machine.
template <typename Body>
double best_seconds(const Body& body) {
  double best = 1e9;
  for (int i = 0; i < 20; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    if (taken.count() < best) best = taken.count();
  }
  return best;
}

constexpr int kRounds = 50000;
constexpr int kSums = 10;  // in flight, more than any latency needs
constexpr int kTileRounds = 20000;

#if defined(__x86_64__)
// Separate variables: of an array the compiler would keep some in memory.
#define QALOF_STEP(j, step)       \
  {                               \
    auto& sum = sum##j;           \
    step;                         \
    asm volatile("" : "+v"(sum)); \
  }
#define QALOF_PEAK(name, features, vector, zero, step)                                   \
  __attribute__((target(features))) void name() {                                        \
    const vector other = zero;                                                           \
    vector sum0 = zero, sum1 = zero, sum2 = zero, sum3 = zero, sum4 = zero, sum5 = zero, \
           sum6 = zero, sum7 = zero, sum8 = zero, sum9 = zero;                           \
    for (int i = 0; i < kRounds; ++i) {                                                  \
      QALOF_STEP(0, step)                                                                \
      QALOF_STEP(1, step)                                                                \
      QALOF_STEP(2, step)                                                                \
      QALOF_STEP(3, step)                                                                \
      QALOF_STEP(4, step)                                                                \
      QALOF_STEP(5, step)                                                                \
      QALOF_STEP(6, step) QALOF_STEP(7, step) QALOF_STEP(8, step) QALOF_STEP(9, step)    \
    }                                                                                    \
  }
QALOF_PEAK(f32_avx2, "avx2,fma", __m256, _mm256_setzero_ps(),
           sum = _mm256_fmadd_ps(other, other, sum))
QALOF_PEAK(int8_avx2, "avx2", __m256i, _mm256_setzero_si256(),
           sum = _mm256_add_epi32(sum, _mm256_madd_epi16(sum, other)))
QALOF_PEAK(f32_avx512, "avx512f", __m512, _mm512_setzero_ps(),
           sum = _mm512_fmadd_ps(other, other, sum))
QALOF_PEAK(int8_avx512, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(),
           sum = _mm512_dpbusd_epi32(sum, other, other))
QALOF_PEAK(bf16_avx512, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(),
           sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(other),
                                  reinterpret_cast<__m512bh>(other)))
// One tile operation multiplies 16 x 64 bytes by 64 x 16; four sums are in flight.
#define QALOF_TILE_PEAK(name, instruction)                               \
  __attribute__((target("amx-tile,amx-int8,amx-bf16"))) void name() {    \
    struct alignas(64) {                                                 \
      std::uint8_t palette = 1, rest[15] = {};                           \
      std::uint16_t column_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64}; \
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};          \
    } config;                                                            \
    asm volatile("" : : "r"(&config) : "memory");                        \
    _tile_loadconfig(&config);                                           \
    for (int i = 0; i < kTileRounds; ++i) {                              \
      instruction(0, 4, 6);                                              \
      instruction(1, 4, 7);                                              \
      instruction(2, 5, 6);                                              \
      instruction(3, 5, 7);                                              \
    }                                                                    \
    _tile_release();                                                     \
  }
QALOF_TILE_PEAK(int8_amx, _tile_dpbusd)
QALOF_TILE_PEAK(bf16_amx, _tile_dpbf16ps)
#undef QALOF_TILE_PEAK
#undef QALOF_PEAK
#undef QALOF_STEP
#endif

}  // namespace

double peak_gops([[maybe_unused]] Arithmetic arithmetic) {
#if defined(__x86_64__)
  const Isa isa = kernels::active_isa();
  void (*body)() = f32_avx2;
  double per_step = 16;
  if (isa == Isa::kAmx && arithmetic != Arithmetic::kF32) {
    const bool bytes = arithmetic == Arithmetic::kInt8;
    const double operations = 4.0 * kTileRounds * 2 * 16 * 16 * (bytes ? 64 : 32);
    return operations / best_seconds(bytes ? int8_amx : bf16_amx) * 1e-9;
  }
  if (arithmetic == Arithmetic::kInt8) {
    body = isa >= Isa::kAvx512Vnni ? int8_avx512 : int8_avx2;
    per_step = isa >= Isa::kAvx512Vnni ? 128 : 32;
  } else if (arithmetic == Arithmetic::kBf16 && isa >= Isa::kAvx512Bf16) {
    body = bf16_avx512;
    per_step = 64;
  } else if (isa >= Isa::kAvx512) {
    body = f32_avx512;
    per_step = 32;
  }
  if (isa == Isa::kPortable) return 0.0;
  return per_step * kSums * kRounds / best_seconds(body) * 1e-9;
#else
  return 0.0;
#endif
}

double read_gbs() {
  constexpr std::size_t kWords = std::size_t{128} << 17;  // 128 MiB
  const std::vector<std::uint64_t> words(kWords, 1);
  const double seconds = best_seconds([&] {
    std::uint64_t sums[8] = {};
    for (std::size_t i = 0; i < kWords; i += 8) {
      for (std::size_t j = 0; j < 8; ++j) sums[j] += words[i + j];
    }
    volatile std::uint64_t sink = sums[0] + sums[7];
    (void)sink;
  });
  return static_cast<double>(kWords * 8) / seconds * 1e-9;
}

}  // namespace qalof::bench
