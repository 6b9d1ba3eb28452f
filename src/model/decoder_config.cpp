// Parses config.json of the families with rotary positions, by the traits of their table entry.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "model/config_values.h"
#include "model/families.h"

namespace qalof::model {

namespace {

Activation read_gated_activation(const Json& json, const DecoderTraits& traits,
                                 const std::string& where) {
  const std::string name = present_key(json, traits.activation_key, nullptr).empty()
                               ? traits.activation
                               : json_string(json, traits.activation_key, where);
  if (name == "silu" || name == "swish") return Activation::kSwiGlu;
  if (const auto gelu = gelu_named(name))
    return *gelu == Activation::kGeluTanh ? Activation::kGeGluTanh : Activation::kGeGluErf;
  fail(ErrorKind::kUnsupported,
       "{}: {} is {:.40}, implemented are silu, gelu and gelu_pytorch_tanh and their other names",
       where, traits.activation_key, name);
}

void read_sizes(const Json& json, const DecoderTraits& traits, const std::string& where,
                ModelConfig& config) {
  config.vocab_size = read_size(json, "vocab_size", nullptr, traits.vocab, kMaxVocab, where);
  config.max_positions =
      read_size(json, "max_position_embeddings", nullptr, traits.positions, kMaxPositions, where);
  config.hidden = read_size(json, "hidden_size", nullptr, traits.hidden, kMaxHidden, where);
  config.num_layers =
      read_size(json, "num_hidden_layers", nullptr, traits.layers, kMaxLayers, where);
  config.num_heads =
      read_size(json, "num_attention_heads", nullptr, traits.heads, kMaxHidden, where);
  // A default that does not fit the heads means as many; null in a file does, too.
  const bool is_null =
      json.contains("num_key_value_heads") && json["num_key_value_heads"].is_null();
  const std::size_t kv_heads = traits.kv_heads == 0 || is_null ? config.num_heads : traits.kv_heads;
  config.num_kv_heads =
      read_size(json, "num_key_value_heads", nullptr, kv_heads, kMaxHidden, where);
  config.inner = read_size(json, "intermediate_size", nullptr, traits.inner, kMaxInner, where);
  config.head_size = read_size(json, "head_dim", nullptr,
                               traits.head_dim == 0 ? 1 : traits.head_dim, kMaxHidden, where);
  if (present_key(json, "head_dim", nullptr).empty() && traits.head_dim == 0) {
    config.head_size = 0;
    QALOF_CHECK(config.hidden % config.num_heads == 0, ErrorKind::kBadInput,
                "{}: hidden_size {} is not divisible by num_attention_heads {}", where,
                config.hidden, config.num_heads);
  }
  QALOF_CHECK(config.num_heads % config.num_kv_heads == 0, ErrorKind::kBadInput,
              "{}: num_attention_heads {} is not divisible by num_key_value_heads {}", where,
              config.num_heads, config.num_kv_heads);
  QALOF_CHECK(config.q_width() <= static_cast<std::size_t>(kMaxInner), ErrorKind::kBadInput,
              "{}: num_attention_heads {} of head_dim {} are {} numbers, at most {} are read",
              where, config.num_heads, config.head_dim(), config.q_width(), kMaxInner);
}

void read_biases(const Json& json, const DecoderTraits& traits, const std::string& where,
                 ModelConfig& config) {
  const bool by_key = traits.bias == BiasRule::kByKey;
  if (!by_key) require_bool(json, "attention_bias", traits.bias != BiasRule::kNone, where);
  config.has_attention_out_bias = by_key && read_bool(json, "attention_bias", false, where);
  config.has_qkv_bias = traits.bias == BiasRule::kQkv || config.has_attention_out_bias;
  if (!traits.has_mlp_bias_key) require_bool(json, "mlp_bias", false, where);
  config.has_mlp_bias = traits.has_mlp_bias_key && read_bool(json, "mlp_bias", false, where);
}

// no_rope_layers, 1 for a layer with positions, or every layer but each n-th.
void read_layers_with_rotary(const Json& json, const DecoderTraits& traits,
                             const std::string& where, ModelConfig& config) {
  if (traits.rotary_interval == 0) return;
  const std::size_t interval =
      read_size(json, "no_rope_layer_interval", nullptr, traits.rotary_interval, kMaxLayers, where);
  for (std::size_t layer = 0; layer < config.num_layers; ++layer)
    config.attention[layer].has_rotary = (layer + 1) % interval != 0;
  if (present_key(json, "no_rope_layers", nullptr).empty()) return;
  const Json& list = json["no_rope_layers"];
  QALOF_CHECK(list.is_array() && list.size() >= config.num_layers, ErrorKind::kBadInput,
              "{}: no_rope_layers is no list of at least {} numbers", where, config.num_layers);
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    QALOF_CHECK(list[layer] == 0 || list[layer] == 1, ErrorKind::kBadInput,
                "{}: no_rope_layers[{}] is {:.40}, expected 0 or 1", where, layer,
                list[layer].dump());
    config.attention[layer].has_rotary = list[layer] == 1;
  }
}

// Which layers have windows by layer_types; false where there is no such list.
bool read_layer_types(const Json& json, const std::string& where, ModelConfig& config,
                      std::vector<bool>& slides) {
  if (present_key(json, "layer_types", nullptr).empty()) return false;
  const Json& types = json["layer_types"];
  QALOF_CHECK(types.is_array() && types.size() == config.num_layers, ErrorKind::kBadInput,
              "{}: layer_types is no list of {} names", where, config.num_layers);
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    const Json& type = types[layer];
    QALOF_CHECK(type == "full_attention" || type == "sliding_attention", ErrorKind::kUnsupported,
                "{}: layer_types[{}] is {:.40}, implemented are full_attention and "
                "sliding_attention",
                where, layer, type.dump());
    slides[layer] = type == "sliding_attention";
  }
  return true;
}

// Needs layers with rotary positions to be known.
void read_windows(const Json& json, const DecoderTraits& traits, const std::string& where,
                  ModelConfig& config) {
  std::vector<bool> slides(config.num_layers, false);
  const bool is_listed = read_layer_types(json, where, config, slides);
  const bool is_null = json.contains("sliding_window") && json["sliding_window"].is_null();
  std::size_t window = is_null ? 0 : traits.window;
  if (!present_key(json, "sliding_window", nullptr).empty())
    window = read_size(json, "sliding_window", nullptr, 1, kMaxPositions, where);
  const bool by_flag = traits.window_rule == WindowRule::kFromLayer ||
                       traits.window_rule == WindowRule::kWithoutRotary;
  if (by_flag && !read_bool(json, "use_sliding_window", false, where)) window = 0;
  const std::size_t period =
      read_size(json, "sliding_window_pattern", nullptr,
                std::max<std::size_t>(traits.window_period, 1), kMaxLayers, where);
  std::size_t first = 28;
  if (!present_key(json, "max_window_layers", nullptr).empty())
    first = static_cast<std::size_t>(json_int(json, "max_window_layers", where, 0, kMaxLayers));
  for (std::size_t layer = 0; layer < config.num_layers && !is_listed; ++layer) {
    switch (traits.window_rule) {
      case WindowRule::kNone:
        break;
      case WindowRule::kAll:
        slides[layer] = window != 0;
        break;
      case WindowRule::kFromLayer:
        slides[layer] = window != 0 && layer >= first;
        break;
      case WindowRule::kAllButNth:
        slides[layer] = (layer + 1) % period != 0;
        break;
      case WindowRule::kWithoutRotary:
        slides[layer] = window != 0 && !config.attention[layer].has_rotary;
        break;
    }
  }
  const bool any = std::find(slides.begin(), slides.end(), true) != slides.end();
  // A family that reads no list has the same window everywhere, or none.
  const bool reads_list =
      traits.window_rule != WindowRule::kNone && traits.window_rule != WindowRule::kAll;
  if (is_listed && !reads_list) {
    const bool expected = traits.window_rule == WindowRule::kAll && window != 0;
    QALOF_CHECK(std::find(slides.begin(), slides.end(), !expected) == slides.end(),
                ErrorKind::kUnsupported,
                "{}: layer_types differs from what {} has, {} in every layer", where,
                config.model_type, expected ? "sliding_attention" : "full_attention");
  }
  QALOF_CHECK(
      !any || window != 0, ErrorKind::kBadInput, "{}: layer_types has sliding_attention, but {}",
      where,
      by_flag ? "use_sliding_window is false or sliding_window is null" : "sliding_window is null");
  for (std::size_t layer = 0; layer < config.num_layers; ++layer)
    config.attention[layer].window = slides[layer] ? window : 0;
}

// A soft cap; null means none.
float read_cap(const Json& json, const char* key, float fallback, const std::string& where) {
  if (json.contains(key) && json[key].is_null()) return 0;
  return read_float(json, key, fallback, 1e6F, where);
}

// transformers rounds the factor of Gemma's embeddings to the dtype it loads the weights in.
float embedding_scale_of(const Json& json, std::size_t hidden, const std::string& where) {
  const auto scale = static_cast<float>(std::sqrt(static_cast<double>(hidden)));
  const std::string key = present_key(json, "dtype", "torch_dtype");
  const std::string dtype = key.empty() ? "float32" : json_string(json, key, where);
  const auto rounded = [&](int bits) {
    const int exponent = std::ilogb(scale) - bits + 1;
    // In the default rounding mode, ties go to even.
    return std::ldexp(std::nearbyint(std::ldexp(scale, -exponent)), exponent);
  };
  constexpr int kBf16Bits = 8, kF16Bits = 11;
  if (dtype == "bfloat16") return rounded(kBf16Bits);
  return dtype == "float16" ? rounded(kF16Bits) : scale;
}

void refuse_unimplemented_keys(const Json& json, const std::string& where) {
  for (const char* key :
       {"is_encoder_decoder", "add_cross_attention", "use_bidirectional_attention"})
    require_bool(json, key, false, where);
  const std::size_t parts = read_size(json, "pretraining_tp", nullptr, 1, 1024, where);
  QALOF_CHECK(parts == 1, ErrorKind::kUnsupported, "{}: pretraining_tp is {}, implemented is 1",
              where, parts);
}

}  // namespace

ModelConfig parse_decoder_config(const Json& json, const Family& family, const std::string& where) {
  const DecoderTraits& traits = family.traits;
  refuse_unimplemented_keys(json, where);
  ModelConfig config;
  config.model_type = family.model_type;
  config.raw = json;
  config.norm = NormKind::kRms;
  config.norm_offset = traits.norm_offset;
  config.has_qk_norms = traits.has_qk_norms;
  config.has_out_norms = traits.has_out_norms;
  config.activation = read_gated_activation(json, traits, where);
  read_sizes(json, traits, where, config);
  read_biases(json, traits, where, config);
  config.attention.resize(config.num_layers);
  read_layers_with_rotary(json, traits, where, config);
  read_windows(json, traits, where, config);
  read_rotary(json, traits, where, config);
  if (traits.score_scalar != 0) {
    const float scalar = read_float(json, "query_pre_attn_scalar",
                                    static_cast<float>(traits.score_scalar), 1e9F, where);
    for (LayerAttention& layer : config.attention)
      layer.score_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(scalar)));
  }
  if (traits.caps_scores)
    config.score_cap = read_cap(json, "attn_logit_softcapping", traits.score_cap, where);
  if (traits.has_logit_cap_key)
    config.logit_cap = read_cap(json, "final_logit_softcapping", traits.logit_cap, where);
  if (traits.scales_embedding)
    config.embedding_scale = embedding_scale_of(json, config.hidden, where);
  config.norm_epsilon = read_float(json, "rms_norm_eps", traits.epsilon, 1.0F, where);
  config.initializer_range = read_float(json, "initializer_range", 0.02F, 10.0F, where);
  config.eos_token_ids.clear();
  if (traits.eos >= 0 || !present_key(json, "eos_token_id", nullptr).empty())
    config.eos_token_ids = read_end_tokens(json, traits.eos, where);
  const std::int64_t first_end = config.eos_token_ids.empty() ? 0 : config.eos_token_ids.front();
  config.bos_token_id =
      read_token(json, "bos_token_id", traits.bos >= 0 ? traits.bos : first_end, where);
  config.lm_head =
      read_bool(json, "tie_word_embeddings", traits.is_tied, where) ? LmHead::kTied : LmHead::kOwn;
  read_dropout(json, {"attention_dropout", "resid_pdrop", "embd_pdrop"}, config, where);
  return config;
}

ModelConfig parse_inner_config(const Json& json, const Family& family, const std::string& where) {
  QALOF_CHECK(json.contains("text_config") && json["text_config"].is_object(), ErrorKind::kBadInput,
              "{}: text_config is missing or no object", where);
  Json inner = json["text_config"];
  // What the whole model says counts more.
  for (const char* key :
       {"bos_token_id", "eos_token_id", "tie_word_embeddings", "dtype", "torch_dtype"}) {
    if (!present_key(json, key, nullptr).empty()) inner[key] = json[key];
  }
  ModelConfig config = parse_decoder_config(inner, family, where + ": text_config");
  config.raw = json;
  return config;
}

}  // namespace qalof::model
