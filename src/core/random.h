// Counter-based randomness: every number is a function of (seed, stream name, step, index), so it
// does not depend on threads, ranks or resuming. Philox4x32-10 (Salmon et al., SC'11); the key is
// the seed mixed with the FNV-1a hash of the stream name.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace qalof {

/// The block function itself: ten rounds on a counter under a key.
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key);

/// A named stream of random numbers. Immutable, so threads may share it.
class RandomStream {
 public:
  RandomStream(std::uint64_t seed, std::string_view name);

  /// Four 32-bit words of counter (step, index).
  std::array<std::uint32_t, 4> words(std::uint64_t step, std::uint64_t index) const;
  /// Uniform in [0, 1) with 24 bits.
  float uniform(std::uint64_t step, std::uint64_t index) const;
  /// Standard normal (Box-Muller on words 0 and 1).
  float normal(std::uint64_t step, std::uint64_t index) const;
  /// Uniform integer in [0, bound), bound >= 1; exact by rejection over the words of the counter.
  std::uint64_t below(std::uint64_t bound, std::uint64_t step, std::uint64_t index) const;
  /// Fisher-Yates permutation of 0..n-1, a function of (seed, name, step).
  void permutation(std::uint64_t step, std::span<std::uint32_t> out) const;
  /// Number `place` of a permutation of 0..count-1, place < count, in constant memory: another one
  /// than the above, a function of (seed, name, step, count). Feistel network of eight rounds of
  /// SplitMix64 over the next power of four, walked until it ends below count (Black & Rogaway,
  /// CT-RSA 2002).
  std::uint32_t permuted(std::uint64_t step, std::uint32_t count, std::uint32_t place) const;

 private:
  std::array<std::uint32_t, 2> key_;
};

}  // namespace qalof
