// Parses adapter_config.json: settings that peft's loading depends on are applied or refused
// (docs/file_formats.md, "PEFT directory").
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "core/ascii.h"
#include "core/error.h"
#include "core/json_stream.h"
#include "io/peft.h"
#include "io/peft_modules.h"

namespace qalof::io {

namespace {

constexpr std::int64_t kMaxAdapterRank = 65536;
constexpr std::int64_t kMaxLayer = 1'000'000;
constexpr std::size_t kMaxPatternKeys = 4096;

// A value as text for messages.
std::string text_of(const Json& value) {
  return value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace).substr(0, 60);
}

// True for the values that switch a setting off.
bool is_inert(const Json& value) {
  return value.is_null() || value == false || value == 0 || value == 0.0 ||
         (value.is_structured() && value.empty()) ||
         (value.is_string() && value.get_ref<const std::string&>().empty());
}
bool is_set(const Json& json, const char* key) {
  return json.contains(key) && !is_inert(json[key]);
}

std::vector<std::string> string_list(const Json& value, const std::string& where) {
  QALOF_CHECK(value.is_array(), ErrorKind::kBadInput, "{} is {}, expected a list of names", where,
              value.type_name());
  std::vector<std::string> names;
  for (const Json& item : value) {
    QALOF_CHECK(item.is_string() && !item.get_ref<const std::string&>().empty(),
                ErrorKind::kBadInput, "{} holds {}, expected names", where, text_of(item));
    names.push_back(item.get<std::string>());
  }
  return names;
}

// Settings that this reader applies.
const std::set<std::string>& read_keys() {
  static const std::set<std::string> keys = {"peft_type",
                                             "r",
                                             "lora_alpha",
                                             "use_rslora",
                                             "fan_in_fan_out",
                                             "task_type",
                                             "target_modules",
                                             "exclude_modules",
                                             "modules_to_save",
                                             "layers_to_transform",
                                             "layers_pattern",
                                             "rank_pattern",
                                             "alpha_pattern",
                                             "init_lora_weights",
                                             "bias",
                                             "base_model_name_or_path",
                                             "revision"};
  return keys;
}
// Settings without effect on loading: how training was done, sizes used by settings checked
// elsewhere, and settings whose only effect is on tensors of the file, which are checked one by
// one.
const std::set<std::string>& neutral_keys() {
  static const std::set<std::string> keys = {
      "inference_mode",    "lora_dropout",   "auto_mapping",       "peft_version", "megatron_core",
      "qalora_group_size", "use_qalora",     "runtime_config",     "eva_config",   "corda_config",
      "loftq_config",      "lora_ga_config", "ensure_weight_tying"};
  return keys;
}
// Settings of peft that change results unless they are off.
const std::set<std::string>& known_off_keys() {
  static const std::set<std::string> keys = {
      "use_dora",          "lora_bias",         "layer_replication",
      "megatron_config",   "target_parameters", "trainable_token_indices",
      "use_bdlora",        "arrow_config",      "alora_invocation_tokens",
      "monteclora_config", "kasa_config",       "velora_config"};
  return keys;
}
// True for the settings in known_off_keys that even an empty object switches on.
bool is_on_where_empty(const std::string& key) {
  return key.ends_with("_config") || key == "use_bdlora";
}

// Every setting that is not applied must be off or without effect on loading.
void check_other_settings(const Json& json, const std::string& where,
                          std::vector<std::string>* warnings) {
  const std::string type = json_string(json, "peft_type", where);
  QALOF_CHECK(type == "LORA", ErrorKind::kUnsupported,
              "{}: peft_type is {:.40}, implemented is LORA", where, type);
  for (const auto& [key, value] : json.items()) {
    if (read_keys().contains(key) || neutral_keys().contains(key)) continue;
    const bool is_known = known_off_keys().contains(key);
    const bool is_on = is_known && value.is_object() && is_on_where_empty(key);
    QALOF_CHECK(is_inert(value) && !is_on, ErrorKind::kUnsupported,
                "{}: {:.60} is {}, a setting that is not implemented", where, key, text_of(value));
    if (!is_known)
      warnings->push_back(fmt::format("{}: {:.60} is not known here and does nothing", where, key));
  }
  // Trained biases are tensors of the file; a model without biases has none.
  if (json.contains("bias") && json["bias"] != "none" && json["bias"] != "all" &&
      json["bias"] != "lora_only") {
    fail(ErrorKind::kUnsupported, "{}: bias is {}, expected \"none\", \"all\" or \"lora_only\"",
         where, text_of(json["bias"]));
  }
}

// The initialization matters where peft repeats it on loading: it changes the base model, or fills
// modules that have no tensors.
void parse_initialization(const Json& json, const std::string& where, PeftConfig* config,
                          std::vector<std::string>* warnings) {
  if (!json.contains("init_lora_weights") || json["init_lora_weights"] == true) return;
  const Json& value = json["init_lora_weights"];
  const std::string name = value.is_string() ? value.get<std::string>() : "";
  if (value.is_null() || value == false || name == "orthogonal") {
    config->starts_at_random = true;
    return;
  }
  if (lower_ascii(name) == "gaussian" || lower_ascii(name) == "mica" || name == "eva") return;
  if (name == "lora_ga") {
    warnings->push_back(
        fmt::format("{}: init_lora_weights is \"lora_ga\": like peft, the base is taken as it is, "
                    "not as training changed it",
                    where));
    return;
  }
  const bool changes_base = name.starts_with("pissa") || name.starts_with("corda") ||
                            lower_ascii(name) == "olora" || name == "loftq";
  QALOF_CHECK(!changes_base, ErrorKind::kUnsupported,
              "{}: init_lora_weights is {}, with which peft changes the base's weights when it "
              "loads the adapter; let peft turn it into a plain LoRA: save_pretrained(..., "
              "path_initial_model_for_weight_conversion=...)",
              where, text_of(value));
  fail(ErrorKind::kUnsupported,
       "{}: init_lora_weights is {}, expected true, false, \"gaussian\", \"orthogonal\", \"eva\", "
       "\"mica\" or \"lora_ga\"",
       where, text_of(value));
}

// target_modules and its relatives: a list of names, a pattern, or "all-linear".
void parse_targets(const Json& json, const std::string& where, PeftConfig* config) {
  QALOF_CHECK(is_set(json, "target_modules"), ErrorKind::kBadInput,
              "{}: target_modules is missing or empty", where);
  const Json& targets = json["target_modules"];
  if (!targets.is_string()) {
    config->target_modules = string_list(targets, where + ": target_modules");
  } else if (lower_ascii(targets.get<std::string>()) == "all-linear") {
    config->all_linear = true;
  } else {
    config->target_pattern = targets.get<std::string>();
  }
  if (is_set(json, "exclude_modules")) {
    const Json& excluded = json["exclude_modules"];
    if (excluded.is_string()) {
      config->exclude_pattern = excluded.get<std::string>();
    } else {
      config->exclude_modules = string_list(excluded, where + ": exclude_modules");
    }
  }
}

// layers_to_transform is a number or a list of numbers, layers_pattern a string or a list of
// strings.
void parse_layers(const Json& json, const std::string& where, PeftConfig* config) {
  // The number 0 is a layer, not an absent setting.
  const bool has_layers =
      json.contains("layers_to_transform") &&
      (json["layers_to_transform"].is_number() || is_set(json, "layers_to_transform"));
  if (has_layers) {
    const Json& value = json["layers_to_transform"];
    for (const Json& layer : value.is_array() ? value : Json::array({value})) {
      QALOF_CHECK(layer.is_number_integer() && layer >= -kMaxLayer && layer <= kMaxLayer,
                  ErrorKind::kBadInput,
                  "{}: layers_to_transform holds {}, expected numbers of layers", where,
                  text_of(layer));
      config->layers_to_transform.push_back(layer.get<std::int64_t>());
    }
  }
  const bool has_pattern = is_set(json, "layers_pattern");
  if (has_pattern) {
    const Json& value = json["layers_pattern"];
    config->layers_pattern = value.is_string() ? std::vector<std::string>{value.get<std::string>()}
                                               : string_list(value, where + ": layers_pattern");
  }
  QALOF_CHECK(
      !(has_layers || has_pattern) || json["target_modules"].is_array(), ErrorKind::kBadInput,
      "{}: {} goes with a list of target_modules alone, as in peft, found {}", where,
      has_layers ? "layers_to_transform" : "layers_pattern", text_of(json["target_modules"]));
  QALOF_CHECK(has_layers || !has_pattern, ErrorKind::kBadInput,
              "{}: layers_pattern is there without layers_to_transform", where);
}

// The keys of a member that is an object, in the order of the text.
std::vector<std::string> keys_in_order(std::string_view text, const std::string& where,
                                       const char* member) {
  std::vector<std::string> keys;
  int depth = 0;
  bool inside = false;
  auto take = [&](JsonEvent event, std::string_view name, std::int64_t) {
    const bool opens = event == JsonEvent::kStartObject || event == JsonEvent::kStartArray;
    const bool closes = event == JsonEvent::kEndObject || event == JsonEvent::kEndArray;
    depth += opens ? 1 : closes ? -1 : 0;
    if (event != JsonEvent::kKey) return;
    if (depth == 1) inside = name == member;
    if (depth == 2 && inside) keys.emplace_back(name);
  };
  // The whole document is streamed as one part, so that no second tree is built.
  const JsonPart document = {{}, take};
  parse_json_parts(text, where, {&document, 1});
  return keys;
}

// Reads an object such as {"c_attn": 4}. read takes the object, a key and the place for messages.
template <typename T, typename Read>
void parse_values(const Json& json, std::string_view text, const char* member,
                  const std::string& where, const Read& read, PatternValues<T>* values) {
  if (!json.contains(member) || json[member].is_null()) return;
  const std::string inner = fmt::format("{}: {}", where, member);
  const Json& object = json[member];
  QALOF_CHECK(object.is_object(), ErrorKind::kBadInput, "{} is not an object", inner);
  QALOF_CHECK(object.size() <= kMaxPatternKeys, ErrorKind::kUnsupported,
              "{} has {} keys, at most {} are read", inner, object.size(), kMaxPatternKeys);
  for (const std::string& key : keys_in_order(text, where, member))
    values->emplace_back(key, read(object, key, inner));
}

}  // namespace

PeftConfig parse_peft_config(std::string_view text, const std::string& where,
                             std::vector<std::string>* warnings) {
  PeftConfig config;
  const Json& json = config.raw = parse_json(text, where);
  QALOF_CHECK(json.is_object(), ErrorKind::kBadInput, "{}: found {}, expected an object", where,
              json.type_name());
  check_other_settings(json, where, warnings);
  parse_initialization(json, where, &config, warnings);
  config.r = static_cast<std::size_t>(json_int(json, "r", where, 1, kMaxAdapterRank));
  config.lora_alpha = json_number(json, "lora_alpha", where);
  QALOF_CHECK(std::abs(config.lora_alpha) <= std::numeric_limits<float>::max(),
              ErrorKind::kBadInput, "{}: lora_alpha is {}, too large for a float", where,
              config.lora_alpha);
  auto optional_bool = [&](const char* key, bool* value) {
    if (json.contains(key) && !json[key].is_null()) *value = json_bool(json, key, where);
  };
  optional_bool("use_rslora", &config.use_rslora);
  optional_bool("fan_in_fan_out", &config.fan_in_fan_out);
  auto optional_string = [&](const char* key, std::string* value) {
    if (json.contains(key) && !json[key].is_null()) *value = json_string(json, key, where);
  };
  optional_string("task_type", &config.task_type);
  optional_string("base_model_name_or_path", &config.base_model_name_or_path);
  optional_string("revision", &config.revision);
  parse_targets(json, where, &config);
  parse_layers(json, where, &config);
  if (json.contains("modules_to_save") && !json["modules_to_save"].is_null()) {
    config.modules_to_save = string_list(json["modules_to_save"], where + ": modules_to_save");
  }
  const auto read_rank = [](const Json& object, const std::string& key, const std::string& inner) {
    return static_cast<std::size_t>(json_int(object, key, inner, 1, kMaxAdapterRank));
  };
  parse_values(json, text, "rank_pattern", where, read_rank, &config.rank_pattern);
  parse_values(json, text, "alpha_pattern", where, json_number, &config.alpha_pattern);
  check_peft_patterns(&config, where, warnings);
  return config;
}

}  // namespace qalof::io
