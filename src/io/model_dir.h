// A Hugging Face model directory as named tensors: one safetensors file or an index of shards,
// wrapper prefixes stripped. What the tensors mean is model/'s business.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "core/json.h"
#include "io/safetensors.h"

namespace qalof::io {

/// Movable; threads may share it.
class ModelDir {
 public:
  /// Throws Error{kNotFound}, {kCorruptFile}, {kBadInput} (a shard, mapping or name that
  /// contradicts another) or {kUnsupported} where only pickled weights are there. What is no model
  /// directory but another thing known here (an adapter directory, a GGUF file) is named as such.
  static ModelDir open(const std::string& path);

  const std::string& path() const { return path_; }
  std::string config_path() const { return path_ + "/config.json"; }
  /// config.json, with the eos_token_id of generation_config.json where that has one.
  const Json& config() const { return config_; }
  /// Tensor by name without prefix ("h.0.ln_1.weight"), or null.
  const TensorView* find(const std::string& name) const;
  /// All names without prefix, sorted. Buffers that models make anew (causal masks, rotary
  /// frequencies) are left out.
  const std::vector<std::string>& names() const { return names_; }
  /// A tensor's name as its file has it, for messages.
  const std::string& stored_name(const std::string& name) const { return *tensors_.at(name).name; }
  /// Lets one tensor stand under a second name, too, which find knows and names does not.
  void add_name(const std::string& name, const std::string& same_as) {
    tensors_.insert_or_assign(name, tensors_.at(same_as));
  }
  /// dst.size() values of a tensor of this directory from value first on, as f32;
  /// Error{kBadInput} that names the tensor where one is NaN or infinite. Pages of large reads are
  /// released behind it, so that a model larger than memory can be gone through.
  void copy_as_f32(const TensorView& view, std::size_t first, std::span<float> dst) const;
  /// sha256 (hex) over the weight files in name order. The first call reads them all.
  std::string sha256() const;

 private:
  void fail_not_finite(const TensorView& view, std::span<const float> values,
                       std::size_t first) const;

  std::string path_;
  Json config_;
  std::map<std::string, SafetensorsFile> files_;  // by file name
  struct Stored {
    const TensorView* view;
    const std::string* name;  // as its file has it
  };
  std::map<std::string, Stored> tensors_;
  std::vector<std::string> names_;
  struct Digest {
    std::once_flag once;
    std::string hex;
  };
  std::unique_ptr<Digest> digest_ = std::make_unique<Digest>();
};

/// name without the prefixes that saving a model inside wrappers leaves: module., _orig_mod.,
/// base_model., pretrained_model., transformer. and model., repeated in any order.
std::string strip_prefixes(std::string name);
/// The same without those of wrappers alone, so that the decoder's own, transformer. or model.,
/// stays in front of what belongs to it.
std::string strip_wrappers(std::string name);

}  // namespace qalof::io
