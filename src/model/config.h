// The structure of a decoder: sizes, kinds of layers, names of tensors. Data only: one forward pass
// reads it for every model family.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "quant/plan.h"

namespace qalof::model {

enum class Family { kGpt2, kLlama };
enum class NormKind { kLayer, kRms };
enum class Activation { kGeluTanh, kGeluErf, kSwiGlu };
/// The source of a decoder's LM logits.
enum class LmHead {
  kTied,  // the token embedding
  kOwn,   // a matrix of its own
  kNone   // none: a classifier or span model
};
/// The name of the LM head's own matrix in files.
inline constexpr const char* kLmHeadTensor = "lm_head.weight";

/// Rotary positions (docs/numerics.md, "Rotary positions").
struct RotaryPositions {
  /// Llama 3: frequencies of wavelengths above original_positions / low are divided by the whole
  /// factor, those below original_positions / high are unchanged, with a gradual transition
  /// between.
  struct ByWavelength {
    float low = 1, high = 4;
    std::size_t original_positions = 8192;
  };
  float theta = 10000;
  float factor = 1;  // frequencies are divided by it
  std::optional<ByWavelength> by_wavelength;
};

struct ModelConfig {
  Family family = Family::kGpt2;
  NormKind norm = NormKind::kLayer;
  Activation activation = Activation::kGeluTanh;
  std::optional<RotaryPositions> rotary;  // none: learned position embeddings
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
  std::vector<std::int64_t> eos_token_ids = {50256};  // any of them ends a text; at least one
  LmHead lm_head = LmHead::kTied;                     // from the config; the tensors present decide
  bool has_dropout = false;  // the file asks for dropout, which is ignored with a warning
  Json raw;                  // all keys of the file, kept on saving

  std::size_t head_dim() const { return hidden / num_heads; }
  std::size_t kv_width() const { return num_kv_heads * head_dim(); }
};

/// Parses a Hugging Face config.json (GPT-2 and its aliases, Llama). Values that are not
/// implemented are refused by name (Error{kUnsupported}); out-of-range ones are Error{kBadInput}.
/// where is the file's path.
ModelConfig parse_model_config(const Json& json, const std::string& where);
/// Sets the source of LM logits, in config.raw too, so that a saved copy agrees.
void set_lm_head(ModelConfig& config, LmHead head);
/// The config.json of a named size (e.g. "124M") of a family ("gpt2", "llama"); Error{kUsage} lists
/// the known ones.
Json named_model_config(const std::string& model_type, const std::string& size);

/// Rotary frequencies [head_dim / 2]: pair i is rotated by the angle position * frequency i.
std::vector<float> rotary_frequencies(const ModelConfig& config);

/// The role of a linear in a layer.
enum class LinearRole { kQkv, kQ, kK, kV, kAttentionOut, kGate, kUp, kDown };
/// A linear. Within a layer, linears are listed in the order in which they run.
struct LinearSpec {
  std::string name;  // "h.0.attn.c_attn"
  std::size_t in = 0, out = 0;
  std::size_t layer = 0;
  bool conv1d = false;  // stored [in, out] in Hugging Face files
  bool bias = false;
  LinearRole role = LinearRole::kQkv;

  /// The name without the layer prefix: "attn.c_attn" of "h.0.attn.c_attn".
  const char* name_in_layer() const {
    return name.c_str() + name.find('.', name.find('.') + 1) + 1;
  }
};
/// All linears in forward order.
std::vector<LinearSpec> linears(const ModelConfig& config);
/// The linears of a layer by step, as indices into linears().
struct LayerSteps {
  std::vector<std::size_t> attention_in;  // one that gives q, k and v, or three
  std::size_t attention_out = 0;
  std::vector<std::size_t> mlp_in;  // one, or gate and up
  std::size_t mlp_out = 0;
};
/// The steps of every layer, [num_layers].
std::vector<LayerSteps> layer_steps(const ModelConfig& config);
quant::PlanTarget plan_target(const ModelConfig& config);

/// Names of a decoder's tensors without prefix; norms without ".weight" and ".bias".
struct TensorNames {
  std::string token_embedding;     // "wte.weight"
  std::string position_embedding;  // "wpe.weight"; empty where positions are rotary
  std::string final_norm;
  std::vector<std::string> attention_norms, mlp_norms;  // [layer]
};
TensorNames tensor_names(const ModelConfig& config);
/// Model classes of transformers, by the head on the decoder.
enum class ModelClass { kCausalLm, kQuestionAnswering, kSequenceClassification };
/// The prefix of tensor names in files of transformers: "transformer." or "model.".
std::string decoder_prefix(const ModelConfig& config, ModelClass model_class);
/// The class name of a family: "GPT2ForQuestionAnswering".
std::string architecture(const ModelConfig& config, ModelClass model_class);

/// One tensor a model directory must hold.
struct TensorSpec {
  std::string name;                // without prefix: "h.0.ln_1.weight"
  std::vector<std::size_t> shape;  // as in the file
};
std::vector<TensorSpec> expected_tensors(const ModelConfig& config);
/// The embeddings among expected_tensors.
std::vector<TensorSpec> embedding_tensors(const ModelConfig& config);
/// Tensors with a row per token or position: the embeddings, and the LM head's matrix where it has
/// its own.
std::vector<TensorSpec> row_tensors(const ModelConfig& config);
/// All tensors of a decoder: expected_tensors, and the LM head's matrix where it has its own.
std::vector<TensorSpec> stored_tensors(const ModelConfig& config);
/// The LM head's own matrix.
TensorSpec lm_head_tensor(const ModelConfig& config);
/// Number of parameters of the decoder and its LM head (tied: counted once).
std::size_t parameter_count(const ModelConfig& config);

}  // namespace qalof::model
