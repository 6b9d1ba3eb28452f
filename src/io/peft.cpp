#include "io/peft.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <regex>
#include <set>

#include "core/error.h"

namespace qalof::io {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxPatternBytes = 256;
constexpr int kMaxRepetitions = 4;
constexpr std::int64_t kMaxRank = 65536;
constexpr std::string_view kKeyPrefix = "base_model.model.";

bool matches_suffix(const std::string& module, const std::string& key) {
  if (!module.ends_with(key)) return false;
  return module.size() == key.size() || module[module.size() - key.size() - 1] == '.';
}

// The value a setting has when it does nothing.
bool is_inert(const Json& value) {
  return value.is_null() || value == false || value == 0 || value == 0.0 ||
         (value.is_structured() && value.empty()) ||
         (value.is_string() && value.get_ref<const std::string&>().empty());
}

std::vector<std::string> string_list(const Json& value, const std::string& where) {
  QALOF_CHECK(value.is_array(), ErrorKind::kBadInput, "{} is {}, expected a list of names", where,
              value.type_name());
  std::vector<std::string> names;
  for (const Json& item : value) {
    QALOF_CHECK(item.is_string() && !item.get_ref<const std::string&>().empty(),
                ErrorKind::kBadInput, "{} holds {}, expected names", where,
                item.dump().substr(0, 60));
    names.push_back(item.get<std::string>());
  }
  return names;
}

// Settings this reader acts on, and those of peft that say nothing about the result.
const std::set<std::string>& read_keys() {
  static const std::set<std::string> keys = {"peft_type",
                                             "r",
                                             "lora_alpha",
                                             "use_rslora",
                                             "fan_in_fan_out",
                                             "task_type",
                                             "target_modules",
                                             "modules_to_save",
                                             "rank_pattern",
                                             "alpha_pattern",
                                             "base_model_name_or_path",
                                             "revision",
                                             "bias",
                                             "use_dora",
                                             "lora_bias"};
  return keys;
}
// How training began or went, and sizes of what other settings switch on.
const std::set<std::string>& neutral_keys() {
  static const std::set<std::string> keys = {
      "inference_mode", "lora_dropout",  "init_lora_weights", "auto_mapping",
      "peft_version",   "megatron_core", "qalora_group_size", "runtime_config",
      "eva_config",     "corda_config",  "loftq_config",      "lora_ga_config"};
  return keys;
}
// Settings that peft writes and that change results unless they are off.
const std::set<std::string>& known_off_keys() {
  static const std::set<std::string> keys = {
      "exclude_modules",     "layers_to_transform", "layers_pattern",
      "layer_replication",   "megatron_config",     "trainable_token_indices",
      "target_parameters",   "use_qalora",          "alora_invocation_tokens",
      "ensure_weight_tying", "arrow_config",        "velora_config",
      "monteclora_config",   "kasa_config",         "use_bdlora"};
  return keys;
}

// What is said about the modules to adapt: a list of names, a pattern, or every linear.
void parse_targets(const Json& targets, const std::string& where, PeftConfig* config) {
  if (targets == "all-linear") {
    config->all_linear = true;
    return;
  }
  if (!targets.is_string()) {
    config->target_modules = string_list(targets, where);
    return;
  }
  const auto pattern = targets.get<std::string>();
  QALOF_CHECK(pattern.size() <= kMaxPatternBytes, ErrorKind::kBadInput,
              "{} is a pattern of {} bytes, at most {} are read", where, pattern.size(),
              kMaxPatternBytes);
  // The matcher backtracks: repeated groups and many repetitions could keep it busy without end.
  static const std::regex repeated_group(R"(\)[*+{])");
  const auto repetitions = std::count_if(pattern.begin(), pattern.end(),
                                         [](char c) { return c == '*' || c == '+' || c == '{'; });
  QALOF_CHECK(repetitions <= kMaxRepetitions && !std::regex_search(pattern, repeated_group),
              ErrorKind::kUnsupported,
              "{} \"{:.80}\" repeats a group or more than {} parts, which is not implemented",
              where, pattern, kMaxRepetitions);
  try {
    const std::regex check(pattern);
  } catch (const std::regex_error&) {
    fail(ErrorKind::kBadInput, "{} \"{:.80}\" is not a regular expression", where, pattern);
  }
  config->target_pattern = pattern;
}

// The value of the key that a module's name ends in, or null. Looks up every suffix that begins
// after a dot.
template <typename T>
const T* find_suffix(const std::map<std::string, T>& values, std::string_view module) {
  while (true) {
    if (const auto it = values.find(std::string(module)); it != values.end()) return &it->second;
    const std::size_t dot = module.find('.');
    if (dot == std::string_view::npos) return nullptr;
    module.remove_prefix(dot + 1);
  }
}

// {"c_attn": 4}. In peft keys are patterns and the first in the file wins; here they are names, and
// must not contradict each other, so that their order says nothing.
template <typename T, typename Read>
void parse_pattern(const Json& json, const char* key, const std::string& where, const Read& read,
                   std::map<std::string, T>* values) {
  if (!json.contains(key) || json[key].is_null()) return;
  const std::string inner = fmt::format("{}: {}", where, key);
  QALOF_CHECK(json[key].is_object(), ErrorKind::kBadInput, "{} is not an object", inner);
  for (const auto& [name, value] : json[key].items()) {
    QALOF_CHECK(!name.empty() && name.size() <= kMaxPatternBytes &&
                    name.find_first_of("^$*+?()[]{}|\\") == std::string::npos,
                ErrorKind::kUnsupported,
                "{} has the key \"{:.80}\", implemented are names of modules or ends of them",
                inner, name);
    (*values)[name] = read(json[key], name, inner);
  }
  for (const auto& [name, value] : *values) {
    const std::size_t dot = name.find('.');
    if (dot == std::string::npos) continue;
    const T* other = find_suffix(*values, std::string_view(name).substr(dot + 1));
    QALOF_CHECK(other == nullptr || *other == value, ErrorKind::kUnsupported,
                "{}: key \"{:.80}\" and a shorter end of it have different values, which is not "
                "implemented",
                inner, name);
  }
}

PeftConfig parse_config(const Json& json, const std::string& where,
                        std::vector<std::string>* warnings) {
  QALOF_CHECK(json.is_object(), ErrorKind::kBadInput, "{}: found {}, expected an object", where,
              json.type_name());
  const std::string type = json_string(json, "peft_type", where);
  QALOF_CHECK(type == "LORA", ErrorKind::kUnsupported,
              "{}: peft_type is {:.40}, implemented is LORA", where, type);
  for (const char* key : {"use_dora", "lora_bias"}) {
    if (json.contains(key) && !is_inert(json[key])) {
      fail(ErrorKind::kUnsupported, "{}: {} is {}, which is not implemented", where, key,
           json[key].dump().substr(0, 40));
    }
  }
  if (json.contains("bias") && json["bias"] != "none") {
    fail(ErrorKind::kUnsupported, "{}: bias is {}, implemented is \"none\"", where,
         json["bias"].dump().substr(0, 40));
  }
  for (const auto& [key, value] : json.items()) {
    if (read_keys().contains(key) || neutral_keys().contains(key)) continue;
    QALOF_CHECK(is_inert(value), ErrorKind::kUnsupported,
                "{}: {:.60} is {:.60}, a setting that is not implemented", where, key,
                value.dump());
    if (!known_off_keys().contains(key)) {
      warnings->push_back(fmt::format("{}: {:.60} is not known here and does nothing", where, key));
    }
  }
  PeftConfig config;
  config.raw = json;
  config.r = static_cast<std::size_t>(json_int(json, "r", where, 1, kMaxRank));
  config.lora_alpha = json_number(json, "lora_alpha", where);
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
  QALOF_CHECK(json.contains("target_modules") && !is_inert(json["target_modules"]),
              ErrorKind::kBadInput, "{}: target_modules is missing or empty", where);
  parse_targets(json["target_modules"], where + ": target_modules", &config);
  if (json.contains("modules_to_save") && !json["modules_to_save"].is_null()) {
    config.modules_to_save = string_list(json["modules_to_save"], where + ": modules_to_save");
  }
  const auto read_rank = [](const Json& object, const std::string& name, const std::string& inner) {
    return static_cast<std::size_t>(json_int(object, name, inner, 1, kMaxRank));
  };
  parse_pattern(json, "rank_pattern", where, read_rank, &config.rank_pattern);
  parse_pattern(json, "alpha_pattern", where, json_number, &config.alpha_pattern);
  return config;
}

}  // namespace

bool PeftConfig::targets(const std::string& module) const {
  if (all_linear) return true;
  if (!target_pattern.empty()) return std::regex_match(module, std::regex(target_pattern));
  return std::any_of(target_modules.begin(), target_modules.end(),
                     [&](const std::string& key) { return matches_suffix(module, key); });
}

std::size_t PeftConfig::rank_of(const std::string& module) const {
  const std::size_t* rank = find_suffix(rank_pattern, module);
  return rank != nullptr ? *rank : r;
}

double PeftConfig::alpha_of(const std::string& module) const {
  const double* alpha = find_suffix(alpha_pattern, module);
  return alpha != nullptr ? *alpha : lora_alpha;
}

PeftAdapter::PeftAdapter(PeftConfig config, SafetensorsFile file, std::vector<std::string> warnings)
    : config_(std::move(config)), file_(std::move(file)), warnings_(std::move(warnings)) {
  for (const auto& [key, view] : file_.tensors()) {
    QALOF_CHECK(key.starts_with(kKeyPrefix), ErrorKind::kBadInput,
                "{}: tensor {:.80} does not begin with {}", file_.path(), key, kKeyPrefix);
    tensors_.emplace(key.substr(kKeyPrefix.size()), view);
  }
}

PeftAdapter read_peft(const std::string& directory) {
  const fs::path path = directory;
  const std::string config_path = (path / "adapter_config.json").string();
  std::vector<std::string> warnings;
  PeftConfig config =
      parse_config(read_json_file(config_path, kMaxConfigBytes), config_path, &warnings);
  const fs::path weights = path / "adapter_model.safetensors";
  QALOF_CHECK(path_exists(weights.string()) || !path_exists((path / "adapter_model.bin").string()),
              ErrorKind::kUnsupported,
              "{}: only adapter_model.bin is there, which is not read (pickled files can run "
              "code); save it again as safetensors",
              directory);
  return {std::move(config), SafetensorsFile::open(weights.string()), std::move(warnings)};
}

void write_peft(const std::string& directory, const PeftConfig& config,
                std::vector<TensorToWrite> tensors) {
  QALOF_CHECK(config.r >= 1 && std::isfinite(config.lora_alpha), ErrorKind::kInternal,
              "{}: r is {} and lora_alpha {}", directory, config.r, config.lora_alpha);
  make_directories(directory);
  for (TensorToWrite& tensor : tensors) tensor.name.insert(0, kKeyPrefix);
  write_safetensors(directory + "/adapter_model.safetensors", std::move(tensors), {});
  Json json = {{"peft_type", "LORA"},
               {"r", config.r},
               {"lora_alpha", config.lora_alpha},
               {"use_rslora", config.use_rslora},
               {"fan_in_fan_out", config.fan_in_fan_out},
               {"rank_pattern", config.rank_pattern},
               {"alpha_pattern", config.alpha_pattern},
               {"bias", "none"},
               {"inference_mode", true},
               {"init_lora_weights", true},
               {"lora_bias", false},
               {"lora_dropout", 0.0},
               {"use_dora", false}};
  // A whole alpha is written as an integer, as peft does.
  if (std::abs(config.lora_alpha) < 1e9 && std::trunc(config.lora_alpha) == config.lora_alpha) {
    json["lora_alpha"] = static_cast<std::int64_t>(config.lora_alpha);
  }
  json["target_modules"] = config.all_linear                ? Json("all-linear")
                           : !config.target_pattern.empty() ? Json(config.target_pattern)
                                                            : Json(config.target_modules);
  const auto text_or_null = [](const std::string& text) {
    return text.empty() ? Json() : Json(text);
  };
  json["task_type"] = text_or_null(config.task_type);
  json["base_model_name_or_path"] = text_or_null(config.base_model_name_or_path);
  json["revision"] = text_or_null(config.revision);
  json["modules_to_save"] = config.modules_to_save.empty() ? Json() : Json(config.modules_to_save);
  for (const char* key :
       {"auto_mapping", "exclude_modules", "layers_to_transform", "layers_pattern"})
    json[key] = nullptr;
  const std::string where = directory + "/adapter_config.json";
  write_file_atomic(where, dump_json(json, where, 2) + "\n");
}

}  // namespace qalof::io
