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

enum class NormKind { kLayer, kRms };
/// The MLP's activation. The last three multiply it, of the gate, with a second product (up).
enum class Activation { kGeluTanh, kGeluErf, kSwiGlu, kGeGluTanh, kGeGluErf };
/// The source of a decoder's LM logits.
enum class LmHead {
  kTied,  // the token embedding
  kOwn,   // a matrix of its own
  kNone   // none: a classifier or span model
};
/// The name of the LM head's own matrix in files.
inline constexpr const char* kLmHeadTensor = "lm_head.weight";

/// Rotary positions and what scales them (docs/numerics.md, "Rotary positions"). At most one of
/// by_wavelength, yarn, by_length and grows_beyond is set.
struct RotaryPositions {
  /// Llama 3: frequencies of wavelengths above original_positions / low are divided by the whole
  /// factor, those below original_positions / high are unchanged, with a gradual transition
  /// between.
  struct ByWavelength {
    float low = 1, high = 4;
    std::size_t original_positions = 8192;
  };
  /// YaRN (Peng et al. 2023): frequencies that turn fewer than slow times in original_positions are
  /// divided by the whole factor, those that turn more than fast times are unchanged.
  struct Yarn {
    float fast = 32, slow = 1;
    std::size_t original_positions = 4096;
    bool truncates = true;  // the bounds are whole pairs
  };
  /// LongRoPE (Ding et al. 2024): frequencies are divided by factors of their own, [dims / 2]:
  /// those of short sequences up to original_positions, those of long ones above.
  struct ByLength {
    std::vector<float> short_factors, long_factors;
    std::size_t original_positions = 4096;
  };
  float theta = 10000;
  std::size_t dims = 0;    // leading numbers of a head that turn; 0: all
  float factor = 1;        // frequencies are divided by it
  double table_scale = 1;  // cosines and sines are multiplied by it
  std::optional<ByWavelength> by_wavelength;
  std::optional<Yarn> yarn;
  std::optional<ByLength> by_length;
  // Dynamic scaling: theta grows with a sequence that is longer than this; 0: never.
  std::size_t grows_beyond = 0;

  /// The length that frequencies depend on: equal for lengths with equal frequencies.
  std::size_t scaling_length(std::size_t length) const;
};

/// How one layer attends.
struct LayerAttention {
  std::size_t window = 0;    // a token sees this many tokens up to itself; 0: all
  bool has_rotary = true;    // false: no positions in this layer
  float score_scale = 0.0F;  // factor of q k; 0: 1 / sqrt(head_dim)
};

struct ModelConfig {
  std::string model_type = "gpt2";  // of the table of families (families.h)
  NormKind norm = NormKind::kLayer;
  Activation activation = Activation::kGeluTanh;
  float norm_offset = 0;       // a norm's gain is its stored weight plus this
  bool has_qk_norms = false;   // RMS norms of each head of q and k, before rotary positions
  bool has_out_norms = false;  // norms of what attention and MLP add to the residual
  bool has_qkv_bias = true, has_attention_out_bias = true, has_mlp_bias = true;
  float embedding_scale = 1;  // token embeddings are multiplied by it
  float score_cap = 0;        // attention scores become cap tanh(score / cap); 0: they stay
  float logit_cap = 0;        // the same for LM logits
  std::optional<RotaryPositions> rotary;          // none: learned position embeddings
  std::optional<RotaryPositions> sliding_rotary;  // of layers with a window, where they differ
  std::vector<LayerAttention> attention;          // [layer], or empty: all are default
  std::size_t vocab_size = 50257;
  std::size_t max_positions = 1024;
  std::size_t hidden = 768;
  std::size_t num_layers = 12;
  std::size_t num_heads = 12;
  std::size_t num_kv_heads = 12;
  std::size_t head_size = 0;  // 0: hidden / num_heads
  std::size_t inner = 3072;
  float norm_epsilon = 1e-5F;
  float initializer_range = 0.02F;
  std::int64_t bos_token_id = 50256;
  std::vector<std::int64_t> eos_token_ids = {50256};  // any of them ends a text; may be empty
  LmHead lm_head = LmHead::kTied;                     // from the config; the tensors present decide
  bool has_dropout = false;  // the file asks for dropout, which is ignored with a warning
  Json raw;                  // all keys of the file, kept on saving

  std::size_t head_dim() const { return head_size != 0 ? head_size : hidden / num_heads; }
  std::size_t q_width() const { return num_heads * head_dim(); }
  std::size_t kv_width() const { return num_kv_heads * head_dim(); }
  /// Width of q, k and v together.
  std::size_t qkv_width() const { return q_width() + 2 * kv_width(); }
  bool is_gated() const {
    return activation != Activation::kGeluTanh && activation != Activation::kGeluErf;
  }
  std::size_t window(std::size_t layer) const {
    return attention.empty() ? 0 : attention[layer].window;
  }
  /// The factor of a layer's attention scores.
  float score_scale(std::size_t layer) const;
  /// The rotary positions of a layer; null where it has none.
  const RotaryPositions* rotary_at(std::size_t layer) const {
    if (!rotary || (!attention.empty() && !attention[layer].has_rotary)) return nullptr;
    return sliding_rotary && window(layer) != 0 ? &*sliding_rotary : &*rotary;
  }
  bool uses_sliding_rotary(std::size_t layer) const {
    return sliding_rotary && rotary_at(layer) == &*sliding_rotary;
  }
  /// Equal for lengths at which all layers have equal frequencies; 0 for short sequences.
  std::size_t scaling_length(std::size_t length) const;
  /// Tokens of the longest sequence: max_positions, more where dynamic scaling continues them.
  std::size_t max_length() const;
};

/// Parses a Hugging Face config.json of a family of the table (families.h). Values that are not
/// implemented are refused by name (Error{kUnsupported}); out-of-range ones are Error{kBadInput}.
/// where is the file's path.
ModelConfig parse_model_config(const Json& json, const std::string& where);
/// Sets the source of LM logits, in config.raw too, so that a saved copy agrees.
void set_lm_head(ModelConfig& config, LmHead head);
/// The config.json of a named size of a family ("gpt2", "124M"); Error{kUsage} lists the known
/// ones.
Json named_model_config(const std::string& model_type, const std::string& size);
/// Names of all families, in the order of the table.
std::vector<std::string> model_types();
/// "gpt2: 124M, 355M; llama: 135M": the named sizes of every family.
std::string named_sizes_text();

/// Rotary frequencies [pairs] in a sequence of a length: pair i turns by position * frequency i.
std::vector<float> rotary_frequencies(const RotaryPositions& rotary, std::size_t head_dim,
                                      std::size_t length = 0);
/// Those of config.rotary in a short sequence.
std::vector<float> rotary_frequencies(const ModelConfig& config);
/// Pairs of numbers of a head that turn.
std::size_t rotary_pairs(const RotaryPositions& rotary, std::size_t head_dim);

/// The role of a linear in a layer.
enum class LinearRole { kQkv, kQ, kK, kV, kAttentionOut, kGateUp, kGate, kUp, kDown };
/// True for a linear that reads the norm before the MLP.
constexpr bool reads_mlp_norm(LinearRole role) {
  return role == LinearRole::kGateUp || role == LinearRole::kGate || role == LinearRole::kUp;
}
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
  std::vector<std::size_t> mlp_in;  // one (up, or gate and up in one), or gate and up
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
  // Norms that not all families have, [layer] or empty.
  std::vector<std::string> attention_out_norms, mlp_out_norms, q_norms, k_norms;
};
TensorNames tensor_names(const ModelConfig& config);
/// Model classes of transformers, by the head on the decoder.
enum class ModelClass { kCausalLm, kQuestionAnswering, kSequenceClassification };
/// The prefix of tensor names in files of transformers: "transformer." or "model.".
std::string decoder_prefix(const ModelConfig& config, ModelClass model_class);
/// The class name of a family: "GPT2ForQuestionAnswering"; of a class that transformers lacks, what
/// it would be.
std::string architecture(const ModelConfig& config, ModelClass model_class);

/// One tensor a model directory must hold.
struct TensorSpec {
  std::string name;                // without prefix: "h.0.ln_1.weight"
  std::vector<std::size_t> shape;  // as in the file
};
std::vector<TensorSpec> expected_tensors(const ModelConfig& config);
/// The weights and biases of norms among expected_tensors.
std::vector<TensorSpec> norm_tensors(const ModelConfig& config);
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
