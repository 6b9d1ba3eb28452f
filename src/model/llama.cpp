// Parses config.json of the Llama family, with rotary scaling; named sizes; rotary frequencies.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "model/config_values.h"

namespace qalof::model {

namespace {

constexpr float kMaxTheta = 1e12F;

// Old files have rope_theta and rope_scaling, whose type may be called "type"; new files have
// rope_parameters.
RotaryPositions read_rotary(const Json& json, const std::string& where) {
  RotaryPositions rotary;
  rotary.theta = read_float(json, "rope_theta", rotary.theta, kMaxTheta, where);
  const std::string key = present_key(json, "rope_parameters", "rope_scaling");
  if (key.empty()) return rotary;
  const Json& values = json[key];
  const std::string inner = where + ": " + key;
  QALOF_CHECK(values.is_object(), ErrorKind::kBadInput, "{}: found {}, expected an object", inner,
              values.type_name());
  rotary.theta = read_float(values, "rope_theta", rotary.theta, kMaxTheta, inner);
  if (!present_key(values, "partial_rotary_factor", nullptr).empty()) {
    const double part = json_number(values, "partial_rotary_factor", inner);
    QALOF_CHECK(part == 1.0, ErrorKind::kUnsupported,
                "{}: partial_rotary_factor is {}, implemented is 1", inner, part);
  }
  const std::string type_key = present_key(values, "rope_type", "type");
  const std::string type = type_key.empty() ? "default" : json_string(values, type_key, inner);
  if (type == "default") return rotary;
  QALOF_CHECK(type == "linear" || type == "llama3", ErrorKind::kUnsupported,
              "{}: {} is {:.40}, implemented are default, linear and llama3", inner, type_key,
              type);
  QALOF_CHECK(values.contains("factor"), ErrorKind::kBadInput, "{}: factor is missing", inner);
  rotary.factor = read_float(values, "factor", 1.0F, 1e6F, inner);
  if (type == "linear") return rotary;
  for (const char* needed :
       {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
    QALOF_CHECK(values.contains(needed), ErrorKind::kBadInput, "{}: {} is missing", inner, needed);
  }
  RotaryPositions::ByWavelength bounds;
  bounds.low = read_float(values, "low_freq_factor", 1.0F, 1e6F, inner);
  bounds.high = read_float(values, "high_freq_factor", 4.0F, 1e6F, inner);
  bounds.original_positions =
      read_size(values, "original_max_position_embeddings", nullptr, 8192, kMaxPositions, inner);
  QALOF_CHECK(bounds.low < bounds.high, ErrorKind::kBadInput,
              "{}: low_freq_factor is {}, expected below high_freq_factor {}", inner, bounds.low,
              bounds.high);
  rotary.by_wavelength = bounds;
  return rotary;
}

}  // namespace

ModelConfig parse_llama_config(const Json& json, const std::string& where) {
  if (!present_key(json, "hidden_act", nullptr).empty()) {
    const std::string activation = json_string(json, "hidden_act", where);
    QALOF_CHECK(activation == "silu" || activation == "swish", ErrorKind::kUnsupported,
                "{}: hidden_act is {:.40}, implemented is silu", where, activation);
  }
  for (const char* key :
       {"attention_bias", "mlp_bias", "is_encoder_decoder", "add_cross_attention"}) {
    require_bool(json, key, false, where);
  }
  ModelConfig config;
  config.family = Family::kLlama;
  config.norm = NormKind::kRms;
  config.activation = Activation::kSwiGlu;
  config.raw = json;
  config.vocab_size = read_size(json, "vocab_size", nullptr, 32000, kMaxVocab, where);
  config.max_positions =
      read_size(json, "max_position_embeddings", nullptr, 2048, kMaxPositions, where);
  config.hidden = read_size(json, "hidden_size", nullptr, 4096, kMaxHidden, where);
  config.num_layers = read_size(json, "num_hidden_layers", nullptr, 32, kMaxLayers, where);
  config.num_heads = read_size(json, "num_attention_heads", nullptr, 32, kMaxHidden, where);
  config.num_kv_heads =
      read_size(json, "num_key_value_heads", nullptr, config.num_heads, kMaxHidden, where);
  config.inner = read_size(json, "intermediate_size", nullptr, 11008, kMaxInner, where);
  QALOF_CHECK(config.hidden % config.num_heads == 0, ErrorKind::kBadInput,
              "{}: hidden_size {} is not divisible by num_attention_heads {}", where, config.hidden,
              config.num_heads);
  QALOF_CHECK(config.num_heads % config.num_kv_heads == 0, ErrorKind::kBadInput,
              "{}: num_attention_heads {} is not divisible by num_key_value_heads {}", where,
              config.num_heads, config.num_kv_heads);
  QALOF_CHECK(config.head_dim() % 2 == 0, ErrorKind::kBadInput,
              "{}: heads have {} numbers each, rotary positions need an even number", where,
              config.head_dim());
  const std::size_t head_dim =
      read_size(json, "head_dim", nullptr, config.head_dim(), kMaxHidden, where);
  QALOF_CHECK(head_dim == config.head_dim(), ErrorKind::kUnsupported,
              "{}: head_dim is {}, implemented is hidden_size / num_attention_heads = {}", where,
              head_dim, config.head_dim());
  const std::size_t parts = read_size(json, "pretraining_tp", nullptr, 1, 1024, where);
  QALOF_CHECK(parts == 1, ErrorKind::kUnsupported, "{}: pretraining_tp is {}, implemented is 1",
              where, parts);
  config.norm_epsilon = read_float(json, "rms_norm_eps", 1e-6F, 1.0F, where);
  config.initializer_range = read_float(json, "initializer_range", 0.02F, 10.0F, where);
  config.bos_token_id = read_token(json, "bos_token_id", 1, where);
  config.eos_token_ids = read_end_tokens(json, 2, where);
  config.lm_head =
      read_bool(json, "tie_word_embeddings", false, where) ? LmHead::kTied : LmHead::kOwn;
  config.rotary = read_rotary(json, where);
  read_dropout(json, {"attention_dropout"}, config, where);
  return config;
}

std::vector<float> rotary_frequencies(const ModelConfig& config) {
  const RotaryPositions& rotary = config.rotary.value();
  const std::size_t half = config.head_dim() / 2;
  std::vector<float> frequencies(half);
  for (std::size_t i = 0; i < half; ++i) {
    const double exponent = static_cast<double>(i) / static_cast<double>(half);
    double frequency = 1.0 / std::pow(static_cast<double>(rotary.theta), exponent);
    const auto factor = static_cast<double>(rotary.factor);
    if (!rotary.by_wavelength) {
      frequency /= factor;
    } else {
      const RotaryPositions::ByWavelength& bounds = *rotary.by_wavelength;
      constexpr double kTurn = 6.283185307179586;  // 2 pi
      const auto low = static_cast<double>(bounds.low), high = static_cast<double>(bounds.high);
      const double turns = static_cast<double>(bounds.original_positions) * frequency / kTurn;
      // 0: a long wave, slowed down by the whole factor; 1: a short wave, unchanged.
      const double kept = std::clamp((turns - low) / (high - low), 0.0, 1.0);
      frequency *= (1.0 - kept) / factor + kept;
    }
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

std::optional<Json> named_llama_config(const std::string& size) {
  struct Size {
    const char* name;
    int layers, heads, kv_heads, hidden, inner, positions, vocab;
    double theta;
  };
  constexpr std::array<Size, 3> kSizes = {Size{"135M", 30, 9, 3, 576, 1536, 8192, 49152, 1e5},
                                          Size{"1B", 16, 32, 8, 2048, 8192, 8192, 128256, 5e5},
                                          Size{"nano", 4, 4, 2, 128, 384, 256, 1024, 1e4}};
  for (const Size& known : kSizes) {
    if (size != known.name) continue;
    return Json{{"model_type", "llama"},
                {"architectures", {"LlamaForCausalLM"}},
                {"vocab_size", known.vocab},
                {"max_position_embeddings", known.positions},
                {"hidden_size", known.hidden},
                {"intermediate_size", known.inner},
                {"num_hidden_layers", known.layers},
                {"num_attention_heads", known.heads},
                {"num_key_value_heads", known.kv_heads},
                {"hidden_act", "silu"},
                {"rms_norm_eps", 1e-5},
                {"initializer_range", 0.02},
                {"rope_theta", known.theta},
                {"bos_token_id", known.vocab - 1},
                {"eos_token_id", known.vocab - 1},
                {"tie_word_embeddings", true}};
  }
  return std::nullopt;
}

}  // namespace qalof::model
