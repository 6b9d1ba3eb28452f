// Parses sets of precisions, and reads the system's random source for seeds.
#include "quant/random_precision.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <random>

#include "core/error.h"

namespace qalof::quant {

namespace {

constexpr std::string_view kPrefix = "random:";

}  // namespace

DrawnWidths parse_drawn_widths(std::string_view text) {
  QALOF_CHECK(text == "request" || text == "layer", ErrorKind::kUsage,
              "--random_widths: found {:.60}, expected request or layer", text);
  return text == "layer" ? DrawnWidths::kLayer : DrawnWidths::kRequest;
}

bool is_random_precision(std::string_view text) { return text.starts_with(kPrefix); }

RandomPrecision parse_random_precision(std::string_view text) {
  RandomPrecision random;
  std::string_view rest = text.substr(kPrefix.size());
  while (true) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    const std::string_view entry = rest.substr(0, comma);
    QALOF_CHECK(!entry.empty(), ErrorKind::kUsage,
                "precision \"{:.60}\": a width is missing, expected e.g. random:4,5,6,7,8", text);
    const UniformPrecision precision = parse_uniform_precision(entry);
    QALOF_CHECK(std::find(random.set.begin(), random.set.end(), precision) == random.set.end(),
                ErrorKind::kUsage, "precision \"{:.60}\": {} appears twice, draws are uniform",
                text, to_string(precision));
    random.set.push_back(precision);
    if (comma == rest.size()) break;
    rest.remove_prefix(comma + 1);
  }
  QALOF_CHECK(random.set.size() >= 2, ErrorKind::kUsage,
              "precision \"{:.60}\": one width leaves nothing to draw, expected at least two",
              text);
  return random;
}

std::string to_string(const RandomPrecision& random) {
  std::vector<std::string> texts;
  for (const UniformPrecision& precision : random.set) texts.push_back(to_string(precision));
  return fmt::format("{}{}{}", kPrefix, fmt::join(texts, ","),
                     random.drawn == DrawnWidths::kLayer ? ", drawn per layer" : "");
}

std::vector<PlanSpec> list_plans(const RandomPrecision& random) {
  std::vector<PlanSpec> plans;
  for (const UniformPrecision& precision : random.set)
    plans.push_back(parse_plan(to_string(precision)));
  return plans;
}

std::uint64_t system_seed() {
  std::random_device source;
  return (std::uint64_t{source()} << 32) | source();
}

}  // namespace qalof::quant
