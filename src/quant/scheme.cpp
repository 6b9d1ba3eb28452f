#include "quant/scheme.h"

#include <fmt/format.h>

namespace qalof::quant {

QuantScheme parse_scheme(std::string_view text, std::string_view where, ErrorKind otherwise) {
  for (const std::size_t group : {0U, 32U, 64U, 128U}) {
    for (const bool asymmetric : {false, true}) {
      const QuantScheme scheme{group, asymmetric};
      if ((group != 0 || !asymmetric) && text == to_string(scheme)) return scheme;
    }
  }
  constexpr const char* kNames = "seed, g32, g64, g128, g32-asym, g64-asym, g128-asym";
  fail(text == "tuned" ? ErrorKind::kUnsupported : otherwise,
       "{}: found {:.40}, implemented are {}", where, text, kNames);
}

std::string to_string(const QuantScheme& scheme) {
  if (scheme.is_seed()) return "seed";
  return fmt::format("g{}{}", scheme.group, scheme.asymmetric ? "-asym" : "");
}

}  // namespace qalof::quant
