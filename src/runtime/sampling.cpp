// Greedy and random token choice with exact top-k and top-p cuts and counter-based randomness.
#include "runtime/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/finite.h"

namespace qalof::runtime {

namespace {

// Uniform in [0, 1) with 53 bits.
double uniform(const RandomStream& random, std::uint64_t step) {
  const auto words = random.words(step, 0);
  const std::uint64_t bits = (static_cast<std::uint64_t>(words[0]) << 32 | words[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

constexpr auto kMoreLikely = [](const auto& a, const auto& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
};

// The first of the largest logits, or the first that is NaN. In blocks whose lanes the compiler
// puts into vectors: a vocabulary is read for every token.
std::size_t first_largest(std::span<const float> logits) {
  constexpr std::size_t kLanes = 16, kBlock = 1024;
  std::size_t best = 0;  // where the first block with the largest begins
  float largest = -std::numeric_limits<float>::infinity();
  for (std::size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const std::size_t end = std::min(begin + kBlock, logits.size());
    float lanes[kLanes];
    unsigned not_numbers[kLanes] = {};
    std::fill(std::begin(lanes), std::end(lanes), -std::numeric_limits<float>::infinity());
    const auto take = [&](std::size_t lane, float logit) {
      lanes[lane] = logit > lanes[lane] ? logit : lanes[lane];
      not_numbers[lane] |= static_cast<unsigned>(logit != logit);
    };
    std::size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) take(lane, logits[i + lane]);
    }
    for (; i < end; ++i) take(0, logits[i]);
    const auto block = logits.subspan(begin, end - begin);
    if (std::ranges::any_of(not_numbers, [](unsigned found) { return found != 0; })) {
      const auto is_nan = [](float logit) { return std::isnan(logit); };
      return begin + static_cast<std::size_t>(std::ranges::find_if(block, is_nan) - block.begin());
    }
    const float top = *std::max_element(std::begin(lanes), std::end(lanes));
    if (!(top > largest)) continue;
    largest = top;
    best = begin;
  }
  const auto block = logits.subspan(best);
  return best + static_cast<std::size_t>(std::ranges::find(block, largest) - block.begin());
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options)
    : options_(options), random_(options.seed, "sampling") {
  QALOF_CHECK(std::isfinite(options.temperature) && options.temperature >= 0, ErrorKind::kUsage,
              "--temperature: found {}, expected 0 or more", options.temperature);
  QALOF_CHECK(options.top_p > 0 && options.top_p <= 1, ErrorKind::kUsage,
              "--top_p: found {}, expected more than 0 and at most 1", options.top_p);
}

// Moves the count most likely candidates to the front, sorted.
void Sampler::keep_most_likely(std::size_t count) {
  const auto middle = candidates_.begin() + static_cast<std::ptrdiff_t>(count);
  if (middle != candidates_.end())
    std::nth_element(candidates_.begin(), middle, candidates_.end(), kMoreLikely);
  std::sort(candidates_.begin(), middle, kMoreLikely);
}

// Keeps the fewest most likely candidates whose weights reach top_p of the total; returns their
// weight.
double Sampler::keep_top_p(double total) {
  const double wanted = options_.top_p * total;
  // A few candidates usually suffice, which avoids sorting all.
  for (std::size_t count = std::min<std::size_t>(64, candidates_.size());;
       count = std::min(8 * count, candidates_.size())) {
    keep_most_likely(count);
    double sum = 0;
    for (std::size_t i = 0; i < count; ++i) {
      sum += candidates_[i].weight;
      if (sum < wanted && i + 1 < candidates_.size()) continue;
      candidates_.resize(i + 1);
      return sum;
    }
  }
}

std::int32_t Sampler::sample(std::span<const float> logits, std::uint64_t step) {
  QALOF_CHECK(!logits.empty(), ErrorKind::kBadInput, "sampling: there is no logit");
  const auto where = [&] { return fmt::format("token {} of the text", step + 1); };
  const std::size_t at = first_largest(logits);
  const float top = logits[at];
  if (std::isnan(top)) fail_not_finite(static_cast<double>(top), "a logit", where());
  check_finite(static_cast<double>(top), "the largest logit", where);
  double total = 0;
  const double scale = options_.temperature > 0 ? 1.0 / options_.temperature : 0.0;
  if (scale == 0) return static_cast<std::int32_t>(at);
  candidates_.resize(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double weight =
        std::exp((static_cast<double>(logits[i]) - static_cast<double>(top)) * scale);
    candidates_[i] = {static_cast<std::int32_t>(i), logits[i], weight};
    total += weight;
  }
  if (options_.top_k > 0 && options_.top_k < candidates_.size()) {
    keep_most_likely(options_.top_k);
    candidates_.resize(options_.top_k);
    total = 0;
    for (const Candidate& candidate : candidates_) total += candidate.weight;
  }
  if (options_.top_p < 1) total = keep_top_p(total);
  const double wanted = uniform(random_, step) * total;
  double sum = 0;
  for (const Candidate& candidate : candidates_) {
    sum += candidate.weight;
    if (wanted < sum) return candidate.id;
  }
  // Reached only where rounding leaves the sum below `wanted`; the last candidate is as good.
  return candidates_.back().id;
}

}  // namespace qalof::runtime
