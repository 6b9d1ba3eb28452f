// The architectures of GGUF files that stand for families of models: names, tensors, and what
// llama.cpp computes for each (docs/file_formats.md, "GGUF").
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"

namespace qalof::app {

/// An architecture, and the parts that its layers can have in llama.cpp.
struct GgufArchitecture {
  const char* name;        // general.architecture
  const char* model_type;  // the family that an imported file becomes
  model::Activation activation;
  bool interleaves_rows = false;  // rows of q and k alternate between the halves of a head
  bool takes_out_bias = false;    // of attention output and MLP
  bool takes_head_dim = false;    // heads may be wider or narrower than hidden / heads
  bool takes_factors = false;     // rope_freqs.weight divides the frequencies
  bool has_windows = false;       // otherwise every layer sees all tokens
  std::size_t window_period = 0;  // each n-th layer has no window
  float norm_offset = 0;          // gains are stored with it added
  // Layers from which on scores are divided by sqrt(hidden / heads) instead of sqrt(head_dim); 0:
  // never.
  std::size_t layers_of_wide_scale = 0;
  bool has_score_cap = false, has_logit_cap = false;  // present in every file
  bool takes_logit_cap = false;
  bool is_partly_rotary = false;
  std::size_t rotary_interval = 0;  // each n-th layer has no positions; 0: all have
};

/// All that are implemented.
std::span<const GgufArchitecture> gguf_architectures();
/// By general.architecture, or null.
const GgufArchitecture* find_gguf_architecture(std::string_view name);
/// The architecture that holds a model. Error{kUnsupported} naming the part of the model that
/// llama.cpp does not compute for it. where names the model in messages.
const GgufArchitecture& choose_gguf_architecture(const model::ModelConfig& config,
                                                 const std::string& where);
/// llama.cpp's factor of attention scores for a model of these sizes.
float gguf_score_scale(const GgufArchitecture& architecture, const model::ModelConfig& config);

/// A tensor in a Hugging Face directory and in a GGUF file.
struct GgufTensorMap {
  std::string name;                // ours, without prefix
  std::string theirs;              // "blk.0.attn_q.weight"
  std::vector<std::size_t> shape;  // ours, as in the directory
  bool is_transposed = false;      // ours is [in, out], theirs [out, in]
  std::size_t heads = 0;           // theirs alternates rows within so many heads; 0: as ours
  float offset = 0, scale = 1;     // theirs = (ours + offset) * scale
  std::size_t scaled_rows = 0;     // rows of theirs that scale multiplies, the first; 0: all
  bool is_matrix = false;          // a linear, an embedding or the LM head
  std::size_t fused_rows = 0;      // theirs may be rows of attn_qkv, from this one on

  std::vector<std::size_t> their_shape() const;
};
/// Every tensor of a model, in forward order.
std::vector<GgufTensorMap> gguf_tensor_maps(const GgufArchitecture& architecture,
                                            const model::ModelConfig& config);
/// Values of a tensor in the order and basis of a GGUF file, and back. The rows may have any
/// length, so that B of an adapter can be given as [out, rank] where is_transposed is cleared.
std::vector<float> values_to_gguf(const GgufTensorMap& map, std::vector<float> values);
std::vector<float> values_from_gguf(const GgufTensorMap& map, std::vector<float> values);

/// Tensors beside those of gguf_tensor_maps.
inline constexpr const char* kRopeFactors = "rope_freqs.weight";
inline constexpr const char* kRopeFactorsShort = "rope_factors_short.weight";
inline constexpr const char* kRopeFactorsLong = "rope_factors_long.weight";

}  // namespace qalof::app
