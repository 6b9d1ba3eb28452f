// A tiny GPT-2 directory for tests: deterministic weights that are neither random-looking noise of
// one scale nor symmetric, so that a transposed, dropped or swapped tensor changes results.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/random.h"
#include "io/safetensors.h"
#include "model/config.h"
#include "support/temp_dir.h"

namespace qalof::testing {

inline Json tiny_config() {
  return {{"model_type", "gpt2"}, {"architectures", {"GPT2LMHeadModel"}},
          {"vocab_size", 97},     {"n_positions", 64},
          {"n_embd", 32},         {"n_layer", 2},
          {"n_head", 2},          {"bos_token_id", 96},
          {"eos_token_id", 96}};
}

/// Queries share keys in threes, and positions turn fast.
inline Json tiny_llama_config() {
  return {{"model_type", "llama"},       {"vocab_size", 97},
          {"hidden_size", 48},           {"intermediate_size", 80},
          {"num_hidden_layers", 2},      {"num_attention_heads", 6},
          {"num_key_value_heads", 2},    {"max_position_embeddings", 64},
          {"rope_theta", 300.0},         {"bos_token_id", 96},
          {"tie_word_embeddings", true}, {"eos_token_id", 96}};
}

/// Values of a tensor: a function of its name and the seed alone.
inline std::vector<float> tensor_values(const std::string& name, std::size_t count, float scale,
                                        std::uint64_t seed = 1) {
  const RandomStream stream(seed, name);
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = scale * stream.normal(0, i);
  return values;
}

/// Writes config.json and model.safetensors of a model with every tensor non-trivial, and a QA
/// head.
inline void write_model(const std::string& directory, const Json& raw = tiny_config(),
                        std::uint64_t seed = 1) {
  std::filesystem::create_directories(directory);
  const model::ModelConfig config = model::parse_model_config(raw, "test config");
  std::vector<std::vector<float>> storage;
  std::vector<io::TensorToWrite> tensors;
  auto add = [&](const std::string& name, const std::vector<std::size_t>& shape, float scale,
                 float offset) {
    std::size_t count = 1;
    for (const std::size_t extent : shape) count *= extent;
    std::vector<float> values = tensor_values(name, count, scale, seed);
    for (float& value : values) value += offset;
    storage.push_back(std::move(values));
    tensors.push_back(
        {name, io::DType::kF32, shape, std::as_bytes(std::span<const float>(storage.back()))});
  };
  for (const model::TensorSpec& spec : model::expected_tensors(config)) {
    const bool is_gain = spec.shape.size() == 1 && spec.name.ends_with(".weight");
    add("transformer." + spec.name, spec.shape, spec.shape.size() == 1 ? 0.1F : 0.15F,
        is_gain ? 1.0F : 0.0F);
  }
  add("qa_outputs.weight", {2, config.hidden}, 0.5F, 0.0F);
  add("qa_outputs.bias", {2}, 0.1F, 0.0F);
  io::write_safetensors(directory + "/model.safetensors", tensors, {});
  std::ofstream(directory + "/config.json") << raw.dump();
}

}  // namespace qalof::testing
