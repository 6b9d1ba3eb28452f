// What a decoder is made of. Data only: the same forward reads it for every model family.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"
#include "quant/plan.h"

namespace qalof::model {

enum class Family { kGpt2 };

struct ModelConfig {
  Family family = Family::kGpt2;
  std::size_t vocab_size = 50257;
  std::size_t max_positions = 1024;
  std::size_t hidden = 768;
  std::size_t num_layers = 12;
  std::size_t num_heads = 12;
  std::size_t num_kv_heads = 12;
  std::size_t inner = 3072;
  float norm_epsilon = 1e-5F;
  float initializer_range = 0.02F;
  std::int64_t bos_token_id = 50256;
  std::int64_t eos_token_id = 50256;
  bool tie_word_embeddings = true;
  bool has_dropout = false;  // the file asks for dropout, which is ignored and said so
  Json raw;                  // the file's own keys, kept on saving

  std::size_t head_dim() const { return hidden / num_heads; }
};

/// Parses a Hugging Face config.json (GPT-2 and its aliases). Values that are not implemented are
/// refused by name (Error{kUnsupported}); out-of-range ones are Error{kBadInput}. where is the
/// file's path.
ModelConfig parse_model_config(const Json& json, const std::string& where);
/// A config.json of a named size, "124M" (GPT-2) or "nano"; Error{kUsage} lists the sizes.
Json named_model_config(const std::string& model_type, const std::string& size);

/// Kinds of linears, in the order they run inside a layer.
struct LinearSpec {
  std::string name;  // "h.0.attn.c_attn"
  std::size_t in = 0, out = 0;
  std::size_t layer = 0;
  bool conv1d = false;  // stored [in, out] in Hugging Face files
};
/// All linears in forward order.
std::vector<LinearSpec> linears(const ModelConfig& config);
quant::PlanTarget plan_target(const ModelConfig& config);

/// One tensor a model directory must hold.
struct TensorSpec {
  std::string name;                // without prefix: "h.0.ln_1.weight"
  std::vector<std::size_t> shape;  // as in the file
};
std::vector<TensorSpec> expected_tensors(const ModelConfig& config);
/// Number of parameters of the decoder (tied head counted once).
std::size_t parameter_count(const ModelConfig& config);

}  // namespace qalof::model
