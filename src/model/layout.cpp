// Linears, tensors and names of each family's layers, in forward order.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "model/config_values.h"
#include "model/families.h"

namespace qalof::model {

namespace {

const FamilyNames& names_of(const ModelConfig& config) { return family_of(config).names; }

std::pair<std::size_t, std::size_t> linear_shape(const ModelConfig& config, LinearRole role) {
  const std::size_t hidden = config.hidden;
  switch (role) {
    case LinearRole::kQkv:
      return {hidden, config.qkv_width()};
    case LinearRole::kQ:
      return {hidden, config.q_width()};
    case LinearRole::kK:
    case LinearRole::kV:
      return {hidden, config.kv_width()};
    case LinearRole::kAttentionOut:
      return {config.q_width(), hidden};
    case LinearRole::kGateUp:
      return {hidden, 2 * config.inner};
    case LinearRole::kGate:
    case LinearRole::kUp:
      return {hidden, config.inner};
    case LinearRole::kDown:
      break;
  }
  return {config.inner, hidden};
}

bool has_bias(const ModelConfig& config, LinearRole role) {
  if (reads_mlp_norm(role) || role == LinearRole::kDown) return config.has_mlp_bias;
  return role == LinearRole::kAttentionOut ? config.has_attention_out_bias : config.has_qkv_bias;
}

std::string layer_name(const FamilyNames& names, std::size_t layer, const char* name) {
  return fmt::format("{}{}.{}", names.layer, layer, name);
}

}  // namespace

float ModelConfig::score_scale(std::size_t layer) const {
  const float own = attention.empty() ? 0.0F : attention[layer].score_scale;
  return own != 0 ? own : 1.0F / std::sqrt(static_cast<float>(head_dim()));
}

std::size_t ModelConfig::max_length() const {
  if (!rotary || rotary->grows_beyond == 0) return max_positions;
  const double most =
      static_cast<double>(max_positions) * static_cast<double>(std::max(rotary->factor, 1.0F));
  return static_cast<std::size_t>(std::min(most, static_cast<double>(kMaxPositions)));
}

std::vector<LinearSpec> linears(const ModelConfig& config) {
  const FamilyNames& names = names_of(config);
  std::vector<LinearSpec> specs;
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    for (const FamilyLinear& linear : names.linears) {
      const auto [in, out] = linear_shape(config, linear.role);
      specs.push_back({layer_name(names, layer, linear.name), in, out, layer, names.conv1d,
                       has_bias(config, linear.role), linear.role});
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
      case LinearRole::kGateUp:
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
    if (config.has_out_norms) {
      result.attention_out_norms.push_back(layer_name(names, layer, names.attention_out_norm));
      result.mlp_out_norms.push_back(layer_name(names, layer, names.mlp_out_norm));
    }
    if (config.has_qk_norms) {
      result.q_norms.push_back(layer_name(names, layer, names.q_norm));
      result.k_norms.push_back(layer_name(names, layer, names.k_norm));
    }
  }
  return result;
}

std::string decoder_prefix(const ModelConfig& config, ModelClass model_class) {
  const FamilyNames& names = names_of(config);
  return model_class == ModelClass::kQuestionAnswering ? names.span_prefix : names.prefix;
}

std::string architecture(const ModelConfig& config, ModelClass model_class) {
  const Family& family = family_of(config);
  switch (model_class) {
    case ModelClass::kQuestionAnswering:
      return fmt::format("{}ForQuestionAnswering", family.classes);
    case ModelClass::kSequenceClassification:
      return fmt::format("{}ForSequenceClassification", family.classes);
    case ModelClass::kCausalLm:
      break;
  }
  return fmt::format("{}{}", family.classes, family.lm_class);
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

std::vector<TensorSpec> norm_tensors(const ModelConfig& config) {
  const TensorNames names = tensor_names(config);
  std::vector<TensorSpec> specs;
  auto add_norm = [&](const std::string& name, std::size_t width) {
    specs.push_back({name + ".weight", {width}});
    if (config.norm == NormKind::kLayer) specs.push_back({name + ".bias", {width}});
  };
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    for (const auto* norms : {&names.attention_norms, &names.attention_out_norms, &names.mlp_norms,
                              &names.mlp_out_norms}) {
      if (!norms->empty()) add_norm((*norms)[layer], config.hidden);
    }
    for (const auto* norms : {&names.q_norms, &names.k_norms}) {
      if (!norms->empty()) add_norm((*norms)[layer], config.head_dim());
    }
  }
  add_norm(names.final_norm, config.hidden);
  return specs;
}

std::vector<TensorSpec> expected_tensors(const ModelConfig& config) {
  std::vector<TensorSpec> specs = embedding_tensors(config);
  for (TensorSpec& spec : norm_tensors(config)) specs.push_back(std::move(spec));
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
