#include "quant/plan.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "quant/name_pattern.h"

namespace qalof::quant {

namespace {

constexpr int kFormatVersion = 1;
constexpr std::size_t kMaxPlanBytes = std::size_t{4} << 20;
constexpr std::size_t kMaxRules = 10'000;

std::string without_prefix(const std::string& name) {
  for (const std::string_view prefix : {"transformer.", "model."}) {
    if (name.starts_with(prefix)) return name.substr(prefix.size());
  }
  return name;
}

// "w4a8", "4" or 4.
Precision linear_from_json(const Json& value, const std::string& where) {
  if (value.is_number_integer()) return parse_linear_precision(value.dump(), where);
  QALOF_CHECK(value.is_string(), ErrorKind::kBadInput, "{}: found {:.60}, expected a width such as 4 or \"w4a8\"", where, value.dump());
  return parse_linear_precision(value.get<std::string>(), where);
}

BitWidth width_from_json(const Json& value, const std::string& where) {
  const BitWidth width{value.is_number_integer() && value >= 2 && value <= 32 ? value.get<int>() : 0};
  QALOF_CHECK(is_legal(width), ErrorKind::kBadInput, "{}: found {:.40}, expected 2..8, 16 or 32", where, value.dump());
  return width;
}

std::vector<BitWidth> widths_from_json(const Json& value, const std::string& where) {
  if (!value.is_array()) return {width_from_json(value, where)};
  QALOF_CHECK(!value.empty(), ErrorKind::kBadInput, "{}: an empty list, expected one width per head", where);
  std::vector<BitWidth> widths;
  for (const Json& item : value) widths.push_back(width_from_json(item, where));
  return widths;
}

void read_kv(const Json& kv, const std::string& where, PlanSpec* spec) {
  QALOF_CHECK(kv.is_object(), ErrorKind::kBadInput, "{}: kv is not an object", where);
  for (const auto& [layer, entry] : kv.items()) {
    const std::string inner = fmt::format("{}: kv[\"{:.20}\"]", where, layer);
    QALOF_CHECK(!layer.empty() && layer.size() <= 6 && std::all_of(layer.begin(), layer.end(), ::isdigit) &&
                    (layer == "0" || layer[0] != '0'),
                ErrorKind::kBadInput, "{}: expected a layer number as key", inner);
    QALOF_CHECK(entry.is_object() && !entry.empty(), ErrorKind::kBadInput, "{}: expected an object with k, v or both", inner);
    PlanSpec::LayerKv& bits = spec->kv[std::stoul(layer)];
    for (const auto& [key, value] : entry.items()) {
      QALOF_CHECK(key == "k" || key == "v", ErrorKind::kBadInput, "{}: unknown key {:.40}, expected k or v", inner, key);
      (key == "k" ? bits.k : bits.v) = widths_from_json(value, inner + "." + key);
    }
  }
}

PlanSpec read_plan(const Json& json, const std::string& where) {
  static const std::vector<std::string> known = {"format_version", "scheme", "default", "head", "rules", "modules", "kv"};
  PlanSpec spec;
  spec.source = where;
  spec.is_file = true;
  const std::int64_t version = json_int(json, "format_version", where, 0, 1'000'000);
  QALOF_CHECK(version == kFormatVersion, ErrorKind::kUnsupported,
              "{}: format_version {}, this program reads {}; a newer qalof wrote it", where, version, kFormatVersion);
  for (const auto& [key, value] : json.items()) {
    QALOF_CHECK(std::find(known.begin(), known.end(), key) != known.end(), ErrorKind::kBadInput,
                "{}: unknown key {:.60}, nearest known key {}", where, key, nearest_name(key, known));
  }
  if (json.contains("scheme")) {
    spec.scheme = json_string(json, "scheme", where);
    QALOF_CHECK(*spec.scheme == "seed", ErrorKind::kUnsupported, "{}: scheme {:.40}, implemented is seed", where, *spec.scheme);
  }
  QALOF_CHECK(json.contains("default"), ErrorKind::kBadInput, "{}: default is missing, e.g. \"default\": \"w8a8kv8\"", where);
  const Json& fallback = json["default"];
  QALOF_CHECK(fallback.is_string() || fallback.is_number_integer(), ErrorKind::kBadInput,
              "{}: default is {:.60}, expected a precision such as \"w8a8kv8\"", where, fallback.dump());
  try {
    spec.default_precision = parse_uniform_precision(fallback.is_string() ? fallback.get<std::string>() : fallback.dump());
  } catch (const Error& error) {
    fail(error.kind() == ErrorKind::kUsage ? ErrorKind::kBadInput : error.kind(), "{}: default: {}", where, error.what());
  }
  if (json.contains("head")) spec.head = width_from_json(json["head"], where + ": head").bits;
  if (json.contains("rules")) {
    const Json& rules = json["rules"];
    QALOF_CHECK(rules.is_array() && rules.size() <= kMaxRules, ErrorKind::kBadInput, "{}: rules is not a list of at most {} rules",
                where, kMaxRules);
    for (std::size_t i = 0; i < rules.size(); ++i) {
      const std::string inner = fmt::format("{}: rules[{}]", where, i);
      const std::string match = json_string(rules[i], "match", inner);
      QALOF_CHECK(rules[i].contains("set") && rules[i].size() == 2, ErrorKind::kBadInput, "{}: expected exactly match and set", inner);
      spec.rules.push_back({match, linear_from_json(rules[i]["set"], inner + ".set")});
      const NamePattern check(match, inner);
    }
  }
  if (json.contains("modules")) {
    QALOF_CHECK(json["modules"].is_object(), ErrorKind::kBadInput, "{}: modules is not an object", where);
    for (const auto& [name, value] : json["modules"].items()) {
      const std::string inner = fmt::format("{}: modules[\"{:.80}\"]", where, name);
      QALOF_CHECK(spec.modules.emplace(without_prefix(name), linear_from_json(value, inner)).second, ErrorKind::kBadInput,
                  "{}: stands twice, with and without prefix", inner);
    }
  }
  if (json.contains("kv")) read_kv(json["kv"], where, &spec);
  return spec;
}

// The original's flat {"transformer.h.0.attn.c_attn": 8, ...}: every module named, K and V not quantized.
PlanSpec read_flat_plan(const Json& json, const std::string& where) {
  PlanSpec spec;
  spec.source = where;
  spec.is_file = true;
  std::map<int, std::size_t> uses;
  for (const auto& [name, value] : json.items()) {
    const std::string inner = fmt::format("{}: \"{:.80}\"", where, name);
    const BitWidth width = width_from_json(value, inner);
    QALOF_CHECK(spec.modules.emplace(without_prefix(name), Precision{width, width}).second, ErrorKind::kBadInput,
                "{}: stands twice, with and without prefix", inner);
    ++uses[width.bits];
  }
  // Higher widths win ties, as they come last.
  int most = 0;
  std::size_t count = 0;
  for (const auto& [bits, modules] : uses) {
    if (modules >= count) {
      most = bits;
      count = modules;
    }
  }
  spec.default_precision = {{{most}, {most}}, {16}, {16}};
  spec.covers_every_module = true;
  return spec;
}

Json to_json(const std::vector<BitWidth>& widths) {
  if (widths.size() == 1) return widths.front().bits;
  Json list = Json::array();
  for (const BitWidth width : widths) list.push_back(width.bits);
  return list;
}

std::vector<BitWidth> per_head(const std::vector<BitWidth>& widths, std::size_t heads, const std::string& where) {
  QALOF_CHECK(widths.size() == 1 || widths.size() == heads, ErrorKind::kBadInput, "{}: {} widths, the model has {} key/value heads", where,
              widths.size(), heads);
  return widths.size() == heads ? widths : std::vector<BitWidth>(heads, widths.front());
}

std::size_t total_weights(const PlanTarget& target) {
  std::size_t total = 0;
  for (const std::size_t weights : target.linear_weights) total += weights;
  return total;
}

template <typename Bits>
double mean_bits(const PrecisionPlan& plan, const PlanTarget& target, Bits bits) {
  double sum = 0;
  for (std::size_t i = 0; i < plan.linears.size(); ++i) {
    sum += static_cast<double>(bits(plan.linears[i])) * static_cast<double>(target.linear_weights[i]);
  }
  return sum / static_cast<double>(total_weights(target));
}

// "kv8", "k8v4" or "kv mixed".
std::string describe_kv(const PrecisionPlan& plan) {
  const BitWidth k = plan.k.front().front(), v = plan.v.front().front();
  auto all = [](const std::vector<std::vector<BitWidth>>& layers, BitWidth width) {
    return std::all_of(layers.begin(), layers.end(), [&](const std::vector<BitWidth>& heads) {
      return std::all_of(heads.begin(), heads.end(), [&](BitWidth head) { return head == width; });
    });
  };
  if (!all(plan.k, k) || !all(plan.v, v)) return "kv mixed";
  return k == v ? fmt::format("kv{}", k.bits) : fmt::format("k{}v{}", k.bits, v.bits);
}

}  // namespace

PlanSpec parse_plan(const std::string& text_or_path) {
  if (std::filesystem::is_regular_file(text_or_path)) {
    return plan_from_json(read_json_file(text_or_path, kMaxPlanBytes), text_or_path);
  }
  PlanSpec spec;
  spec.source = text_or_path;
  const bool looks_like_path = text_or_path.find('/') != std::string::npos || text_or_path.ends_with(".json");
  QALOF_CHECK(!looks_like_path, ErrorKind::kNotFound, "{}: no such plan file", text_or_path);
  spec.default_precision = parse_uniform_precision(text_or_path);
  return spec;
}

PlanSpec plan_from_json(const Json& json, const std::string& where) {
  QALOF_CHECK(json.is_object() && !json.empty(), ErrorKind::kBadInput, "{}: found {}, expected an object with format_version", where,
              json.is_object() ? "an empty object" : json.type_name());
  const bool flat = !json.contains("format_version") && !json.contains("default") &&
                    std::all_of(json.begin(), json.end(), [](const Json& value) { return value.is_number(); });
  return flat ? read_flat_plan(json, where) : read_plan(json, where);
}

Json to_json(const PlanSpec& spec) {
  Json json = {{"format_version", kFormatVersion}, {"scheme", spec.scheme.value_or("seed")},
               {"default", to_string(spec.default_precision)}};
  if (spec.head) json["head"] = *spec.head;
  for (const PlanSpec::Rule& rule : spec.rules) json["rules"].push_back({{"match", rule.match}, {"set", to_string(rule.set)}});
  for (const auto& [name, precision] : spec.modules) json["modules"][name] = to_string(precision);
  for (const auto& [layer, bits] : spec.kv) {
    Json& entry = json["kv"][std::to_string(layer)];
    if (!bits.k.empty()) entry["k"] = to_json(bits.k);
    if (!bits.v.empty()) entry["v"] = to_json(bits.v);
  }
  return json;
}

PrecisionPlan resolve(const PlanSpec& spec, const PlanTarget& target) {
  PrecisionPlan plan;
  plan.default_width = spec.default_precision.linear.weight;
  plan.head = spec.head;
  plan.linears.assign(target.linear_names.size(), spec.default_precision.linear);
  for (const PlanSpec::Rule& rule : spec.rules) {
    const NamePattern pattern(rule.match, spec.source);
    bool matched = false;
    for (std::size_t i = 0; i < target.linear_names.size(); ++i) {
      if (!pattern.matches(target.linear_names[i])) continue;
      plan.linears[i] = rule.set;
      matched = true;
    }
    QALOF_CHECK(matched, ErrorKind::kBadInput, "{}: rule \"{:.80}\" matches no module, nearest module {}", spec.source, rule.match,
                nearest_name(rule.match, target.linear_names));
  }
  std::set<std::string> uncovered(target.linear_names.begin(), target.linear_names.end());
  for (const auto& [name, precision] : spec.modules) {
    const auto it = std::find(target.linear_names.begin(), target.linear_names.end(), name);
    QALOF_CHECK(it != target.linear_names.end(), ErrorKind::kBadInput, "{}: module {:.80} is not in this model, nearest module {}",
                spec.source, name, nearest_name(name, target.linear_names));
    plan.linears[static_cast<std::size_t>(it - target.linear_names.begin())] = precision;
    uncovered.erase(name);
  }
  QALOF_CHECK(!spec.covers_every_module || uncovered.empty(), ErrorKind::kBadInput,
              "{}: module {} has no width ({} of {} modules are named); a flat plan names every one", spec.source,
              uncovered.empty() ? "" : *uncovered.begin(), target.linear_names.size() - uncovered.size(), target.linear_names.size());
  plan.k.assign(target.num_layers, std::vector<BitWidth>(target.num_kv_heads, spec.default_precision.k));
  plan.v.assign(target.num_layers, std::vector<BitWidth>(target.num_kv_heads, spec.default_precision.v));
  for (const auto& [layer, bits] : spec.kv) {
    const std::string where = fmt::format("{}: kv[\"{}\"]", spec.source, layer);
    QALOF_CHECK(layer < target.num_layers, ErrorKind::kBadInput, "{}: the model has layers 0..{}", where, target.num_layers - 1);
    if (!bits.k.empty()) plan.k[layer] = per_head(bits.k, target.num_kv_heads, where + ".k");
    if (!bits.v.empty()) plan.v[layer] = per_head(bits.v, target.num_kv_heads, where + ".v");
  }
  return plan;
}

BitWidth PrecisionPlan::head_width(const PlanTarget& target) const {
  if (head) return {*head};
  std::map<int, std::size_t> carried;
  for (std::size_t i = 0; i < linears.size(); ++i) carried[linears[i].weight.bits] += target.linear_weights[i];
  if (carried.empty() || carried.contains(default_width.bits)) return default_width;
  const auto most = std::max_element(carried.begin(), carried.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return {most->first};
}

double PrecisionPlan::mean_weight_bits(const PlanTarget& target) const {
  return mean_bits(*this, target, [](Precision precision) { return precision.weight.bits; });
}

double PrecisionPlan::mean_activation_bits(const PlanTarget& target) const {
  return mean_bits(*this, target, [](Precision precision) { return precision.activation.bits; });
}

std::string describe(const PrecisionPlan& plan, const PlanTarget& target) {
  std::map<std::string, std::size_t> counts;
  for (const Precision precision : plan.linears) ++counts[to_string(precision)];
  const std::string kv = describe_kv(plan);
  if (counts.size() == 1) return kv.starts_with("kv ") ? counts.begin()->first + " " + kv : counts.begin()->first + kv;
  std::vector<std::string> parts;
  for (const auto& [text, count] : counts) parts.push_back(fmt::format("{} x{}", text, count));
  return fmt::format("mixed ({}; {}), {:.2f} weight bits", fmt::join(parts, ", "), kv, plan.mean_weight_bits(target));
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& known) {
  // Names from outside may be long; the first bytes decide.
  const std::string_view text = name.substr(0, 128);
  std::string best;
  std::size_t best_distance = SIZE_MAX;
  for (const std::string& candidate : known) {
    std::vector<std::size_t> row(candidate.size() + 1);
    for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= text.size(); ++i) {
      std::size_t diagonal = std::exchange(row[0], i);
      for (std::size_t j = 1; j < row.size(); ++j) {
        const std::size_t substituted = diagonal + (text[i - 1] == candidate[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

}  // namespace qalof::quant
