// Writes the weights of a Hugging Face model directory: one safetensors file, or shards of about a
// gibibyte with an index, tensor by tensor, so that memory holds one tensor at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/json.h"
#include "io/safetensors.h"

namespace qalof::io {

/// A tensor whose values are computed when it is written.
struct TensorToMake {
  std::string name;  // with the prefix of its model class
  std::vector<std::size_t> shape;
  std::function<std::vector<float>()> make;  // returns the values in C order
};

/// Notes in a config.json, also in that of its text part, what the weights are stored as; an older
/// key for it goes.
void set_config_dtype(Json& config, DType dtype);

inline constexpr std::uint64_t kShardBytes = std::uint64_t{1} << 30;

/// Bytes of the tensors' data in a float dtype.
std::uint64_t model_weight_bytes(const std::vector<TensorToMake>& tensors, DType dtype);

/// Writes model.safetensors in F32, BF16 or F16; above shard_bytes in all, shards in the order
/// given (a tensor is never split) and model.safetensors.index.json. Existing weights of the other
/// form are removed last. made is called after each tensor. Returns the bytes of the files. Errors
/// as write_safetensors', and {kBadInput} naming a tensor with values beyond the range of F16.
std::uint64_t write_model_weights(const std::string& directory,
                                  const std::vector<TensorToMake>& tensors, DType dtype,
                                  const std::function<void()>& made,
                                  std::uint64_t shard_bytes = kShardBytes);

}  // namespace qalof::io
