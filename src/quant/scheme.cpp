#include "quant/scheme.h"

#include <fmt/format.h>

#include <utility>

namespace qalof::quant {

namespace {

constexpr std::size_t kGroups[] = {32, 64, 128};

// What `tuned` stands for.
constexpr std::string_view kTuned = "g64-asym+aasym+ag64+mse";

// Sets what a part says; false where it says nothing known or something a part before it said.
bool apply_part(std::string_view part, bool& weights_named, QuantScheme& scheme) {
  const auto set = [](bool& flag) { return !std::exchange(flag, true); };
  if (part == "mse") return set(scheme.mse);
  if (part == "aasym") return set(scheme.activation_asymmetric);
  for (const std::size_t group : kGroups) {
    if (part == fmt::format("ag{}", group))
      return std::exchange(scheme.activation_group, group) == 0;
    for (const bool asymmetric : {false, true}) {
      if (part != fmt::format("g{}{}", group, asymmetric ? "-asym" : "")) continue;
      scheme.group = group;
      scheme.asymmetric = asymmetric;
      return set(weights_named);
    }
  }
  return part == "seed" && set(weights_named);
}

}  // namespace

QuantScheme parse_scheme(std::string_view text, std::string_view where, ErrorKind otherwise) {
  QuantScheme scheme;
  bool weights_named = false;
  std::string_view rest = text == "tuned" ? kTuned : text;
  for (bool more = true; more;) {
    const std::size_t end = rest.find('+');
    more = end != std::string_view::npos;
    QALOF_CHECK(apply_part(rest.substr(0, end), weights_named, scheme), otherwise,
                "{}: found {:.40}, expected tuned or parts joined by +, each once: seed or g32, "
                "g64, g128, g32-asym, g64-asym, g128-asym; mse; aasym; ag32, ag64 or ag128",
                where, text);
    if (more) rest.remove_prefix(end + 1);
  }
  QALOF_CHECK(scheme.activation_group == 0 || scheme.activation_group == scheme.group, otherwise,
              "{}: found {:.40}, expected groups of activations (ag) as large as those of weights "
              "(g), e.g. g64+ag64",
              where, text);
  return scheme;
}

std::string to_string(const QuantScheme& scheme) {
  std::string text = scheme.group == 0
                         ? "seed"
                         : fmt::format("g{}{}", scheme.group, scheme.asymmetric ? "-asym" : "");
  if (scheme.activation_asymmetric) text += "+aasym";
  if (scheme.activation_group != 0) text += fmt::format("+ag{}", scheme.activation_group);
  if (scheme.mse) text += "+mse";
  return text;
}

}  // namespace qalof::quant
