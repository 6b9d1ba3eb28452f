// Parses and writes plans: text forms, plan files and the original project's flat maps
// (docs/file_formats.md, "Plan"). resolve() in plan.cpp applies them to a model.
#include <algorithm>
#include <filesystem>
#include <map>
#include <system_error>

#include "core/error.h"
#include "core/format_version.h"
#include "core/name_pattern.h"
#include "quant/plan.h"

namespace qalof::quant {

namespace {

constexpr int kFormatVersion = 1;
constexpr std::size_t kMaxPlanBytes = std::size_t{4} << 20;
// Together these keep resolving within a few seconds for models of many modules.
constexpr std::size_t kMaxRules = 512;
constexpr std::size_t kMaxPatternSteps = std::size_t{1} << 17;  // over all rules

const std::vector<std::string>& plan_keys() {
  static const std::vector<std::string> keys = {"format_version", "scheme",  "default", "head",
                                                "rules",          "modules", "kv"};
  return keys;
}

// A value as text for messages; never throws.
std::string text_of(const Json& value) {
  return value.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

void check_keys(const Json& object, const std::vector<std::string>& known,
                const std::string& where) {
  for (const auto& [key, value] : object.items()) {
    QALOF_CHECK(std::find(known.begin(), known.end(), key) != known.end(), ErrorKind::kBadInput,
                "{}: unknown key {:.60}, nearest known key {}", where, key,
                nearest_name(key, known));
  }
}

// Parses "w4a8", "4" or 4.
Precision linear_from_json(const Json& value, const std::string& where) {
  QALOF_CHECK(value.is_string() || value.is_number_integer(), ErrorKind::kBadInput,
              "{}: found {:.60}, expected a width such as 4 or \"w4a8\"", where, text_of(value));
  return parse_linear_precision(value.is_string() ? value.get<std::string>() : text_of(value),
                                where);
}

// Parses "w8a8kv8", "8" or 8.
UniformPrecision uniform_from_json(const Json& value, const std::string& where) {
  QALOF_CHECK(value.is_string() || value.is_number_integer(), ErrorKind::kBadInput,
              "{}: found {:.60}, expected a precision such as \"w8a8kv8\"", where, text_of(value));
  try {
    return parse_uniform_precision(value.is_string() ? value.get<std::string>() : text_of(value));
  } catch (const Error& error) {
    const bool is_bad_form = error.kind() == ErrorKind::kUsage;
    fail(is_bad_form ? ErrorKind::kBadInput : error.kind(), "{}: {}", where, error.what());
  }
}

BitWidth width_from_json(const Json& value, const std::string& where) {
  const bool in_range = value.is_number_integer() && value >= 2 && value <= 32;
  const BitWidth width{in_range ? value.get<int>() : 0};
  QALOF_CHECK(is_legal(width), ErrorKind::kBadInput, "{}: found {:.40}, expected 2..8, 16 or 32",
              where, text_of(value));
  return width;
}

std::vector<BitWidth> widths_from_json(const Json& value, const std::string& where) {
  if (!value.is_array()) return {width_from_json(value, where)};
  QALOF_CHECK(!value.empty(), ErrorKind::kBadInput,
              "{}: an empty list, expected one width per head", where);
  std::vector<BitWidth> widths;
  for (const Json& item : value) widths.push_back(width_from_json(item, where));
  return widths;
}

std::size_t layer_from_key(const std::string& key, const std::string& where) {
  const bool is_number = !key.empty() && key.size() <= 6 &&
                         key.find_first_not_of("0123456789") == std::string::npos &&
                         (key.size() == 1 || key.front() != '0');
  QALOF_CHECK(is_number, ErrorKind::kBadInput, "{}: expected a layer number as key", where);
  return std::stoul(key);
}

void read_kv(const Json& kv, const std::string& where, PlanSpec* spec) {
  QALOF_CHECK(kv.is_object(), ErrorKind::kBadInput, "{}: kv is {:.60}, expected an object", where,
              text_of(kv));
  for (const auto& [key, entry] : kv.items()) {
    const std::string inner = fmt::format("{}: kv[\"{:.20}\"]", where, key);
    const std::size_t layer = layer_from_key(key, inner);
    QALOF_CHECK(entry.is_object() && !entry.empty(), ErrorKind::kBadInput,
                "{}: found {:.60}, expected an object with k, v or both", inner, text_of(entry));
    check_keys(entry, {"k", "v"}, inner);
    PlanSpec::LayerKv& bits = spec->kv[layer];
    if (entry.contains("k")) bits.k = widths_from_json(entry["k"], inner + ".k");
    if (entry.contains("v")) bits.v = widths_from_json(entry["v"], inner + ".v");
  }
}

void read_rules(const Json& rules, const std::string& where, PlanSpec* spec) {
  QALOF_CHECK(rules.is_array(), ErrorKind::kBadInput, "{}: rules is {:.60}, expected a list", where,
              text_of(rules));
  QALOF_CHECK(rules.size() <= kMaxRules, ErrorKind::kBadInput, "{}: {} rules, expected at most {}",
              where, rules.size(), kMaxRules);
  std::size_t num_steps = 0;
  for (std::size_t i = 0; i < rules.size(); ++i) {
    const std::string inner = fmt::format("{}: rules[{}]", where, i);
    const std::string match = json_string(rules[i], "match", inner);
    check_keys(rules[i], {"match", "set"}, inner);
    QALOF_CHECK(rules[i].contains("set"), ErrorKind::kBadInput, "{}: set is missing", inner);
    const NamePattern check(match, inner);  // reports a bad pattern before a model is loaded
    num_steps += check.size();
    QALOF_CHECK(num_steps <= kMaxPatternSteps, ErrorKind::kUnsupported,
                "{}: the patterns up to here have {} steps, at most {} are matched", inner,
                num_steps, kMaxPatternSteps);
    spec->rules.push_back({match, linear_from_json(rules[i]["set"], inner + ".set")});
  }
}

void add_module(const std::string& name, Precision precision, const std::string& where,
                PlanSpec* spec) {
  const bool is_new = spec->modules.emplace(without_model_prefix(name), precision).second;
  QALOF_CHECK(is_new, ErrorKind::kBadInput, "{}: appears twice, with and without prefix", where);
}

void read_modules(const Json& modules, const std::string& where, PlanSpec* spec) {
  QALOF_CHECK(modules.is_object(), ErrorKind::kBadInput,
              "{}: modules is {:.60}, expected an object", where, text_of(modules));
  for (const auto& [name, value] : modules.items()) {
    const std::string inner = fmt::format("{}: modules[\"{:.80}\"]", where, name);
    add_module(name, linear_from_json(value, inner), inner, spec);
  }
}

PlanSpec read_plan(const Json& json, const std::string& where) {
  PlanSpec spec;
  spec.source = where;
  spec.is_file = true;
  read_format_version(json, where, kFormatVersion);
  check_keys(json, plan_keys(), where);
  if (json.contains("scheme")) {
    const std::string name = json_string(json, "scheme", where);
    spec.scheme = parse_scheme(name, where + ": scheme", ErrorKind::kBadInput);
  }
  QALOF_CHECK(json.contains("default"), ErrorKind::kBadInput,
              "{}: default is missing, e.g. \"default\": \"w8a8kv8\"", where);
  spec.default_precision = uniform_from_json(json["default"], where + ": default");
  if (json.contains("head")) spec.head = width_from_json(json["head"], where + ": head").bits;
  if (json.contains("rules")) read_rules(json["rules"], where, &spec);
  if (json.contains("modules")) read_modules(json["modules"], where, &spec);
  if (json.contains("kv")) read_kv(json["kv"], where, &spec);
  return spec;
}

// The original project's {"transformer.h.0.attn.c_attn": 8, ...}: names every module, without K and
// V.
PlanSpec read_flat_plan(const Json& json, const std::string& where) {
  PlanSpec spec;
  spec.source = where;
  spec.is_file = true;
  spec.covers_every_module = true;
  std::map<int, std::size_t> modules_of_width;
  for (const auto& [name, value] : json.items()) {
    const std::string inner = fmt::format("{}: \"{:.80}\"", where, name);
    const BitWidth width = width_from_json(value, inner);
    add_module(name, {width, width}, inner, &spec);
    ++modules_of_width[width.bits];
  }
  const BitWidth most = most_frequent_width(modules_of_width);
  spec.default_precision = {{most, most}, BitWidth{16}, BitWidth{16}};
  return spec;
}

// A flat map has none of a plan file's keys, and at least one module name, which contains a dot.
bool is_flat_plan(const Json& json) {
  bool names_modules = false;
  for (const auto& [key, value] : json.items()) {
    const std::vector<std::string>& known = plan_keys();
    if (std::find(known.begin(), known.end(), key) != known.end()) return false;
    names_modules = names_modules || key.find('.') != std::string::npos;
  }
  return names_modules;
}

Json to_json(const std::vector<BitWidth>& widths) {
  if (widths.size() == 1) return widths.front().bits;
  Json list = Json::array();
  for (const BitWidth width : widths) list.push_back(width.bits);
  return list;
}

}  // namespace

PlanSpec parse_plan(const std::string& text_or_path) {
  std::error_code ignored;
  const bool exists = std::filesystem::exists(text_or_path, ignored);
  PlanSpec spec;
  spec.source = text_or_path;
  try {
    spec.default_precision = parse_uniform_precision(text_or_path);
    return spec;
  } catch (const Error& error) {
    // An existing file may have any name. Otherwise the error treats the text as what it looks
    // like.
    if (!exists) {
      const bool is_path =
          text_or_path.find('/') != std::string::npos || text_or_path.ends_with(".json");
      if (is_path) fail(ErrorKind::kNotFound, "{:.300}: no such plan file", text_or_path);
      fail(error.kind(), "{}, or the path of a plan file (there is none of this name)",
           error.what());
    }
  }
  return plan_from_json(read_json_file(text_or_path, kMaxPlanBytes), text_or_path);
}

PlanSpec plan_from_json(const Json& json, const std::string& where) {
  QALOF_CHECK(json.is_object() && !json.empty(), ErrorKind::kBadInput,
              "{}: found {}, expected an object with format_version", where,
              json.is_object() ? "an empty object" : json.type_name());
  return is_flat_plan(json) ? read_flat_plan(json, where) : read_plan(json, where);
}

Json to_json(const PlanSpec& spec) {
  Json json = {{"format_version", kFormatVersion}, {"default", to_string(spec.default_precision)}};
  if (spec.scheme) json["scheme"] = to_string(*spec.scheme);
  if (spec.head) json["head"] = *spec.head;
  for (const PlanSpec::Rule& rule : spec.rules) {
    json["rules"].push_back({{"match", rule.match}, {"set", to_string(rule.set)}});
  }
  for (const auto& [name, precision] : spec.modules) json["modules"][name] = to_string(precision);
  for (const auto& [layer, bits] : spec.kv) {
    Json& entry = json["kv"][std::to_string(layer)];
    if (!bits.k.empty()) entry["k"] = to_json(bits.k);
    if (!bits.v.empty()) entry["v"] = to_json(bits.v);
  }
  return json;
}

}  // namespace qalof::quant
