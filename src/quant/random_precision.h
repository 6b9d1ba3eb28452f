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

/// What one draw applies to: the whole network, or one layer (its linears, K and V).
enum class DrawnWidths { kRequest, kLayer };
/// "request" or "layer"; Error{kUsage} for anything else.
DrawnWidths parse_drawn_widths(std::string_view text);

/// "random:4,5,6,7,8": at least two different uniform precisions, in the order written.
struct RandomPrecision {
  std::vector<UniformPrecision> set;
  DrawnWidths drawn = DrawnWidths::kRequest;
};
/// True where text has the form of a random precision, valid or not.
bool is_random_precision(std::string_view text);
/// Error{kUsage} says what is wrong with the set.
RandomPrecision parse_random_precision(std::string_view text);
/// "random:w4a4kv4,w8a8kv8", with ", drawn per layer" appended where that applies.
std::string to_string(const RandomPrecision& random);
/// The set as plans, each with one width everywhere.
std::vector<PlanSpec> list_plans(const RandomPrecision& random);

/// Uniform draws from a set. Each draw is a function of (seed, request, layer) only, so requests do
/// not depend on each other or on the order, batch and thread in which they are served. Immutable.
class PrecisionDraws {
 public:
  PrecisionDraws(std::uint64_t seed, std::size_t choices)
      : stream_(seed, "random_precision"), choices_(choices) {}
  /// Index into the set for a request with one width everywhere.
  std::size_t of_request(std::uint64_t request) const {
    return stream_.below(choices_, request, 0);
  }
  /// Index into the set for a layer of a request, where layers are drawn separately.
  std::size_t of_layer(std::uint64_t request, std::size_t layer) const {
    return stream_.below(choices_, request, 1 + layer);
  }

 private:
  RandomStream stream_;
  std::size_t choices_;
};

/// 64 bits from the system's random source, for draws that nobody can predict.
std::uint64_t system_seed();

}  // namespace qalof::quant
