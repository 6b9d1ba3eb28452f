// The table of model families: for each model_type of config.json the names in its files, the
// defaults of its keys, and which parts its layers have. Internal to src/model.
//
// A family that differs from these in data alone is a new entry; nothing else names a family.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "model/config.h"

namespace qalof::model {

struct FamilyLinear {
  LinearRole role;
  const char* name;  // within a layer
};

/// Names in a family's files.
struct FamilyNames {
  const char* prefix = "model.";       // of the decoder inside a model of transformers
  const char* span_prefix = "model.";  // of the decoder inside a question-answering model
  const char* layer = "layers.";
  const char* attention_norm = "input_layernorm";
  const char* mlp_norm = "post_attention_layernorm";
  const char* attention_out_norm = "";  // "" where there is none
  const char* mlp_out_norm = "";
  const char* q_norm = "self_attn.q_norm";  // where the config has norms of q and k
  const char* k_norm = "self_attn.k_norm";
  const char* token_embedding = "embed_tokens";
  const char* position_embedding = "";  // "" where positions are rotary
  const char* final_norm = "norm";
  bool conv1d = false;  // linears are stored [in, out]
  std::span<const FamilyLinear> linears;
};

/// Which layers see only a window, where config.json has no list of layer types.
enum class WindowRule {
  kNone,          // the family has no windows
  kAll,           // every layer, where sliding_window is given
  kFromLayer,     // those from max_window_layers on, where use_sliding_window is true
  kAllButNth,     // all but every n-th, n being sliding_window_pattern
  kWithoutRotary  // those without positions, where use_sliding_window is true
};
/// Which attention linears have a bias.
enum class BiasRule {
  kNone,
  kQkv,   // q, k and v
  kByKey  // all, where attention_bias is true
};

/// Defaults of keys (those of transformers) and parts of the layers of families with rotary
/// positions.
struct DecoderTraits {
  std::size_t vocab = 32000, positions = 2048, hidden = 4096, layers = 32, heads = 32;
  std::size_t kv_heads = 0;  // 0: as many as heads
  std::size_t head_dim = 0;  // 0: hidden / heads
  std::size_t inner = 11008;
  float epsilon = 1e-6F;
  bool is_tied = false;
  std::int64_t bos = -1, eos = -1;  // -1: none
  float theta = 10000;
  float sliding_theta = 0;  // 0: layers with a window have the same rotary positions
  const char* activation_key = "hidden_act";
  const char* activation = "silu";
  BiasRule bias = BiasRule::kNone;
  bool has_mlp_bias_key = false;
  WindowRule window_rule = WindowRule::kNone;
  std::size_t window = 0;         // default of sliding_window; 0: null
  std::size_t window_period = 0;  // default of sliding_window_pattern
  bool has_qk_norms = false, has_out_norms = false;
  float norm_offset = 0;
  bool scales_embedding = false;       // by sqrt(hidden)
  std::size_t score_scalar = 0;        // default of query_pre_attn_scalar; 0: no such key
  bool caps_scores = false;            // attn_logit_softcapping counts
  float score_cap = 0, logit_cap = 0;  // defaults of the soft caps
  bool has_logit_cap_key = false;
  bool is_partly_rotary = false;       // partial_rotary_factor counts
  bool is_longrope_alone = false;      // "su" and "yarn" are old names of longrope
  std::size_t original_positions = 0;  // default of original_max_position_embeddings; 0: none
  std::size_t rotary_interval =
      0;  // default of no_rope_layer_interval; 0: all layers have positions
};

struct Family;
using ParseFamily = ModelConfig (*)(const Json&, const Family&, const std::string& where);

struct Family {
  const char* model_type;
  const char* classes;   // "Llama" of LlamaForCausalLM
  const char* lm_class;  // "ForCausalLM"
  ParseFamily parse;
  FamilyNames names;
  DecoderTraits traits;  // not for GPT-2
};

std::span<const Family> families();
/// Null for a model_type that is not in the table.
const Family* find_family(const std::string& model_type);
/// The family of a parsed config.
const Family& family_of(const ModelConfig& config);

ModelConfig parse_gpt2_config(const Json& json, const Family& family, const std::string& where);
/// For every family with rotary positions.
ModelConfig parse_decoder_config(const Json& json, const Family& family, const std::string& where);
/// For the text part of a model of several parts, which `text_config` describes.
ModelConfig parse_inner_config(const Json& json, const Family& family, const std::string& where);
/// Sets rotary and sliding_rotary from rope_parameters, or rope_scaling and rope_theta of older
/// files; head_size and max_positions must be set.
void read_rotary(const Json& json, const DecoderTraits& traits, const std::string& where,
                 ModelConfig& config);

}  // namespace qalof::model
