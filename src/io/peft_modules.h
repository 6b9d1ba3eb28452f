// What peft makes of adapter_config.json for the modules of a model: which it adapts, and with what
// rank and alpha (docs/file_formats.md, "PEFT directory").
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "io/peft.h"

namespace qalof::io {

struct PeftModule {
  std::string left_out_by;  // the setting by which peft leaves the module alone; "": it adapts it
  std::size_t rank = 0;
  double alpha = 0;
};

/// One for each name, which stands as in the model ("model.layers.0.self_attn.q_proj"). where:
/// adapter_config.json.
std::vector<PeftModule> peft_modules(const PeftConfig& config, std::span<const std::string> names,
                                     const std::string& where);

/// Reads every pattern of a configuration once. One that decides about numbers must be a pattern of
/// core/name_pattern.h; where one of target_modules, exclude_modules or rank_pattern is more than
/// that, *config says that targets or ranks are not known, and a warning does. Error{kBadInput},
/// {kUnsupported}.
void check_peft_patterns(PeftConfig* config, const std::string& where,
                         std::vector<std::string>* warnings);

}  // namespace qalof::io
