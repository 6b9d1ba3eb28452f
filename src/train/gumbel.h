// Gumbel noise and the token distributions that are sampled with it (docs/numerics.md, "Attack";
// Jang et al. 2017, "Categorical Reparameterization with Gumbel-Softmax").
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/threads.h"

namespace qalof::train {

/// A table of exp(g / temperature) for Gumbel numbers g, so that a sample of
/// softmax((theta + g) / temperature) takes a product and a sum. The table is made once; a sample
/// reads a stretch of it at a drawn place. Immutable: threads may share it.
class GumbelNoise {
 public:
  static constexpr std::size_t kPlaces = std::size_t{1} << 21;
  static constexpr double kLowestTemperature = 0.3;  // below, numbers would not fit f32

  /// longest: the largest length of a stretch; stretches do not depend on it. Error{kUsage} for a
  /// temperature below kLowestTemperature.
  GumbelNoise(std::uint64_t seed, double temperature, std::size_t longest, ParallelFor& parallel);
  /// Numbers [count] of the sample (step, index) of a stream.
  std::span<const float> stretch(std::string_view stream, std::uint64_t step, std::uint64_t index,
                                 std::size_t count) const;
  /// The whole table; stretches view it.
  std::span<const float> values() const { return values_; }

 private:
  std::uint64_t seed_;
  std::vector<float> values_;
};

/// A distribution over tokens per position: exp(theta / temperature) [positions, vocab], not
/// normalized. A token that is not allowed has 0.
struct TokenDistribution {
  std::size_t positions = 0, vocab = 0;
  std::vector<float> weights;
};

/// Draws a token per position: the largest weight times noise [positions, vocab], the first of
/// equals.
std::vector<std::int32_t> draw_tokens(const TokenDistribution& distribution,
                                      std::span<const float> noise);

}  // namespace qalof::train
