// Parses GPT-2's config.json, and dispatches to the family of any config.json.
#include "model/config.h"

#include <cmath>

#include "core/error.h"
#include "model/config_values.h"
#include "model/families.h"

namespace qalof::model {

namespace {

Activation read_activation(const Json& json, const std::string& where) {
  if (present_key(json, "activation_function", nullptr).empty()) return Activation::kGeluTanh;
  const std::string name = json_string(json, "activation_function", where);
  if (const auto activation = gelu_named(name)) return *activation;
  fail(ErrorKind::kUnsupported,
       "{}: activation_function is {:.40}, implemented are gelu_new and gelu and their other names",
       where, name);
}

void refuse_unimplemented(const Json& json, const std::string& where) {
  for (const char* key : {"add_cross_attention", "is_encoder_decoder"})
    require_bool(json, key, false, where);
  // The setting changes the order and precision of scores; here scores are f32 either way.
  read_bool(json, "reorder_and_upcast_attn", false, where);
}

// The factors of scores, where they are not those of a plain GPT-2.
void read_score_scales(const Json& json, const std::string& where, ModelConfig& config) {
  const bool is_scaled = read_bool(json, "scale_attn_weights", true, where);
  const bool by_layer = read_bool(json, "scale_attn_by_inverse_layer_idx", false, where);
  if (is_scaled && !by_layer) return;
  config.attention.resize(config.num_layers);
  const double scale = is_scaled ? 1.0 / std::sqrt(static_cast<double>(config.head_dim())) : 1.0;
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    config.attention[layer].score_scale =
        static_cast<float>(by_layer ? scale / static_cast<double>(layer + 1) : scale);
  }
}

}  // namespace

ModelConfig parse_gpt2_config(const Json& json, const Family& /*family*/,
                              const std::string& where) {
  refuse_unimplemented(json, where);
  ModelConfig config;
  config.raw = json;
  config.activation = read_activation(json, where);
  config.vocab_size = read_size(json, "vocab_size", nullptr, config.vocab_size, kMaxVocab, where);
  config.max_positions = read_size(json, "n_positions", "max_position_embeddings",
                                   config.max_positions, kMaxPositions, where);
  config.hidden = read_size(json, "n_embd", "hidden_size", config.hidden, kMaxHidden, where);
  config.num_layers =
      read_size(json, "n_layer", "num_hidden_layers", config.num_layers, kMaxLayers, where);
  config.num_heads =
      read_size(json, "n_head", "num_attention_heads", config.num_heads, kMaxHidden, where);
  config.num_kv_heads = config.num_heads;
  config.inner = read_size(json, "n_inner", nullptr, 4 * config.hidden, kMaxInner, where);
  QALOF_CHECK(config.hidden % config.num_heads == 0, ErrorKind::kBadInput,
              "{}: n_embd {} is not divisible by n_head {}", where, config.hidden,
              config.num_heads);
  config.norm_epsilon = read_float(json, "layer_norm_epsilon", 1e-5F, 1.0F, where);
  config.initializer_range = read_float(json, "initializer_range", 0.02F, 10.0F, where);
  config.bos_token_id = read_token(json, "bos_token_id", config.bos_token_id, where);
  config.eos_token_ids = read_end_tokens(json, config.eos_token_ids.front(), where);
  config.lm_head =
      read_bool(json, "tie_word_embeddings", true, where) ? LmHead::kTied : LmHead::kOwn;
  read_dropout(json, {"resid_pdrop", "embd_pdrop", "attn_pdrop"}, config, where);
  read_score_scales(json, where, config);
  return config;
}

ModelConfig parse_model_config(const Json& json, const std::string& where) {
  QALOF_CHECK(json.is_object(), ErrorKind::kBadInput, "{}: found {}, expected an object", where,
              json.type_name());
  const std::string type = json_string(json, "model_type", where);
  const Family* family = find_family(type);
  QALOF_CHECK(family != nullptr, ErrorKind::kUnsupported,
              "{}: model_type is {:.40}, implemented are {}", where, type,
              fmt::join(model_types(), ", "));
  QALOF_CHECK(present_key(json, "quantization_config", nullptr).empty(), ErrorKind::kUnsupported,
              "{}: quantization_config is given; a base with float weights is needed", where);
  return family->parse(json, *family, where);
}

void set_lm_head(ModelConfig& config, LmHead head) {
  const bool is_tied = head == LmHead::kTied;
  if (is_tied != (config.lm_head == LmHead::kTied)) config.raw["tie_word_embeddings"] = is_tied;
  config.lm_head = head;
}

}  // namespace qalof::model
