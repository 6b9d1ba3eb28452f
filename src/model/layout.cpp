// Linears, tensors and names of each family's layers, in forward order.
#include <fmt/format.h>

#include <array>
#include <span>

#include "model/config.h"

namespace qalof::model {

namespace {

struct FamilyLinear {
  LinearRole role;
  const char* name;  // within a layer
};

constexpr std::array<FamilyLinear, 4> kGpt2Linears = {{{LinearRole::kQkv, "attn.c_attn"},
                                                       {LinearRole::kAttentionOut, "attn.c_proj"},
                                                       {LinearRole::kUp, "mlp.c_fc"},
                                                       {LinearRole::kDown, "mlp.c_proj"}}};
constexpr std::array<FamilyLinear, 7> kLlamaLinears = {
    {{LinearRole::kQ, "self_attn.q_proj"},
     {LinearRole::kK, "self_attn.k_proj"},
     {LinearRole::kV, "self_attn.v_proj"},
     {LinearRole::kAttentionOut, "self_attn.o_proj"},
     {LinearRole::kGate, "mlp.gate_proj"},
     {LinearRole::kUp, "mlp.up_proj"},
     {LinearRole::kDown, "mlp.down_proj"}}};

// All differences between the families' files.
struct FamilyNames {
  const char* prefix;       // of the decoder inside a model of transformers
  const char* span_prefix;  // of the decoder inside a question-answering model
  const char* layer;        // "h.{}."
  const char* attention_norm;
  const char* mlp_norm;
  const char* token_embedding;
  const char* position_embedding;  // "" where positions are rotary
  const char* final_norm;
  bool conv1d;  // linears are stored [in, out]
  bool biases;
  std::span<const FamilyLinear> linears;
};

const FamilyNames& names_of(const ModelConfig& config) {
  static const FamilyNames kGpt2 = {"transformer.", "transformer.", "h.",        "ln_1",
                                    "ln_2",         "wte",          "wpe",       "ln_f",
                                    true,           true,           kGpt2Linears};
  // transformers' question-answering class for Llama names its decoder "transformer".
  static const FamilyNames kLlama = {"model.",
                                     "transformer.",
                                     "layers.",
                                     "input_layernorm",
                                     "post_attention_layernorm",
                                     "embed_tokens",
                                     "",
                                     "norm",
                                     false,
                                     false,
                                     kLlamaLinears};
  return config.family == Family::kGpt2 ? kGpt2 : kLlama;
}

std::pair<std::size_t, std::size_t> linear_shape(const ModelConfig& config, LinearRole role) {
  const std::size_t hidden = config.hidden;
  switch (role) {
    case LinearRole::kQkv:
      return {hidden, hidden + 2 * config.kv_width()};
    case LinearRole::kK:
    case LinearRole::kV:
      return {hidden, config.kv_width()};
    case LinearRole::kGate:
    case LinearRole::kUp:
      return {hidden, config.inner};
    case LinearRole::kDown:
      return {config.inner, hidden};
    case LinearRole::kQ:
    case LinearRole::kAttentionOut:
      break;
  }
  return {hidden, hidden};
}

std::string layer_name(const FamilyNames& names, std::size_t layer, const char* name) {
  return fmt::format("{}{}.{}", names.layer, layer, name);
}

}  // namespace

std::vector<LinearSpec> linears(const ModelConfig& config) {
  const FamilyNames& names = names_of(config);
  std::vector<LinearSpec> specs;
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    for (const FamilyLinear& linear : names.linears) {
      const auto [in, out] = linear_shape(config, linear.role);
      specs.push_back({layer_name(names, layer, linear.name), in, out, layer, names.conv1d,
                       names.biases, linear.role});
    }
  }
  return specs;
}

std::vector<LayerSteps> layer_steps(const ModelConfig& config) {
  std::vector<LayerSteps> steps(config.num_layers);
  const std::vector<LinearSpec> specs = linears(config);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    LayerSteps& step = steps[specs[i].layer];
    switch (specs[i].role) {
      case LinearRole::kQkv:
      case LinearRole::kQ:
      case LinearRole::kK:
      case LinearRole::kV:
        step.attention_in.push_back(i);
        break;
      case LinearRole::kAttentionOut:
        step.attention_out = i;
        break;
      case LinearRole::kGate:
      case LinearRole::kUp:
        step.mlp_in.push_back(i);
        break;
      case LinearRole::kDown:
        step.mlp_out = i;
        break;
    }
  }
  return steps;
}

TensorNames tensor_names(const ModelConfig& config) {
  const FamilyNames& names = names_of(config);
  TensorNames result;
  result.token_embedding = fmt::format("{}.weight", names.token_embedding);
  if (*names.position_embedding != '\0')
    result.position_embedding = fmt::format("{}.weight", names.position_embedding);
  result.final_norm = names.final_norm;
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    result.attention_norms.push_back(layer_name(names, layer, names.attention_norm));
    result.mlp_norms.push_back(layer_name(names, layer, names.mlp_norm));
  }
  return result;
}

std::string decoder_prefix(const ModelConfig& config, ModelClass model_class) {
  const FamilyNames& names = names_of(config);
  return model_class == ModelClass::kQuestionAnswering ? names.span_prefix : names.prefix;
}

std::string architecture(const ModelConfig& config, ModelClass model_class) {
  const bool is_gpt2 = config.family == Family::kGpt2;
  switch (model_class) {
    case ModelClass::kQuestionAnswering:
      return is_gpt2 ? "GPT2ForQuestionAnswering" : "LlamaForQuestionAnswering";
    case ModelClass::kSequenceClassification:
      return is_gpt2 ? "GPT2ForSequenceClassification" : "LlamaForSequenceClassification";
    case ModelClass::kCausalLm:
      break;
  }
  return is_gpt2 ? "GPT2LMHeadModel" : "LlamaForCausalLM";
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

std::vector<TensorSpec> embedding_tensors(const ModelConfig& config) {
  const TensorNames names = tensor_names(config);
  std::vector<TensorSpec> specs = {{names.token_embedding, {config.vocab_size, config.hidden}}};
  if (!names.position_embedding.empty())
    specs.push_back({names.position_embedding, {config.max_positions, config.hidden}});
  return specs;
}

TensorSpec lm_head_tensor(const ModelConfig& config) {
  return {kLmHeadTensor, {config.vocab_size, config.hidden}};
}

std::vector<TensorSpec> row_tensors(const ModelConfig& config) {
  std::vector<TensorSpec> specs = embedding_tensors(config);
  if (config.lm_head == LmHead::kOwn) specs.push_back(lm_head_tensor(config));
  return specs;
}

std::vector<TensorSpec> expected_tensors(const ModelConfig& config) {
  const std::size_t hidden = config.hidden;
  const TensorNames names = tensor_names(config);
  std::vector<TensorSpec> specs = embedding_tensors(config);
  auto add_norm = [&](const std::string& name) {
    specs.push_back({name + ".weight", {hidden}});
    if (config.norm == NormKind::kLayer) specs.push_back({name + ".bias", {hidden}});
  };
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    add_norm(names.attention_norms[layer]);
    add_norm(names.mlp_norms[layer]);
  }
  add_norm(names.final_norm);
  for (const LinearSpec& spec : linears(config)) {
    specs.push_back({spec.name + ".weight", spec.conv1d ? std::vector{spec.in, spec.out}
                                                        : std::vector{spec.out, spec.in}});
    if (spec.bias) specs.push_back({spec.name + ".bias", {spec.out}});
  }
  return specs;
}

std::vector<TensorSpec> stored_tensors(const ModelConfig& config) {
  std::vector<TensorSpec> specs = expected_tensors(config);
  if (config.lm_head == LmHead::kOwn) specs.push_back(lm_head_tensor(config));
  return specs;
}

std::size_t parameter_count(const ModelConfig& config) {
  std::size_t total = 0;
  for (const TensorSpec& spec : stored_tensors(config)) {
    std::size_t count = 1;
    for (const std::size_t extent : spec.shape) count *= extent;
    total += count;
  }
  return total;
}

}  // namespace qalof::model
