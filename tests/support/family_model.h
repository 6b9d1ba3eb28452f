// The tiny models of every family whose results tools/fixtures/make_family_fixtures.py took from
// transformers: weights by the same formula of name and index.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "core/random.h"
#include "io/safetensors.h"
#include "model/config.h"
#include "support/temp_dir.h"
#include "weights/base_model.h"

namespace qalof::testing {

/// Every case by name: config, runs, greedy, gradients.
inline const Json& family_cases() {
  static const Json all = read_json_file(QALOF_SOURCE_DIR "/tests/support/data/families.json");
  return all;
}
// Rotations that a model's sizes and norms allow: all of them, and those without the residual
// stream.
inline std::vector<quant::Rotations> possible_rotations(const model::ModelConfig& config) {
  const bool heads = config.head_dim() % 8 == 0;
  std::vector<quant::Rotations> result = {{.heads = heads, .mlp = true}};
  if (heads && !config.has_out_norms) result.push_back(quant::kAllRotations);
  return result;
}

inline std::vector<std::string> family_case_names() {
  std::vector<std::string> names;
  for (const auto& [name, entry] : family_cases().items()) names.push_back(name);
  return names;
}

/// Uniform numbers in [-1, 1), exact in f32.
inline std::vector<float> family_signs(const std::string& name, std::size_t count) {
  const RandomStream stream(1, name);
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = static_cast<float>(stream.words(0, i)[0] >> 8) * 0x1p-23F - 1.0F;
  return values;
}

inline std::vector<float> family_weights(const model::TensorSpec& spec, float norm_offset) {
  std::size_t count = 1;
  for (const std::size_t extent : spec.shape) count *= extent;
  std::vector<float> values = family_signs(spec.name, count);
  const bool is_gain = spec.shape.size() == 1 && spec.name.ends_with("weight");
  for (float& value : values) {
    value *= spec.shape.size() > 1 ? 0.5F : 0.25F;
    if (is_gain) value += 1.0F - norm_offset;
  }
  return values;
}

inline std::vector<std::int32_t> family_tokens(std::size_t length) {
  const RandomStream stream(1, "tokens " + std::to_string(length));
  std::vector<std::int32_t> ids(length);
  for (std::size_t i = 0; i < length; ++i)
    ids[i] = static_cast<std::int32_t>(stream.words(0, i)[0] % 59);
  return ids;
}

/// Writes the model of a case as a Hugging Face directory.
inline void write_family_model(const std::string& directory, const Json& raw) {
  std::filesystem::create_directories(directory);
  const model::ModelConfig config = model::parse_model_config(raw, "family config");
  std::vector<std::vector<float>> storage;
  std::vector<io::TensorToWrite> tensors;
  const std::vector<model::TensorSpec> specs = model::stored_tensors(config);
  storage.reserve(specs.size());
  const std::string prefix = model::decoder_prefix(config, model::ModelClass::kCausalLm);
  for (const model::TensorSpec& spec : specs) {
    storage.push_back(family_weights(spec, config.norm_offset));
    tensors.push_back({(spec.name == model::kLmHeadTensor ? "" : prefix) + spec.name,
                       io::DType::kF32, spec.shape,
                       std::as_bytes(std::span<const float>(storage.back()))});
  }
  io::write_safetensors(directory + "/model.safetensors", tensors, {});
  std::ofstream(directory + "/config.json") << raw.dump();
}

inline std::shared_ptr<const weights::BaseModel> family_base(const std::string& name) {
  const TempDir dir;
  write_family_model(dir.path(), family_cases().at(name)["config"]);
  return weights::BaseModel::load_directory(dir.path());
}

}  // namespace qalof::testing
