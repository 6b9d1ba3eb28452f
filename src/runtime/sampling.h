// Choosing a token from logits: greedy, or at random with temperature, top-k and top-p.
//
// A choice is a function of logits, options and step alone: a request gives the same tokens alone
// or in a batch, on any number of threads (docs/numerics.md, "Sampling").
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/random.h"

namespace qalof::runtime {

struct SamplingOptions {
  double temperature = 0;  // 0: the most likely token
  std::size_t top_k = 0;   // the k most likely tokens; 0: all
  double top_p = 1;        // the fewest most likely tokens whose probabilities sum to this
  std::uint64_t seed = 0;
};

/// One thread at a time.
class Sampler {
 public:
  /// Error{kUsage} for a temperature below 0 or not finite and a top_p outside (0, 1].
  explicit Sampler(const SamplingOptions& options);
  /// Chooses the token of a step from logits [vocab]. Of equal logits the lower id comes first.
  /// Error{kDiverged} where a logit is NaN or the largest is not finite.
  std::int32_t sample(std::span<const float> logits, std::uint64_t step);

 private:
  struct Candidate {
    std::int32_t id;
    float logit;
    double weight;
  };
  void keep_most_likely(std::size_t count);
  double keep_top_p(double total);

  SamplingOptions options_;
  RandomStream random_;
  std::vector<Candidate> candidates_;
};

}  // namespace qalof::runtime
