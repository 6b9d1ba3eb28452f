// Parses, writes and validates scheme texts such as g64-asym+aasym+mse.
#include "quant/scheme.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <utility>

namespace qalof::quant {

namespace {

constexpr std::string_view kMinMax = "minmax";
// What files and --json have always called it.
constexpr std::string_view kMinMaxInFiles = "seed";

constexpr std::size_t kGroups[] = {32, 64, 128};

// The name `tuned` and the scheme it abbreviates.
constexpr std::string_view kTunedName = "tuned", kTuned = "g64-asym+aasym+ag64+mse+rot";

constexpr std::string_view kLlmInt8 = "llm_int8";
constexpr float kOutlierThreshold = 6.0F;

// The name of all rotations, and those of one each.
constexpr std::string_view kRot = "rot";
struct NamedRotation {
  std::string_view name;
  bool Rotations::*part;
};
constexpr std::array<NamedRotation, 3> kRotations = {
    NamedRotation{"rot-residual", &Rotations::residual},
    NamedRotation{"rot-heads", &Rotations::heads}, NamedRotation{"rot-mlp", &Rotations::mlp}};

// Schemes of bitsandbytes, which form a text of their own without other parts.
struct NamedKind {
  std::string_view name;
  CodeKind kind;
  bool double_quant;
};
constexpr std::array<NamedKind, 5> kKinds = {
    NamedKind{"int8", CodeKind::kInt8, false}, NamedKind{"nf4", CodeKind::kNf4, false},
    NamedKind{"nf4-dq", CodeKind::kNf4, true}, NamedKind{"fp4", CodeKind::kFp4, false},
    NamedKind{"fp4-dq", CodeKind::kFp4, true}};

// Applies llm_int8 or llm_int8-T; false where text is neither.
bool apply_llm_int8(std::string_view text, QuantScheme& scheme) {
  if (!text.starts_with(kLlmInt8)) return false;
  text.remove_prefix(kLlmInt8.size());
  float threshold = kOutlierThreshold;
  if (!text.empty()) {
    if (text.size() < 2 || text.size() > 16 || text.front() != '-') return false;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + 1, end, threshold);
    if (error != std::errc() || stop != end || !std::isfinite(threshold) || threshold <= 0)
      return false;
  }
  scheme.kind = CodeKind::kInt8;
  scheme.outlier_threshold = threshold;
  return true;
}

bool apply_kind(std::string_view text, QuantScheme& scheme) {
  for (const NamedKind& named : kKinds) {
    if (text != named.name) continue;
    scheme.kind = named.kind;
    scheme.double_quant = named.double_quant;
    return true;
  }
  return apply_llm_int8(text, scheme);
}

// Applies one part; false where it is unknown or repeats what an earlier part set.
bool apply_part(std::string_view part, bool& weights_named, QuantScheme& scheme) {
  const auto set = [](bool& flag) { return !std::exchange(flag, true); };
  if (part == "mse") return set(scheme.mse);
  if (part == "nested") return set(scheme.nested);
  if (part == "aasym") return set(scheme.activation_asymmetric);
  if (part == kRot) return !std::exchange(scheme.rotations, kAllRotations).any();
  for (const NamedRotation& named : kRotations)
    if (part == named.name) return set(scheme.rotations.*named.part);
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
  return (part == kMinMax || part == kMinMaxInFiles) && set(weights_named);
}

std::string weights_text(const QuantScheme& scheme) {
  if (scheme.outlier_threshold == kOutlierThreshold) return std::string(kLlmInt8);
  if (scheme.outlier_threshold != 0)
    return fmt::format("{}-{}", kLlmInt8, scheme.outlier_threshold);
  for (const NamedKind& named : kKinds) {
    if (scheme.kind == named.kind && scheme.double_quant == named.double_quant)
      return std::string(named.name);
  }
  if (scheme.group == 0) return std::string(kMinMaxInFiles);
  return fmt::format("g{}{}", scheme.group, scheme.asymmetric ? "-asym" : "");
}

}  // namespace

QuantScheme parse_scheme(std::string_view text, std::string_view where, ErrorKind otherwise) {
  QuantScheme scheme;
  if (apply_kind(text, scheme)) return scheme;
  bool weights_named = false;
  std::string_view rest = text == kTunedName ? kTuned : text;
  for (bool more = true; more;) {
    const std::size_t end = rest.find('+');
    more = end != std::string_view::npos;
    QALOF_CHECK(
        apply_part(rest.substr(0, end), weights_named, scheme), otherwise,
        "{}: found {:.40}, expected tuned or parts joined by +, each once: minmax or g32, "
        "g64, g128, g32-asym, g64-asym, g128-asym; mse; nested; aasym; ag32, ag64 or ag128; rot, "
        "or some "
        "of rot-residual, rot-heads, rot-mlp; or one of int8, llm_int8, llm_int8-T, nf4, nf4-dq, "
        "fp4, fp4-dq",
        where, text);
    if (more) rest.remove_prefix(end + 1);
  }
  QALOF_CHECK(scheme.activation_group == 0 || scheme.activation_group == scheme.group, otherwise,
              "{}: found {:.40}, expected groups of activations (ag) as large as those of weights "
              "(g), e.g. g64+ag64",
              where, text);
  QALOF_CHECK(!scheme.nested || !scheme.mse, otherwise,
              "{}: found {:.40}, expected nested without mse: a range that is best at 4 bits cuts "
              "off weights at 8",
              where, text);
  return scheme;
}

std::string to_string(const Rotations& rotations) {
  if (rotations == kAllRotations) return std::string(kRot);
  std::string text;
  for (const NamedRotation& named : kRotations) {
    if (rotations.*named.part) text += fmt::format("{}{}", text.empty() ? "" : "+", named.name);
  }
  return text;
}

std::string to_string(const QuantScheme& scheme) {
  std::string text = weights_text(scheme);
  if (scheme.activation_asymmetric) text += "+aasym";
  if (scheme.activation_group != 0) text += fmt::format("+ag{}", scheme.activation_group);
  if (scheme.mse) text += "+mse";
  if (scheme.nested) text += "+nested";
  if (scheme.is_rotated()) text += "+" + to_string(scheme.rotations);
  return text;
}

void check_scheme(const QuantScheme& scheme, Precision precision, std::string_view where) {
  if (!precision.weight.is_integer()) return;
  QALOF_CHECK(!scheme.nested || precision.weight.bits == 8 || precision.weight.bits == 4,
              ErrorKind::kUsage, "{}: scheme {} has weights of 8 and of 4 bits, found {}", where,
              to_string(scheme), to_string(precision));
  if (scheme.is_codebook()) {
    QALOF_CHECK(precision.weight.bits == 4 && !precision.activation.is_integer(), ErrorKind::kUsage,
                "{}: scheme {} has weights of 4 bits for activations of 16 or 32, found {}", where,
                to_string(scheme), to_string(precision));
  } else if (scheme.kind == CodeKind::kInt8) {
    QALOF_CHECK(precision.weight.bits == 8, ErrorKind::kUsage,
                "{}: scheme {} has weights of 8 bits, found {}", where, to_string(scheme),
                to_string(precision));
    QALOF_CHECK(scheme.outlier_threshold == 0 || precision.activation.is_integer(),
                ErrorKind::kUsage, "{}: scheme {} needs activations of 2..8 bits, found {}", where,
                to_string(scheme), to_string(precision));
  }
}

}  // namespace qalof::quant
