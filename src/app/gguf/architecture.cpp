// The table of GGUF architectures, the names of their tensors, and the order of their rows.
#include "app/gguf/architecture.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "weights/transpose.h"

namespace qalof::app {

namespace {

using model::Activation;

constexpr std::array<GgufArchitecture, 8> kArchitectures = {{
    {.name = "gpt2",
     .model_type = "gpt2",
     .activation = Activation::kGeluTanh,
     .takes_out_bias = true},
    {.name = "llama",
     .model_type = "llama",
     .activation = Activation::kSwiGlu,
     .interleaves_rows = true,
     .takes_out_bias = true,
     .takes_head_dim = true,
     .takes_factors = true},
    {.name = "qwen2", .model_type = "qwen2", .activation = Activation::kSwiGlu},
    {.name = "qwen3",
     .model_type = "qwen3",
     .activation = Activation::kSwiGlu,
     .takes_head_dim = true},
    {.name = "gemma2",
     .model_type = "gemma2",
     .activation = Activation::kGeGluTanh,
     .takes_head_dim = true,
     .has_windows = true,
     .window_period = 2,
     .norm_offset = 1,
     .layers_of_wide_scale = 46,
     .has_score_cap = true,
     .has_logit_cap = true,
     .takes_logit_cap = true},
    {.name = "gemma3",
     .model_type = "gemma3_text",
     .activation = Activation::kGeGluTanh,
     .takes_head_dim = true,
     .has_windows = true,
     .window_period = 6,
     .norm_offset = 1,
     .layers_of_wide_scale = 62,
     .takes_logit_cap = true},
    {.name = "phi3",
     .model_type = "phi3",
     .activation = Activation::kSwiGlu,
     .is_partly_rotary = true},
    {.name = "smollm3",
     .model_type = "smollm3",
     .activation = Activation::kSwiGlu,
     .interleaves_rows = true,
     .takes_head_dim = true,
     .rotary_interval = 4},
}};

// Families whose files are those of another one's architecture.
constexpr std::array kOtherFamilies = {std::pair{"mistral", "llama"},
                                       std::pair{"gemma3", "gemma3_text"}};

const char* linear_name(model::LinearRole role) {
  switch (role) {
    case model::LinearRole::kQkv:
      return "attn_qkv";
    case model::LinearRole::kQ:
      return "attn_q";
    case model::LinearRole::kK:
      return "attn_k";
    case model::LinearRole::kV:
      return "attn_v";
    case model::LinearRole::kAttentionOut:
      return "attn_output";
    case model::LinearRole::kGate:
      return "ffn_gate";
    case model::LinearRole::kGateUp:
    case model::LinearRole::kUp:
      return "ffn_up";
    case model::LinearRole::kDown:
      break;
  }
  return "ffn_down";
}

// Refuses what the architecture lacks; each sentence names the part.
class Suitability {
 public:
  Suitability(const GgufArchitecture& architecture, const model::ModelConfig& config,
              const std::string& where)
      : architecture_(architecture), config_(config), where_(where) {}

  void check() const {
    need(config_.activation == architecture_.activation, "has another activation");
    const bool has_bias = config_.has_attention_out_bias || config_.has_mlp_bias;
    need(!has_bias || architecture_.takes_out_bias, "has no biases of attention output and MLP");
    need(config_.q_width() == config_.hidden || architecture_.takes_head_dim,
         "has heads of hidden / heads numbers alone");
    need(config_.score_cap == 0 || architecture_.has_score_cap, "has no cap of attention scores");
    need(config_.score_cap != 0 || !architecture_.has_score_cap,
         "always caps attention scores (attn_logit_softcapping)");
    need(config_.logit_cap == 0 || architecture_.takes_logit_cap, "has no cap of logits");
    need(config_.logit_cap != 0 || !architecture_.has_logit_cap,
         "always caps logits (final_logit_softcapping)");
    if (config_.rotary) check_rotary(*config_.rotary);
    for (std::size_t layer = 0; layer < config_.num_layers; ++layer) {
      const bool has_rotary = config_.rotary_at(layer) != nullptr;
      const std::size_t interval = architecture_.rotary_interval;
      need(has_rotary == (config_.rotary && (interval == 0 || (layer + 1) % interval != 0)),
           "has positions in other layers");
    }
  }

 private:
  void need(bool holds, const char* what) const {
    QALOF_CHECK(holds, ErrorKind::kUnsupported,
                "{}: {} models in GGUF files are those of llama.cpp, which {} there", where_,
                architecture_.name, what);
  }
  void check_rotary(const model::RotaryPositions& rotary) const {
    need(rotary.dims == 0 || rotary.dims == config_.head_dim() || architecture_.is_partly_rotary,
         "turns all numbers of a head");
    need(!rotary.by_wavelength || architecture_.takes_factors, "lacks the scaling of Llama 3");
    need(!rotary.by_length || architecture_.is_partly_rotary, "lacks LongRoPE");
    const bool is_usual = !rotary.yarn || (rotary.yarn->fast == 32 && rotary.yarn->slow == 1 &&
                                           rotary.yarn->truncates);
    need(is_usual, "has YaRN with beta_fast 32, beta_slow 1 and truncate alone");
    if (!config_.sliding_rotary) return;
    const model::RotaryPositions& sliding = *config_.sliding_rotary;
    need(sliding.factor == 1 && !sliding.by_wavelength && !sliding.yarn && !sliding.by_length &&
             sliding.grows_beyond == 0,
         "does not scale positions in layers with a window");
  }

  const GgufArchitecture& architecture_;
  const model::ModelConfig& config_;
  const std::string& where_;
};

// Row of theirs that holds row of ours: theirs pairs neighbouring rows of a head, ours those half a
// head apart.
std::size_t their_row(std::size_t row, std::size_t head_rows) {
  const std::size_t half = head_rows / 2, in_head = row % head_rows;
  return row / head_rows * head_rows + in_head % half * 2 + in_head / half;
}

// The values in their order that scale multiplies; empty where it changes none.
std::span<float> scaled_part(const GgufTensorMap& map, std::vector<float>& values) {
  if (map.scale == 1) return {};
  const std::size_t rows = map.their_shape()[0];
  const std::size_t scaled = map.scaled_rows == 0 ? rows : map.scaled_rows;
  return std::span(values).first(values.size() / rows * scaled);
}

std::vector<float> transposed_values(const std::vector<float>& values, std::size_t rows) {
  return weights::transposed(values, rows, values.size() / rows);
}

std::vector<float> with_rows_moved(const GgufTensorMap& map, const std::vector<float>& values,
                                   bool to_theirs) {
  const std::size_t cols = values.size() / map.shape[0], head_rows = map.shape[0] / map.heads;
  std::vector<float> result(values.size());
  for (std::size_t row = 0; row < map.shape[0]; ++row) {
    const std::size_t other = their_row(row, head_rows);
    const std::size_t from = to_theirs ? row : other, to = to_theirs ? other : row;
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(from * cols), cols,
                result.begin() + static_cast<std::ptrdiff_t>(to * cols));
  }
  return result;
}

}  // namespace

std::span<const GgufArchitecture> gguf_architectures() { return kArchitectures; }

const GgufArchitecture* find_gguf_architecture(std::string_view name) {
  for (const GgufArchitecture& architecture : kArchitectures) {
    if (name == architecture.name) return &architecture;
  }
  return nullptr;
}

const GgufArchitecture& choose_gguf_architecture(const model::ModelConfig& config,
                                                 const std::string& where) {
  std::string_view type = config.model_type;
  for (const auto& [family, same_as] : kOtherFamilies) {
    if (type == family) type = same_as;
  }
  for (const GgufArchitecture& architecture : kArchitectures) {
    if (type != architecture.model_type) continue;
    Suitability(architecture, config, where).check();
    return architecture;
  }
  fail(ErrorKind::kUnsupported, "{}: model_type {} has no architecture in GGUF files here", where,
       config.model_type);
}

float gguf_score_scale(const GgufArchitecture& architecture, const model::ModelConfig& config) {
  const bool is_wide = architecture.layers_of_wide_scale != 0 &&
                       config.num_layers == architecture.layers_of_wide_scale;
  const std::size_t divisor = is_wide ? config.hidden / config.num_heads : config.head_dim();
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(divisor)));
}

std::vector<std::size_t> GgufTensorMap::their_shape() const {
  std::vector<std::size_t> extents = shape;
  if (is_transposed) std::reverse(extents.begin(), extents.end());
  return extents;
}

std::vector<GgufTensorMap> gguf_tensor_maps(const GgufArchitecture& architecture,
                                            const model::ModelConfig& config) {
  const model::TensorNames names = model::tensor_names(config);
  std::vector<GgufTensorMap> maps;
  const auto add = [&maps](std::string ours, std::string theirs,
                           std::vector<std::size_t> shape) -> GgufTensorMap& {
    return maps.emplace_back(GgufTensorMap{
        .name = std::move(ours), .theirs = std::move(theirs), .shape = std::move(shape)});
  };
  const auto add_norm = [&](const std::string& ours, const std::string& theirs, std::size_t size) {
    if (config.norm == model::NormKind::kLayer) add(ours + ".bias", theirs + ".bias", {size});
    GgufTensorMap& gain = add(ours + ".weight", theirs + ".weight", {size});
    gain.offset = architecture.norm_offset;
    return &gain;
  };
  // Scores are products with q, so that another factor of them is one of q.
  const auto q_factor = [&](std::size_t layer) {
    return config.score_scale(layer) / gguf_score_scale(architecture, config);
  };
  add(names.token_embedding, "token_embd.weight", {config.vocab_size, config.hidden}).is_matrix =
      true;
  if (!names.position_embedding.empty())
    add(names.position_embedding, "position_embd.weight", {config.max_positions, config.hidden});
  const std::vector<model::LinearSpec> linears = model::linears(config);
  const std::vector<model::LayerSteps> steps = model::layer_steps(config);
  const auto add_linear = [&](std::size_t index) {
    const model::LinearSpec& spec = linears[index];
    const std::string theirs = fmt::format("blk.{}.{}", spec.layer, linear_name(spec.role));
    const bool is_q = spec.role == model::LinearRole::kQ, is_k = spec.role == model::LinearRole::kK,
               is_v = spec.role == model::LinearRole::kV,
               is_fused = spec.role == model::LinearRole::kQkv;
    const auto set = [&](GgufTensorMap& map) {
      if (architecture.interleaves_rows && (is_q || is_k))
        map.heads = is_q ? config.num_heads : config.num_kv_heads;
      if ((is_q || is_fused) && !config.has_qk_norms) map.scale = q_factor(spec.layer);
      if (is_fused) map.scaled_rows = config.q_width();
      if (is_k) map.fused_rows = config.q_width();
      if (is_v) map.fused_rows = config.q_width() + config.kv_width();
    };
    GgufTensorMap& weight =
        add(spec.name + ".weight", theirs + ".weight",
            spec.conv1d ? std::vector{spec.in, spec.out} : std::vector{spec.out, spec.in});
    weight.is_transposed = spec.conv1d;
    weight.is_matrix = true;
    set(weight);
    if (spec.bias) set(add(spec.name + ".bias", theirs + ".bias", {spec.out}));
  };
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string block = fmt::format("blk.{}.", layer);
    add_norm(names.attention_norms[layer], block + "attn_norm", config.hidden);
    for (const std::size_t index : steps[layer].attention_in) add_linear(index);
    if (config.has_qk_norms) {
      add_norm(names.q_norms[layer], block + "attn_q_norm", config.head_dim())->scale =
          q_factor(layer);
      add_norm(names.k_norms[layer], block + "attn_k_norm", config.head_dim());
    }
    add_linear(steps[layer].attention_out);
    if (config.has_out_norms)
      add_norm(names.attention_out_norms[layer], block + "post_attention_norm", config.hidden);
    add_norm(names.mlp_norms[layer], block + "ffn_norm", config.hidden);
    for (const std::size_t index : steps[layer].mlp_in) add_linear(index);
    add_linear(steps[layer].mlp_out);
    if (config.has_out_norms)
      add_norm(names.mlp_out_norms[layer], block + "post_ffw_norm", config.hidden);
  }
  add_norm(names.final_norm, "output_norm", config.hidden);
  if (config.lm_head == model::LmHead::kOwn) {
    add(model::kLmHeadTensor, "output.weight", model::lm_head_tensor(config).shape).is_matrix =
        true;
  }
  return maps;
}

std::vector<float> values_to_gguf(const GgufTensorMap& map, std::vector<float> values) {
  if (map.is_transposed) values = transposed_values(values, map.shape[0]);
  if (map.heads != 0) values = with_rows_moved(map, values, /*to_theirs=*/true);
  // A gain without offset keeps the sign of a zero.
  if (map.offset != 0)
    for (float& value : values) value += map.offset;
  for (float& value : scaled_part(map, values)) value *= map.scale;
  return values;
}

std::vector<float> values_from_gguf(const GgufTensorMap& map, std::vector<float> values) {
  for (float& value : scaled_part(map, values)) value /= map.scale;
  for (float& value : values) value -= map.offset;
  if (map.heads != 0) values = with_rows_moved(map, values, /*to_theirs=*/false);
  if (map.is_transposed) values = transposed_values(values, map.shape[1]);
  return values;
}

}  // namespace qalof::app
