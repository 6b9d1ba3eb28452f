// Gumbel noise and the distributions over tokens it draws from (docs/numerics.md, "Attack";
// Jang et al. 2017, "Categorical Reparameterization with Gumbel-Softmax").
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/threads.h"

namespace qalof::train {

/// exp(g / temperature) of Gumbel numbers g, so that a sample of softmax((theta + g) / temperature)
/// is a product and a sum. Numbers are made once; a sample reads a stretch of them from a place
/// that is drawn for it. Immutable.
class GumbelNoise {
 public:
  static constexpr std::size_t kPlaces = std::size_t{1} << 21;
  static constexpr double kLowestTemperature = 0.3;  // below, numbers would not fit f32

  /// longest: numbers of a stretch, at most. Stretches do not depend on it.
  GumbelNoise(std::uint64_t seed, double temperature, std::size_t longest, ParallelFor& parallel);
  /// Numbers [count] of the sample (step, index) of a stream.
  std::span<const float> stretch(std::string_view stream, std::uint64_t step, std::uint64_t index,
                                 std::size_t count) const;
  /// All numbers; stretches lie in them.
  std::span<const float> values() const { return values_; }

 private:
  std::uint64_t seed_;
  std::vector<float> values_;
};

/// A distribution over tokens per position: exp(theta / temperature), not normalized, in
/// [positions, vocab]. A token that may not come has 0.
struct TokenDistribution {
  std::size_t positions = 0, vocab = 0;
  std::vector<float> weights;
};

/// The most likely token of every position under noise [positions, vocab], of equals the first: a
/// draw from the distribution.
std::vector<std::int32_t> draw_tokens(const TokenDistribution& distribution,
                                      std::span<const float> noise);

}  // namespace qalof::train
