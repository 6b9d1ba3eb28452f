// What the readers of this folder accept at most: a file from outside must not cost more memory
// than its size explains.
#pragma once

#include <cstddef>

namespace qalof::io {

/// Of one file, both safetensors and GGUF.
inline constexpr std::size_t kMaxTensors = 100'000;
inline constexpr std::size_t kMaxTensorNameBytes = 1024;
inline constexpr std::size_t kMaxAllNamesBytes = std::size_t{16} << 20;
/// config.json, generation_config.json, adapter_config.json.
inline constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 20;

}  // namespace qalof::io
