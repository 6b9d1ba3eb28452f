// One PEFT LoRA adapter directory: adapter_config.json and adapter_model.safetensors, as Python
// `peft` writes and reads them. Matching tensors to a model is runtime/adapter's business.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "core/json.h"
#include "io/safetensors.h"

namespace qalof::io {

struct PeftConfig {
  std::size_t r = 8;
  double lora_alpha = 16;
  bool use_rslora = false;
  bool fan_in_fan_out = false;
  std::string task_type;  // "QUESTION_ANS", "CAUSAL_LM", "SEQ_CLS" or ""
  std::vector<std::string>
      target_modules;  // name suffixes; empty with all_linear or target_pattern
  bool all_linear = false;
  std::string target_pattern;  // a regular expression, full match; "" = none; at most 4 of * + {
  std::vector<std::string> modules_to_save;
  std::map<std::string, std::size_t>
      rank_pattern;  // name suffix -> r; no suffix ends in another with a different value
  std::map<std::string, double> alpha_pattern;
  std::string base_model_name_or_path;
  std::string revision;  // of the base; "" = none
  Json raw;              // as read

  /// True where the adapter is meant to apply to a module ("transformer.h.0.attn.c_attn").
  bool targets(const std::string& module) const;
  std::size_t rank_of(const std::string& module) const;
  double alpha_of(const std::string& module) const;
};

/// An adapter directory, opened; keeps the mapping its tensors view.
class PeftAdapter {
 public:
  PeftAdapter(PeftConfig config, SafetensorsFile file, std::vector<std::string> warnings);
  const PeftConfig& config() const { return config_; }
  /// By name without "base_model.model." ("transformer.h.0.attn.c_attn.lora_A.weight").
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  /// Unknown settings that do nothing.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  PeftConfig config_;
  SafetensorsFile file_;
  std::map<std::string, TensorView> tensors_;
  std::vector<std::string> warnings_;
};

/// Error{kNotFound}, {kCorruptFile}, {kBadInput}, or {kUnsupported} for DoRA, lora_bias, trained
/// biases, pickled weights and unknown settings that would change results.
PeftAdapter read_peft(const std::string& directory);
/// tensors are named without "base_model.model.". The configuration is written last; a task_type
/// that is empty is written as null. Error{kResource}; {kInternal} for r of 0 or an alpha that is
/// not finite.
void write_peft(const std::string& directory, const PeftConfig& config,
                std::vector<TensorToWrite> tensors);

}  // namespace qalof::io
