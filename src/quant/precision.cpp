// Parses and writes the text forms of bit widths, e.g. w4a8kv8.
#include "quant/precision.h"

#include <optional>

#include "core/error.h"

namespace qalof::quant {

namespace {

constexpr std::string_view kForms =
    "expected N, wNaN, wNaNkvN or wNaNkNvN with N in 2..8, 16 or 32, e.g. 8 or w4a8kv8";

// Reads a width at the front of text and removes it; nullopt where there is no legal width.
std::optional<BitWidth> take_width(std::string_view* text) {
  int bits = 0;
  std::size_t digits = 0;
  while (digits < text->size() && digits < 3 && (*text)[digits] >= '0' && (*text)[digits] <= '9') {
    bits = 10 * bits + ((*text)[digits++] - '0');
  }
  if (digits == 0 || (*text)[0] == '0' || !is_legal(BitWidth{bits})) return std::nullopt;
  text->remove_prefix(digits);
  return BitWidth{bits};
}

std::optional<BitWidth> take_named(std::string_view* text, std::string_view name) {
  if (!text->starts_with(name)) return std::nullopt;
  std::string_view rest = text->substr(name.size());
  const std::optional<BitWidth> width = take_width(&rest);
  if (width) *text = rest;
  return width;
}

struct Parsed {
  Precision linear;
  std::optional<BitWidth> k, v;
};

std::optional<Parsed> parse(std::string_view text) {
  std::string_view rest = text;
  if (const std::optional<BitWidth> width = take_width(&rest); width && rest.empty()) {
    return Parsed{{*width, *width}, width, width};
  }
  rest = text;
  Parsed parsed;
  const std::optional<BitWidth> weight = take_named(&rest, "w");
  const std::optional<BitWidth> activation = weight ? take_named(&rest, "a") : std::nullopt;
  if (!activation) return std::nullopt;
  parsed.linear = {*weight, *activation};
  if (const std::optional<BitWidth> kv = take_named(&rest, "kv")) {
    parsed.k = parsed.v = kv;
  } else if (!rest.empty()) {
    parsed.k = take_named(&rest, "k");
    parsed.v = parsed.k ? take_named(&rest, "v") : std::nullopt;
    if (!parsed.v) return std::nullopt;
  }
  if (!rest.empty()) return std::nullopt;
  return parsed;
}

std::string why_illegal(Precision precision) {
  return fmt::format("weights of {0} bits need activations of {0} bits, found {1}",
                     precision.weight.bits, precision.activation.bits);
}

}  // namespace

bool is_legal(BitWidth width) {
  return (width.bits >= 2 && width.bits <= 8) || width.bits == 16 || width.bits == 32;
}

bool is_legal(Precision precision) {
  if (!is_legal(precision.weight) || !is_legal(precision.activation)) return false;
  return precision.weight.is_integer() || precision.weight == precision.activation;
}

UniformPrecision parse_uniform_precision(std::string_view text) {
  QALOF_CHECK(text != "f16", ErrorKind::kUnsupported,
              "precision \"{:.60}\" is not implemented yet, {}", text, kForms);
  QALOF_CHECK(!text.starts_with("random:"), ErrorKind::kUnsupported,
              "precision \"{:.60}\" is drawn per request by eval, generate and bench alone, here "
              "one precision is needed, {}",
              text, kForms);
  const std::optional<Parsed> parsed = parse(text);
  QALOF_CHECK(parsed.has_value(), ErrorKind::kUsage, "precision \"{:.60}\": {}", text, kForms);
  QALOF_CHECK(is_legal(parsed->linear), ErrorKind::kUsage, "precision \"{:.60}\": {}", text,
              why_illegal(parsed->linear));
  constexpr BitWidth kDefaultKv{16};
  return {parsed->linear, parsed->k.value_or(kDefaultKv), parsed->v.value_or(kDefaultKv)};
}

Precision parse_linear_precision(std::string_view text, std::string_view where) {
  const std::optional<Parsed> parsed = parse(text);
  const bool is_number = !text.empty() && text[0] != 'w';
  QALOF_CHECK(parsed && (is_number || !parsed->k), ErrorKind::kBadInput,
              "{}: \"{:.60}\", expected a width N or wNaN with N in 2..8, 16 or 32 (K and V are "
              "set by default and kv)",
              where, text);
  QALOF_CHECK(is_legal(parsed->linear), ErrorKind::kBadInput, "{}: \"{:.60}\": {}", where, text,
              why_illegal(parsed->linear));
  return parsed->linear;
}

std::string to_string(Precision precision) {
  return fmt::format("w{}a{}", precision.weight.bits, precision.activation.bits);
}

std::string to_string(const UniformPrecision& precision) {
  if (precision.k == precision.v)
    return fmt::format("{}kv{}", to_string(precision.linear), precision.k.bits);
  return fmt::format("{}k{}v{}", to_string(precision.linear), precision.k.bits, precision.v.bits);
}

}  // namespace qalof::quant
