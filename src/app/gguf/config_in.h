// config.json from the metadata of a GGUF file.
#pragma once

#include "app/gguf/architecture.h"
#include "core/json.h"
#include "io/gguf.h"

namespace qalof::app {

/// The architecture of a file. Error{kUnsupported} for others and for mixtures of experts.
const GgufArchitecture& find_architecture(const io::GgufFile& file);
/// A config.json as transformers writes it. Error{kUnsupported} for settings that would change what
/// the model computes and are not implemented, {kBadInput} for missing or contradictory ones.
Json config_of(const io::GgufFile& file, const GgufArchitecture& architecture);

}  // namespace qalof::app
