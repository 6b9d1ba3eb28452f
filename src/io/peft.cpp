#include "io/peft.h"

#include <algorithm>
#include <filesystem>
#include <regex>
#include <set>

#include "core/error.h"

namespace qalof::io {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxPatternBytes = 256;
constexpr std::string_view kKeyPrefix = "base_model.model.";

bool matches_suffix(const std::string& module, const std::string& key) {
  if (!module.ends_with(key)) return false;
  return module.size() == key.size() || module[module.size() - key.size() - 1] == '.';
}

// The value a setting has when it does nothing.
bool is_inert(const Json& value) {
  return value.is_null() || value == false || value == 0 || value == 0.0 || (value.is_structured() && value.empty()) ||
         (value.is_string() && value.get_ref<const std::string&>().empty());
}

std::vector<std::string> string_list(const Json& value, const std::string& where) {
  QALOF_CHECK(value.is_array(), ErrorKind::kBadInput, "{} is {}, expected a list of names", where, value.type_name());
  std::vector<std::string> names;
  for (const Json& item : value) {
    QALOF_CHECK(item.is_string() && !item.get_ref<const std::string&>().empty(), ErrorKind::kBadInput,
                "{} holds {}, expected names", where, item.dump().substr(0, 60));
    names.push_back(item.get<std::string>());
  }
  return names;
}

// Settings this reader acts on, and those of peft that say nothing about the result.
const std::set<std::string>& read_keys() {
  static const std::set<std::string> keys = {"peft_type",      "r",            "lora_alpha",   "use_rslora",
                                             "fan_in_fan_out", "task_type",    "target_modules", "modules_to_save",
                                             "rank_pattern",   "alpha_pattern", "base_model_name_or_path", "bias",
                                             "use_dora",       "lora_bias"};
  return keys;
}
const std::set<std::string>& neutral_keys() {
  static const std::set<std::string> keys = {"revision",          "inference_mode", "lora_dropout", "init_lora_weights",
                                             "auto_mapping",      "peft_version",   "megatron_core", "qalora_group_size",
                                             "layer_replication", "runtime_config", "eva_config",    "corda_config",
                                             "loftq_config",      "arrow_config"};
  return keys;
}

PeftConfig parse_config(const Json& json, const std::string& where, std::vector<std::string>* warnings) {
  QALOF_CHECK(json.is_object(), ErrorKind::kBadInput, "{}: found {}, expected an object", where, json.type_name());
  const std::string type = json_string(json, "peft_type", where);
  QALOF_CHECK(type == "LORA", ErrorKind::kUnsupported, "{}: peft_type is {:.40}, implemented is LORA", where, type);
  for (const char* key : {"use_dora", "lora_bias"}) {
    if (json.contains(key) && !is_inert(json[key])) {
      fail(ErrorKind::kUnsupported, "{}: {} is {}, which is not implemented", where, key, json[key].dump().substr(0, 40));
    }
  }
  if (json.contains("bias") && json["bias"] != "none") {
    fail(ErrorKind::kUnsupported, "{}: bias is {}, implemented is \"none\"", where, json["bias"].dump().substr(0, 40));
  }
  for (const auto& [key, value] : json.items()) {
    if (read_keys().contains(key) || neutral_keys().contains(key)) continue;
    QALOF_CHECK(is_inert(value), ErrorKind::kUnsupported, "{}: {:.60} is {:.60}, a setting that is not implemented", where, key,
                value.dump());
    static const std::set<std::string> common = {"exclude_modules", "layers_to_transform", "layers_pattern",
                                                 "megatron_config", "trainable_token_indices", "target_parameters",
                                                 "use_qalora", "alora_invocation_tokens", "ensure_weight_tying"};
    if (!common.contains(key)) warnings->push_back(fmt::format("{:.60} is not known here and does nothing", key));
  }
  PeftConfig config;
  config.raw = json;
  config.r = static_cast<std::size_t>(json_int(json, "r", where, 1, 65536));
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
  QALOF_CHECK(json.contains("target_modules") && !is_inert(json["target_modules"]), ErrorKind::kBadInput,
              "{}: target_modules is missing or empty", where);
  const Json& targets = json["target_modules"];
  if (targets == "all-linear") {
    config.all_linear = true;
  } else if (targets.is_string()) {
    config.target_pattern = targets.get<std::string>();
    QALOF_CHECK(config.target_pattern.size() <= kMaxPatternBytes, ErrorKind::kBadInput,
                "{}: target_modules is a pattern of {} bytes, at most {} are read", where, config.target_pattern.size(), kMaxPatternBytes);
    // Repeated groups can make the matcher backtrack without end; no real adapter needs them.
    static const std::regex repeated_group(R"(\)[*+?{])");
    QALOF_CHECK(!std::regex_search(config.target_pattern, repeated_group), ErrorKind::kUnsupported,
                "{}: target_modules \"{:.80}\" repeats a group, which is not implemented", where, config.target_pattern);
    try {
      const std::regex check(config.target_pattern);
    } catch (const std::regex_error&) {
      fail(ErrorKind::kBadInput, "{}: target_modules \"{:.80}\" is not a regular expression", where, config.target_pattern);
    }
  } else {
    config.target_modules = string_list(targets, where + ": target_modules");
  }
  if (json.contains("modules_to_save") && !json["modules_to_save"].is_null()) {
    config.modules_to_save = string_list(json["modules_to_save"], where + ": modules_to_save");
  }
  for (const char* key : {"rank_pattern", "alpha_pattern"}) {
    if (!json.contains(key) || json[key].is_null()) continue;
    QALOF_CHECK(json[key].is_object(), ErrorKind::kBadInput, "{}: {} is not an object", where, key);
    for (const auto& [name, value] : json[key].items()) {
      const std::string inner = fmt::format("{}: {}", where, key);
      if (std::string_view(key) == "rank_pattern") {
        config.rank_pattern[name] = static_cast<std::size_t>(json_int(json[key], name, inner, 1, 65536));
      } else {
        config.alpha_pattern[name] = json_number(json[key], name, inner);
      }
    }
  }
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
  for (const auto& [key, rank] : rank_pattern) {
    if (matches_suffix(module, key)) return rank;
  }
  return r;
}

double PeftConfig::alpha_of(const std::string& module) const {
  for (const auto& [key, alpha] : alpha_pattern) {
    if (matches_suffix(module, key)) return alpha;
  }
  return lora_alpha;
}

PeftAdapter::PeftAdapter(PeftConfig config, SafetensorsFile file, std::vector<std::string> warnings)
    : config_(std::move(config)), file_(std::move(file)), warnings_(std::move(warnings)) {
  for (const auto& [key, view] : file_.tensors()) {
    QALOF_CHECK(key.starts_with(kKeyPrefix), ErrorKind::kBadInput, "{}: tensor {:.80} does not begin with {}", file_.path(), key,
                kKeyPrefix);
    tensors_.emplace(key.substr(kKeyPrefix.size()), view);
  }
}

PeftAdapter read_peft(const std::string& directory) {
  const fs::path path = directory;
  const std::string config_path = (path / "adapter_config.json").string();
  std::vector<std::string> warnings;
  PeftConfig config = parse_config(read_json_file(config_path, kMaxConfigBytes), config_path, &warnings);
  const fs::path weights = path / "adapter_model.safetensors";
  QALOF_CHECK(fs::exists(weights) || !fs::exists(path / "adapter_model.bin"), ErrorKind::kUnsupported,
              "{}: only adapter_model.bin is there, which is not read (pickled files can run code); save it again as safetensors",
              directory);
  return {std::move(config), SafetensorsFile::open(weights.string()), std::move(warnings)};
}

void write_peft(const std::string& directory, const PeftConfig& config, std::vector<TensorToWrite> tensors) {
  make_directories(directory);
  for (TensorToWrite& tensor : tensors) tensor.name.insert(0, kKeyPrefix);
  write_safetensors(directory + "/adapter_model.safetensors", std::move(tensors), {});
  Json json = {{"peft_type", "LORA"},
               {"r", config.r},
               {"lora_alpha", config.lora_alpha},
               {"use_rslora", config.use_rslora},
               {"fan_in_fan_out", config.fan_in_fan_out},
               {"base_model_name_or_path", config.base_model_name_or_path},
               {"target_modules", config.target_modules},
               {"rank_pattern", config.rank_pattern},
               {"alpha_pattern", config.alpha_pattern},
               {"bias", "none"},
               {"inference_mode", true},
               {"init_lora_weights", true},
               {"lora_bias", false},
               {"lora_dropout", 0.0},
               {"use_dora", false}};
  // A whole alpha is written as an integer, as peft does.
  if (config.lora_alpha == static_cast<double>(static_cast<std::int64_t>(config.lora_alpha))) {
    json["lora_alpha"] = static_cast<std::int64_t>(config.lora_alpha);
  }
  json["task_type"] = config.task_type.empty() ? Json() : Json(config.task_type);
  json["modules_to_save"] = config.modules_to_save.empty() ? Json() : Json(config.modules_to_save);
  for (const char* key : {"auto_mapping", "exclude_modules", "layers_to_transform", "layers_pattern", "revision"}) json[key] = nullptr;
  write_file_atomic(directory + "/adapter_config.json", json.dump(2) + "\n");
}

}  // namespace qalof::io
