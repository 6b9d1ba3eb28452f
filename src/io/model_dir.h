// A Hugging Face model directory as named tensors: one safetensors file or an index of shards, with
// wrapper prefixes stripped. The meaning of the tensors is the part of src/model.
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
  /// Error{kNotFound}, {kCorruptFile}, {kBadInput} (a shard, index or name that contradicts
  /// another) or {kUnsupported} where the directory has pickled weights only. A path that is
  /// something else known here (an adapter directory, a GGUF file) is named as such.
  static ModelDir open(const std::string& path);

  const std::string& path() const { return path_; }
  std::string config_path() const { return path_ + "/config.json"; }
  /// config.json, with its eos_token_id replaced by generation_config.json's where that has one.
  const Json& config() const { return config_; }
  /// Tensor by name without prefix ("h.0.ln_1.weight"), or null.
  const TensorView* find(const std::string& name) const;
  /// All names without prefix, sorted. Buffers that models recompute (causal masks, rotary
  /// frequencies) are left out.
  const std::vector<std::string>& names() const { return names_; }
  /// A tensor's name as written in its file, for messages.
  const std::string& stored_name(const std::string& name) const { return *tensors_.at(name).name; }
  /// Gives a tensor a second name, which find() accepts but names() does not list.
  void add_name(const std::string& name, const std::string& same_as) {
    tensors_.insert_or_assign(name, tensors_.at(same_as));
  }
  /// Converts dst.size() values of a tensor of this directory, from value `first` on, to f32.
  /// Error{kBadInput} naming the tensor where one is NaN or infinite. Pages of large reads are
  /// released after use, so that a model larger than memory can be read through.
  void copy_as_f32(const TensorView& view, std::size_t first, std::span<float> dst) const;
  /// sha256 (hex) over the weight files in name order. The first call reads all of them.
  std::string sha256() const;

 private:
  void fail_not_finite(const TensorView& view, std::span<const float> values,
                       std::size_t first) const;

  std::string path_;
  Json config_;
  std::map<std::string, SafetensorsFile> files_;  // by file name
  struct Stored {
    const TensorView* view;
    const std::string* name;  // as written in its file
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
/// name without the prefixes of wrappers only (module., _orig_mod., base_model.,
/// pretrained_model.); the decoder's own prefix, transformer. or model., is kept.
std::string strip_wrappers(std::string name);

}  // namespace qalof::io
