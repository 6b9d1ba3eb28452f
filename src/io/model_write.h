// Writing the weights of a Hugging Face model directory: one safetensors file, or shards of about a
// gibibyte with an index, so that memory holds one of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace qalof::io {

/// A tensor that is made when its turn comes.
struct TensorToMake {
  std::string name;  // with its class's prefix
  std::vector<std::size_t> shape;
  std::function<std::vector<float>()> make;  // values in C order
};

inline constexpr std::uint64_t kShardBytes = std::uint64_t{1} << 30;

/// Writes model.safetensors in f32 or bfloat16; where that is more than shard_bytes, shards in the
/// order given (a tensor is never split) and model.safetensors.index.json. Weights of the other
/// form that were there are removed last. made is called after each tensor. Errors as
/// write_safetensors'.
void write_model_weights(const std::string& directory, const std::vector<TensorToMake>& tensors,
                         bool bf16, const std::function<void()>& made,
                         std::uint64_t shard_bytes = kShardBytes);

}  // namespace qalof::io
