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
  /// contradicts another) or {kUnsupported} where only pickled weights are there.
  static ModelDir open(const std::string& path);

  const std::string& path() const { return path_; }
  std::string config_path() const { return path_ + "/config.json"; }
  /// config.json, with the eos_token_id of generation_config.json where that has one.
  const Json& config() const { return config_; }
  /// Tensor by name without prefix ("h.0.ln_1.weight"), or null.
  const TensorView* find(const std::string& name) const;
  /// All names without prefix, sorted. GPT-2's old mask buffers are left out.
  const std::vector<std::string>& names() const { return names_; }
  /// dst.size() values of a tensor of this directory from value first on, as f32. Pages of large
  /// reads are released behind it, so that a model larger than memory can be gone through.
  void copy_as_f32(const TensorView& view, std::size_t first, std::span<float> dst) const;
  /// sha256 (hex) over the weight files in name order. The first call reads them all.
  std::string sha256() const;

 private:
  std::string path_;
  Json config_;
  std::map<std::string, SafetensorsFile> files_;  // by file name
  std::map<std::string, const TensorView*> tensors_;
  std::vector<std::string> names_;
  struct Digest {
    std::once_flag once;
    std::string hex;
  };
  std::unique_ptr<Digest> digest_ = std::make_unique<Digest>();
};

/// name without the prefixes that saving a model inside wrappers leaves: module., _orig_mod.,
/// base_model.model., transformer. and model., repeated in any order.
std::string strip_prefixes(std::string name);

}  // namespace qalof::io
