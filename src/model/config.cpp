// Parses GPT-2's config.json, and dispatches to the family of any config.json.
#include "model/config.h"

#include <array>

#include "core/error.h"
#include "model/config_values.h"

namespace qalof::model {

namespace {

// transformers has several names for each of GELU's two forms.
constexpr std::array kActivations = {std::pair{"gelu_new", Activation::kGeluTanh},
                                     std::pair{"gelu", Activation::kGeluErf},
                                     std::pair{"gelu_pytorch_tanh", Activation::kGeluTanh},
                                     std::pair{"gelu_python_tanh", Activation::kGeluTanh},
                                     std::pair{"gelu_fast", Activation::kGeluTanh},
                                     std::pair{"gelu_accurate", Activation::kGeluTanh},
                                     std::pair{"gelu_python", Activation::kGeluErf}};

Activation read_activation(const Json& json, const std::string& where) {
  if (present_key(json, "activation_function", nullptr).empty()) return Activation::kGeluTanh;
  const std::string name = json_string(json, "activation_function", where);
  for (const auto& [known, activation] : kActivations) {
    if (name == known) return activation;
  }
  fail(ErrorKind::kUnsupported,
       "{}: activation_function is {:.40}, implemented are gelu_new and gelu and their other names",
       where, name);
}

void refuse_unimplemented(const Json& json, const std::string& where) {
  require_bool(json, "scale_attn_weights", true, where);
  for (const char* key :
       {"scale_attn_by_inverse_layer_idx", "add_cross_attention", "is_encoder_decoder"}) {
    require_bool(json, key, false, where);
  }
  // The setting changes the order and precision of scores; here scores are f32 either way.
  read_bool(json, "reorder_and_upcast_attn", false, where);
}

ModelConfig parse_gpt2_config(const Json& json, const std::string& where) {
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
  return config;
}

}  // namespace

ModelConfig parse_model_config(const Json& json, const std::string& where) {
  QALOF_CHECK(json.is_object(), ErrorKind::kBadInput, "{}: found {}, expected an object", where,
              json.type_name());
  const std::string type = json_string(json, "model_type", where);
  QALOF_CHECK(type == "gpt2" || type == "llama", ErrorKind::kUnsupported,
              "{}: model_type is {:.40}, implemented are gpt2 and llama", where, type);
  QALOF_CHECK(present_key(json, "quantization_config", nullptr).empty(), ErrorKind::kUnsupported,
              "{}: quantization_config is given; a base with float weights is needed", where);
  return type == "gpt2" ? parse_gpt2_config(json, where) : parse_llama_config(json, where);
}

void set_lm_head(ModelConfig& config, LmHead head) {
  const bool is_tied = head == LmHead::kTied;
  if (is_tied != (config.lm_head == LmHead::kTied)) config.raw["tie_word_embeddings"] = is_tied;
  config.lm_head = head;
}

Json named_model_config(const std::string& model_type, const std::string& size) {
  QALOF_CHECK(model_type == "gpt2" || model_type == "llama", ErrorKind::kUsage,
              "--model_type: found {:.40}, expected gpt2 or llama", model_type);
  if (model_type == "llama") {
    if (std::optional<Json> json = named_llama_config(size)) return *json;
    fail(ErrorKind::kUsage, "--size: found {:.40}, expected one of 135M, 1B, nano", size);
  }
  struct Size {
    const char* name;
    int layers, heads, hidden, positions, vocab;
  };
  constexpr std::array<Size, 5> kSizes = {
      Size{"124M", 12, 12, 768, 1024, 50257}, Size{"355M", 24, 16, 1024, 1024, 50257},
      Size{"774M", 36, 20, 1280, 1024, 50257}, Size{"1.5B", 48, 25, 1600, 1024, 50257},
      Size{"nano", 4, 4, 128, 256, 1024}};
  for (const Size& known : kSizes) {
    if (size != known.name) continue;
    return {{"model_type", "gpt2"},
            {"architectures", {"GPT2ForQuestionAnswering"}},
            {"vocab_size", known.vocab},
            {"n_positions", known.positions},
            {"n_ctx", known.positions},
            {"n_embd", known.hidden},
            {"n_layer", known.layers},
            {"n_head", known.heads},
            {"activation_function", "gelu_new"},
            {"layer_norm_epsilon", 1e-5},
            {"initializer_range", 0.02},
            {"bos_token_id", known.vocab - 1},
            {"eos_token_id", known.vocab - 1},
            {"resid_pdrop", 0.0},
            {"embd_pdrop", 0.0},
            {"attn_pdrop", 0.0}};
  }
  std::vector<std::string> names;
  names.reserve(kSizes.size());
  for (const Size& known : kSizes) names.emplace_back(known.name);
  fail(ErrorKind::kUsage, "--size: found {:.40}, expected one of {}", size, fmt::join(names, ", "));
}

}  // namespace qalof::model
