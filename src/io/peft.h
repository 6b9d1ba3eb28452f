// One PEFT LoRA adapter directory: adapter_config.json and adapter_model.safetensors, as Python
// `peft` writes and reads them. Not for: matching tensors to a model (weights/adapter.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"
#include "io/safetensors.h"

namespace qalof::io {

/// Values by pattern, in the order of the file: the first pattern that matches a module wins.
template <typename T>
using PatternValues = std::vector<std::pair<std::string, T>>;

/// The settings of adapter_config.json that affect loading; io/peft_modules.h applies them to
/// modules.
struct PeftConfig {
  std::size_t r = 8;
  double lora_alpha = 16;
  bool use_rslora = false;
  bool fan_in_fan_out = false;
  std::string task_type;  // "QUESTION_ANS", "CAUSAL_LM", "SEQ_CLS" or ""
  // Name suffixes; empty with all_linear or target_pattern.
  std::vector<std::string> target_modules;
  bool all_linear = false;
  std::string target_pattern;                // a regular expression, full match; "" = none
  std::vector<std::string> exclude_modules;  // name suffixes
  std::string exclude_pattern;               // as target_pattern
  // Layers that are adapted; empty: all. layers_pattern names the part of a module's name that the
  // layer number follows; empty: the first number with two parts before it.
  std::vector<std::int64_t> layers_to_transform;
  std::vector<std::string> layers_pattern;
  // False where a pattern is beyond what is implemented; then the tensors alone decide.
  bool targets_known = true, ranks_known = true;
  // True where peft starts a module without tensors at random numbers instead of at zero.
  bool starts_at_random = false;
  std::vector<std::string> modules_to_save;
  PatternValues<std::size_t> rank_pattern;
  PatternValues<double> alpha_pattern;
  std::string base_model_name_or_path;
  std::string revision;  // of the base; "" = none
  Json raw;              // the JSON as read
};

/// Parses the text of an adapter_config.json; where is its path. Settings that affect loading are
/// applied or refused by name; others are ignored, and unknown ones among them are reported in
/// *warnings. Error{kCorruptFile}, {kBadInput}, {kUnsupported}.
PeftConfig parse_peft_config(std::string_view text, const std::string& where,
                             std::vector<std::string>* warnings);

/// An opened adapter directory; keeps the mapping that its tensors view.
class PeftAdapter {
 public:
  PeftAdapter(PeftConfig config, SafetensorsFile file, std::vector<std::string> warnings);
  const PeftConfig& config() const { return config_; }
  /// By name without "base_model.model." ("transformer.h.0.attn.c_attn.lora_A.weight").
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  /// Warnings from parsing the configuration.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  PeftConfig config_;
  SafetensorsFile file_;
  std::map<std::string, TensorView> tensors_;
  std::vector<std::string> warnings_;
};

/// Error{kNotFound}, the errors of parse_peft_config, and {kUnsupported} for pickled weights.
PeftAdapter read_peft(const std::string& directory);
/// Writes an adapter directory; tensors are named without "base_model.model.". The configuration is
/// written last; an empty task_type becomes null. Error{kResource}; {kInternal} for r of 0, an
/// alpha that is not finite, and settings that training never uses: excluded modules, layers, and
/// ranks and alphas by pattern.
void write_peft(const std::string& directory, const PeftConfig& config,
                std::vector<TensorToWrite> tensors);

}  // namespace qalof::io
