// Philox4x32-10 and the draws made from it: uniform, normal, bounded integers, permutations.
#include "core/random.h"

#include <cmath>
#include <numbers>
#include <utility>

namespace qalof {

namespace {

// Philox4x32-10 constants (Salmon et al., 2011, table 2).
constexpr std::uint32_t kMultiplier0 = 0xD2511F53U, kMultiplier1 = 0xCD9E8D57U;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9U, kWeyl1 = 0xBB67AE85U;
constexpr int kRounds = 10;

std::uint64_t fnv1a(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3ULL;
  }
  return hash;
}

// The step of SplitMix64's counter.
constexpr std::uint64_t kMixStep = 0x9e3779b97f4a7c15ULL;

// SplitMix64's finalizer: spreads seeds that differ in one bit over the whole key.
std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
  return value ^ (value >> 31);
}

// 24 bits: every value is exact in f32.
float to_unit(std::uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24F; }

}  // namespace

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t product0 = std::uint64_t{kMultiplier0} * counter[0];
    const std::uint64_t product1 = std::uint64_t{kMultiplier1} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

RandomStream::RandomStream(std::uint64_t seed, std::string_view name) {
  const std::uint64_t key = mix(seed + kMixStep) ^ fnv1a(name);
  key_ = {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)};
}

std::array<std::uint32_t, 4> RandomStream::words(std::uint64_t step, std::uint64_t index) const {
  return philox4x32({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                     static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(step >> 32)},
                    key_);
}

float RandomStream::uniform(std::uint64_t step, std::uint64_t index) const {
  return to_unit(words(step, index)[0]);
}

float RandomStream::normal(std::uint64_t step, std::uint64_t index) const {
  const auto word = words(step, index);
  // 1 - u lies in (0, 1], so the logarithm is finite.
  const double radius = std::sqrt(-2.0 * std::log(1.0 - static_cast<double>(to_unit(word[0]))));
  const double angle = 2.0 * std::numbers::pi * static_cast<double>(to_unit(word[1]));
  return static_cast<float>(radius * std::cos(angle));
}

std::uint64_t RandomStream::below(std::uint64_t bound, std::uint64_t step,
                                  std::uint64_t index) const {
  // Two 64-bit draws per counter; a draw past the last whole multiple of bound is rejected. Further
  // counters use the index's top bits, which no caller reaches.
  const std::uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
  for (std::uint64_t attempt = 0;; ++attempt) {
    const auto word = words(step, index | (attempt << 56));
    for (const std::size_t half : {0U, 2U}) {
      const std::uint64_t draw = (std::uint64_t{word[half + 1]} << 32) | word[half];
      if (draw < limit) return draw % bound;
    }
  }
}

void RandomStream::permutation(std::uint64_t step, std::span<std::uint32_t> out) const {
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::uint32_t>(i);
  for (std::size_t i = out.size(); i > 1; --i) std::swap(out[i - 1], out[below(i, step, i)]);
}

std::uint32_t RandomStream::permuted(std::uint64_t step, std::uint32_t count,
                                     std::uint32_t place) const {
  constexpr std::uint64_t kFeistelRounds = 8;
  const std::uint64_t key = mix((std::uint64_t{key_[1]} << 32 | key_[0]) + mix(step + kMixStep));
  unsigned half_bits = 1;
  while ((std::uint64_t{1} << (2 * half_bits)) < count) ++half_bits;
  const std::uint32_t mask = (std::uint32_t{1} << half_bits) - 1;
  std::uint64_t value = place;
  do {
    auto high = static_cast<std::uint32_t>(value >> half_bits);
    auto low = static_cast<std::uint32_t>(value) & mask;
    for (std::uint64_t round = 1; round <= kFeistelRounds; ++round) {
      const auto drawn = static_cast<std::uint32_t>(mix(key + round * kMixStep + low));
      high = std::exchange(low, high ^ (drawn & mask));
    }
    value = std::uint64_t{high} << half_bits | low;
  } while (value >= count);
  return static_cast<std::uint32_t>(value);
}

}  // namespace qalof
