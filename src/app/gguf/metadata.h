// Metadata of GGUF files that describe a model, and the tensors that scale its positions.
#pragma once

#include <string>
#include <vector>

#include "app/gguf/architecture.h"
#include "core/progress.h"
#include "io/gguf_write.h"
#include "model/config.h"

namespace qalof::app {

/// Adds general.architecture, general.type and general.name.
void add_general(const GgufArchitecture& architecture, const char* type, const std::string& name,
                 io::GgufMetadata& metadata);
/// Adds sizes, norms, positions, windows and caps under the architecture's prefix. Tells observer
/// where llama.cpp computes long texts differently (windows that the architecture lacks, scaling
/// that depends on the length).
void add_model(const GgufArchitecture& architecture, const model::ModelConfig& config,
               const std::string& where, io::GgufMetadata& metadata, Observer& observer);
/// general.file_type and general.quantization_version.
void add_file_type(io::GgufType type, io::GgufMetadata& metadata);
/// Factors of frequencies, if any.
std::vector<io::GgufTensorToMake> rope_tensors(const model::ModelConfig& config);

}  // namespace qalof::app
