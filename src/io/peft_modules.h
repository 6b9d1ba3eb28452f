// Which modules of a model peft adapts under an adapter_config.json, and with what rank and alpha
// (docs/file_formats.md, "PEFT directory").
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "io/peft.h"

namespace qalof::io {

struct PeftModule {
  std::string left_out_by;  // the setting that excludes the module; "": it is adapted
  std::size_t rank = 0;
  double alpha = 0;
};

/// One result per name, in order; names are the model's ("model.layers.0.self_attn.q_proj"). where:
/// the path of adapter_config.json.
std::vector<PeftModule> peft_modules(const PeftConfig& config, std::span<const std::string> names,
                                     const std::string& where);

/// Compiles every pattern of a configuration once. A pattern that decides on numbers must be
/// supported by core/name_pattern.h; an unsupported one in target_modules, exclude_modules or
/// rank_pattern clears targets_known or ranks_known in *config and adds a warning.
/// Error{kBadInput}, {kUnsupported}.
void check_peft_patterns(PeftConfig* config, const std::string& where,
                         std::vector<std::string>* warnings);

}  // namespace qalof::io
