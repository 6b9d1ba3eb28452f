// Random precision inference: the set of widths that requests are drawn from, and the draws
// (docs/numerics.md, "Random precision"; Fu et al. 2021, "Double-Win Quant", ICML).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/random.h"
#include "quant/plan.h"

namespace qalof::quant {

/// What a request's draw covers: the whole network, or each layer's linears and K and V by itself.
enum class DrawnWidths { kRequest, kLayer };
/// "request" or "layer"; Error{kUsage} else.
DrawnWidths parse_drawn_widths(std::string_view text);

/// "random:4,5,6,7,8": at least two different uniform precisions, in the order written.
struct RandomPrecision {
  std::vector<UniformPrecision> set;
  DrawnWidths drawn = DrawnWidths::kRequest;
};
/// Whether text means a random precision, well formed or not.
bool is_random_precision(std::string_view text);
/// Error{kUsage} says what is wrong with the set.
RandomPrecision parse_random_precision(std::string_view text);
/// "random:w4a4kv4,w8a8kv8", and ", drawn per layer" where it is.
std::string to_string(const RandomPrecision& random);
/// The set as plans of one width everywhere.
std::vector<PlanSpec> plans_of(const RandomPrecision& random);

/// Uniform draws from a set: functions of (seed, request, layer) alone, so that requests are
/// independent of each other and of the order, batch and thread they are served in. Immutable.
class PrecisionDraws {
 public:
  PrecisionDraws(std::uint64_t seed, std::size_t choices)
      : stream_(seed, "random_precision"), choices_(choices) {}
  /// Index into the set of a request that has one width.
  std::size_t of_request(std::uint64_t request) const {
    return stream_.below(choices_, request, 0);
  }
  /// Of one of its layers, where those are drawn.
  std::size_t of_layer(std::uint64_t request, std::size_t layer) const {
    return stream_.below(choices_, request, 1 + layer);
  }

 private:
  RandomStream stream_;
  std::size_t choices_;
};

/// 64 bits of the system's random source, for draws that nobody can foresee.
std::uint64_t system_seed();

}  // namespace qalof::quant
