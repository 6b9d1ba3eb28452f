// Fills the table of Gumbel numbers, hands out stretches of it, and draws tokens by Gumbel-max.
#include "train/gumbel.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"

namespace qalof::train {

GumbelNoise::GumbelNoise(std::uint64_t seed, double temperature, std::size_t longest,
                         ParallelFor& parallel)
    : seed_(seed), values_(kPlaces + longest) {
  QALOF_CHECK(temperature >= kLowestTemperature, ErrorKind::kUsage,
              "--temperature: found {}, expected at least {}", temperature, kLowestTemperature);
  const RandomStream stream(seed, "gumbel");
  constexpr std::size_t kTask = 1 << 14;
  parallel.run((values_.size() + kTask - 1) / kTask, [&](std::size_t task) {
    const std::size_t end = std::min(values_.size(), (task + 1) * kTask);
    for (std::size_t i = task * kTask; i < end; i += 4) {
      const auto words = stream.words(0, i / 4);
      for (std::size_t k = 0; k < 4 && i + k < end; ++k) {
        // u is in (0, 1), so g = -log(-log u) is finite; exp(g) = 1 / -log u.
        const double u = (static_cast<double>(words[k]) + 0.5) * 0x1p-32;
        const double inverse = -std::log(u);
        values_[i + k] = static_cast<float>(
            temperature == 1 ? 1 / inverse : std::pow(inverse, -1.0 / temperature));
      }
    }
  });
}

std::span<const float> GumbelNoise::stretch(std::string_view stream, std::uint64_t step,
                                            std::uint64_t index, std::size_t count) const {
  QALOF_CHECK(kPlaces + count <= values_.size(), ErrorKind::kInternal,
              "a stretch of {} numbers, at most {} were announced", count,
              values_.size() - kPlaces);
  const std::uint64_t place = RandomStream(seed_, stream).below(kPlaces, step, index);
  return std::span(values_).subspan(place, count);
}

std::vector<std::int32_t> draw_tokens(const TokenDistribution& distribution,
                                      std::span<const float> noise) {
  std::vector<std::int32_t> tokens(distribution.positions);
  for (std::size_t t = 0; t < distribution.positions; ++t) {
    const float* weights = distribution.weights.data() + t * distribution.vocab;
    const float* numbers = noise.data() + t * distribution.vocab;
    float best = -1;
    for (std::size_t v = 0; v < distribution.vocab; ++v) {
      const float value = weights[v] * numbers[v];
      if (value <= best) continue;
      best = value;
      tokens[t] = static_cast<std::int32_t>(v);
    }
  }
  return tokens;
}

}  // namespace qalof::train
