// GPT-2 as data: its config.json, its linears and its tensors.
#include "model/config.h"

#include <array>
#include <limits>

#include "core/error.h"

namespace qalof::model {

namespace {

// Bounds that keep every product of sizes far from overflow and allocations honest.
constexpr std::int64_t kMaxVocab = 10'000'000;
constexpr std::int64_t kMaxLayers = 1024;
constexpr std::int64_t kMaxHidden = 65'536;
constexpr std::int64_t kMaxPositions = 1'000'000;
constexpr std::int64_t kMaxInner = 4 * kMaxHidden;
// Bytes of the largest model within these bounds in f32: both ends, positions and all layers.
static_assert(4.0 * kMaxHidden *
                  (2.0 * kMaxVocab + kMaxPositions +
                   kMaxLayers * (4.0 * kMaxHidden + 2.0 * kMaxInner)) <
              static_cast<double>(std::numeric_limits<std::int64_t>::max()));

// The key under which a value stands, its alias, or neither. Null counts as absent.
std::string present_key(const Json& json, const char* key, const char* alias) {
  if (key != nullptr && json.contains(key) && !json[key].is_null()) return key;
  if (alias != nullptr && json.contains(alias) && !json[alias].is_null()) return alias;
  return "";
}

std::size_t read_size(const Json& json, const char* key, const char* alias, std::size_t fallback,
                      std::int64_t max, const std::string& where) {
  const std::string found = present_key(json, key, alias);
  if (found.empty()) return fallback;
  const std::int64_t size = json_int(json, found, where, 1, max);
  if (found == key && !present_key(json, alias, nullptr).empty()) {
    const std::int64_t other = json_int(json, alias, where, 1, max);
    QALOF_CHECK(size == other, ErrorKind::kBadInput, "{}: {} is {} but its alias {} is {}", where,
                key, size, alias, other);
  }
  return static_cast<std::size_t>(size);
}

bool read_bool(const Json& json, const char* key, bool fallback, const std::string& where) {
  return present_key(json, key, nullptr).empty() ? fallback : json_bool(json, key, where);
}

// A positive float; checked after rounding, which may turn a tiny double into zero.
float read_float(const Json& json, const char* key, float fallback, float max,
                 const std::string& where) {
  if (present_key(json, key, nullptr).empty()) return fallback;
  const double value = json_number(json, key, where);
  QALOF_CHECK(static_cast<float>(value) > 0 && value <= max, ErrorKind::kBadInput,
              "{}: {} is {}, expected a number above 0 and at most {}", where, key, value, max);
  return static_cast<float>(value);
}

std::int64_t read_token(const Json& json, const char* key, std::int64_t fallback,
                        const std::string& where) {
  if (present_key(json, key, nullptr).empty()) return fallback;
  return json_int(json, key, where, 0, kMaxVocab);
}

void refuse_unimplemented(const Json& json, const std::string& where) {
  const std::string type = json_string(json, "model_type", where);
  QALOF_CHECK(type == "gpt2", ErrorKind::kUnsupported,
              "{}: model_type is {:.40}, implemented is gpt2", where, type);
  if (!present_key(json, "activation_function", nullptr).empty()) {
    const std::string activation = json_string(json, "activation_function", where);
    QALOF_CHECK(activation == "gelu_new" || activation == "gelu_pytorch_tanh",
                ErrorKind::kUnsupported,
                "{}: activation_function is {:.40}, implemented is gelu_new", where, activation);
  }
  struct Fixed {
    const char* key;
    bool implemented;
  };
  for (const Fixed& fixed :
       {Fixed{"scale_attn_weights", true}, Fixed{"scale_attn_by_inverse_layer_idx", false},
        Fixed{"reorder_and_upcast_attn", false}, Fixed{"add_cross_attention", false},
        Fixed{"is_encoder_decoder", false}}) {
    const bool value = read_bool(json, fixed.key, fixed.implemented, where);
    QALOF_CHECK(value == fixed.implemented, ErrorKind::kUnsupported,
                "{}: {} is {}, implemented is {}", where, fixed.key, value, fixed.implemented);
  }
  QALOF_CHECK(present_key(json, "quantization_config", nullptr).empty(), ErrorKind::kUnsupported,
              "{}: quantization_config is given; a base with float weights is needed", where);
}

}  // namespace

ModelConfig parse_model_config(const Json& json, const std::string& where) {
  QALOF_CHECK(json.is_object(), ErrorKind::kBadInput, "{}: found {}, expected an object", where,
              json.type_name());
  refuse_unimplemented(json, where);
  ModelConfig config;
  config.raw = json;
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
  config.eos_token_id = read_token(json, "eos_token_id", config.eos_token_id, where);
  config.tie_word_embeddings = read_bool(json, "tie_word_embeddings", true, where);
  for (const char* key : {"resid_pdrop", "embd_pdrop", "attn_pdrop"}) {
    if (present_key(json, key, nullptr).empty()) continue;
    const double value = json_number(json, key, where);
    QALOF_CHECK(value >= 0 && value < 1, ErrorKind::kBadInput,
                "{}: {} is {}, expected 0 or more and less than 1", where, key, value);
    config.has_dropout = config.has_dropout || value > 0;
  }
  return config;
}

Json named_model_config(const std::string& model_type, const std::string& size) {
  QALOF_CHECK(model_type == "gpt2", ErrorKind::kUsage, "--model_type: found {:.40}, expected gpt2",
              model_type);
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
  for (const Size& known : kSizes) names.emplace_back(known.name);
  fail(ErrorKind::kUsage, "--size: found {:.40}, expected one of {}", size, fmt::join(names, ", "));
}

std::vector<LinearSpec> linears(const ModelConfig& config) {
  std::vector<LinearSpec> specs;
  const std::size_t hidden = config.hidden;
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    auto add = [&](const char* name, std::size_t in, std::size_t out) {
      specs.push_back({fmt::format("h.{}.{}", layer, name), in, out, layer, /*conv1d=*/true});
    };
    add("attn.c_attn", hidden, 3 * hidden);
    add("attn.c_proj", hidden, hidden);
    add("mlp.c_fc", hidden, config.inner);
    add("mlp.c_proj", config.inner, hidden);
  }
  return specs;
}

quant::PlanTarget plan_target(const ModelConfig& config) {
  quant::PlanTarget target;
  for (const LinearSpec& spec : linears(config)) {
    target.linear_names.push_back(spec.name);
    target.linear_weights.push_back(spec.in * spec.out);
  }
  target.num_layers = config.num_layers;
  target.num_kv_heads = config.num_kv_heads;
  return target;
}

std::vector<TensorSpec> expected_tensors(const ModelConfig& config) {
  const std::size_t hidden = config.hidden;
  std::vector<TensorSpec> specs = {{"wte.weight", {config.vocab_size, hidden}},
                                   {"wpe.weight", {config.max_positions, hidden}}};
  auto add_norm = [&](const std::string& name) {
    specs.push_back({name + ".weight", {hidden}});
    specs.push_back({name + ".bias", {hidden}});
  };
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    add_norm(fmt::format("h.{}.ln_1", layer));
    add_norm(fmt::format("h.{}.ln_2", layer));
  }
  add_norm("ln_f");
  for (const LinearSpec& spec : linears(config)) {
    specs.push_back({spec.name + ".weight", {spec.in, spec.out}});
    specs.push_back({spec.name + ".bias", {spec.out}});
  }
  return specs;
}

std::size_t parameter_count(const ModelConfig& config) {
  std::size_t total = config.tie_word_embeddings ? 0 : config.vocab_size * config.hidden;
  for (const TensorSpec& spec : expected_tensors(config)) {
    std::size_t count = 1;
    for (const std::size_t extent : spec.shape) count *= extent;
    total += count;
  }
  return total;
}

}  // namespace qalof::model
