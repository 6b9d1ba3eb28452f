// Opens and writes PEFT adapter directories; the settings are parsed in peft_config.cpp.
#include "io/peft.h"

#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "io/limits.h"

namespace qalof::io {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kKeyPrefix = "base_model.model.";

}  // namespace

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
      parse_peft_config(read_file(config_path, kMaxConfigBytes), config_path, &warnings);
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
  QALOF_CHECK(config.rank_pattern.empty() && config.alpha_pattern.empty() &&
                  config.exclude_modules.empty() && config.exclude_pattern.empty() &&
                  config.layers_to_transform.empty(),
              ErrorKind::kInternal, "{}: settings that are not written are set", directory);
  make_directories(directory);
  for (TensorToWrite& tensor : tensors) tensor.name.insert(0, kKeyPrefix);
  write_safetensors(directory + "/adapter_model.safetensors", std::move(tensors), {});
  Json json = {{"peft_type", "LORA"},
               {"r", config.r},
               {"lora_alpha", config.lora_alpha},
               {"use_rslora", config.use_rslora},
               {"fan_in_fan_out", config.fan_in_fan_out},
               {"rank_pattern", Json::object()},
               {"alpha_pattern", Json::object()},
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
