// The frozen base: a Hugging Face directory or a packed file, opened once and shared by every plan
// and adapter.
//
// Weights are quantized or packed when a width is first asked for and kept; nothing is done per
// step or per token. After that, everything is read only: threads may share a BaseModel.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/shared_memory.h"
#include "core/threads.h"
#include "kernels/gemm.h"
#include "model/config.h"
#include "quant/precision.h"
#include "quant/scheme.h"
#include "weights/weight_packing.h"

namespace qalof::weights {

/// A linear head on hidden states: y = h W^T + bias.
struct Head {
  std::size_t outputs = 0;
  std::vector<float> weight;  // [outputs, hidden]
  std::vector<float> bias;    // [outputs] or empty
};

/// Where the numbers of a base come from. Implementations: Hugging Face directory
/// (base_model.cpp), packed file (packed_file.cpp). Const calls are thread-safe.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  /// Float weights [out, in] of a linear; Error{kUnsupported} where the source holds codes only.
  virtual std::vector<float> linear_f32(std::size_t linear) const = 0;
  /// Packed weights of a width and scheme, or null where they must be made from linear_f32.
  /// Error{kUnsupported} where the source holds neither.
  virtual std::unique_ptr<OwnedMatrix> linear_packed(std::size_t linear, quant::Precision precision,
                                                     quant::QuantScheme scheme,
                                                     ParallelFor& parallel) const = 0;
  /// The LM head packed for lm_head_precision(width), or null where it must be made from the head's
  /// float tensor. Error{kUnsupported} where neither is possible.
  virtual std::unique_ptr<OwnedMatrix> lm_head_packed(quant::BitWidth width,
                                                      ParallelFor& parallel) const = 0;
  /// Precision of the embeddings that copy_rows returns: 16 where they were rounded to bf16, else
  /// 32.
  virtual int embedding_bits() const = 0;
  /// A named float tensor without prefix; empty optional where absent.
  virtual std::optional<std::vector<float>> tensor_f32(const std::string& name) const = 0;
  /// Copies rows of a [rows, cols] tensor, starting at row first, until dst is full, so that a
  /// large embedding is never copied whole. Does not verify the tensor; check() does.
  virtual void copy_rows(const std::string& name, std::size_t first,
                         std::span<float> dst) const = 0;
  /// Error{kCorruptFile} where the source keeps a checksum of the named tensor and it does not
  /// match.
  virtual void check(const std::string& /*name*/) const {}
  /// Weight widths this source can serve; empty means any.
  virtual std::vector<int> widths() const = 0;
  /// sha256 (hex) that identifies the base the numbers come from.
  virtual std::string sha256() const = 0;
  /// Bytes of the weights on disk.
  virtual std::uint64_t stored_bytes() const = 0;
};

class Rotation;

/// A frozen base model.
class BaseModel {
 public:
  /// Opens a Hugging Face directory. Strict: a missing, transposed or wrongly shaped tensor and an
  /// unknown tensor inside the decoder are errors that name it; unused heads are named in
  /// warnings(). Numbers that are not finite are errors when they are read. Throws
  /// Error{kNotFound}, {kCorruptFile}, {kBadInput}, {kUnsupported}.
  static std::shared_ptr<const BaseModel> load_directory(const std::string& path);
  /// rotation: the rotation already applied to the source's numbers, or null.
  BaseModel(model::ModelConfig config, std::string path, std::shared_ptr<const WeightSource> source,
            std::shared_ptr<const Rotation> rotation = nullptr);

  /// This model rotated (weights/rotation.h); made at the first call for these parts and kept. This
  /// model must not be rotated itself. Error{kUnsupported} as Rotation's.
  std::shared_ptr<const BaseModel> rotated(quant::Rotations parts) const;
  /// Null where the model is not rotated. A rotated model's norms inside layers are RMS norms
  /// without gain, whatever the config says.
  const std::shared_ptr<const Rotation>& rotation() const { return rotation_; }

  const model::ModelConfig& config() const { return config_; }
  const quant::PlanTarget& target() const { return target_; }
  const std::vector<model::LinearSpec>& linears() const { return linears_; }
  const std::string& path() const { return path_; }
  const WeightSource& source() const { return *source_; }
  const std::shared_ptr<const WeightSource>& shared_source() const { return source_; }

  /// The linears of each layer, by step of the forward pass.
  const std::vector<model::LayerSteps>& layers() const { return layers_; }
  /// Frequencies of rotary positions [pairs] in short sequences; empty where positions are learned.
  const std::vector<float>& rotary() const { return rotary_.front().frequencies; }
  /// Pairs of a head that turn in layers with the main rotary positions, or with those of layers
  /// with a window (sliding); 0: none.
  std::size_t rotary_pairs(bool sliding) const {
    return rotary_[sliding ? 1 : 0].frequencies.size();
  }
  /// Cosines and sines (kernels::rotary_table) of tokens of a sequence of a length: table
  /// [positions, 2 * rotary_pairs].
  void rotary_table(bool sliding, std::span<const std::int32_t> positions, std::size_t length,
                    float* table) const;

  struct Norm {
    std::vector<float> gamma, beta;  // beta is empty for RMS norm
  };
  const Norm& attention_norm(std::size_t layer) const { return attention_norms_[layer]; }
  const Norm& mlp_norm(std::size_t layer) const { return mlp_norms_[layer]; }
  const Norm& final_norm() const { return final_norm_; }
  /// Norms of what a layer's attention and MLP add; empty gamma where the model has none.
  const Norm& attention_out_norm(std::size_t layer) const { return attention_out_norms_[layer]; }
  const Norm& mlp_out_norm(std::size_t layer) const { return mlp_out_norms_[layer]; }
  /// Norms [head_dim] of the heads of q and k; empty gamma where the model has none.
  const Norm& q_norm(std::size_t layer) const { return q_norms_[layer]; }
  const Norm& k_norm(std::size_t layer) const { return k_norms_[layer]; }
  /// Bias [out] of a linear, or empty.
  const std::vector<float>& bias(std::size_t linear) const { return biases_[linear]; }

  /// Weights of a linear packed for a precision and, where the width is an integer, in a scheme;
  /// built at first use, then shared.
  const kernels::PackedMatrix& packed(std::size_t linear, quant::Precision precision,
                                      quant::QuantScheme scheme, ParallelFor& parallel) const;
  /// Like packed(), but not cached; for single-pass callers.
  std::unique_ptr<OwnedMatrix> make_packed(std::size_t linear, quant::Precision precision,
                                           quant::QuantScheme scheme, ParallelFor& parallel) const;
  /// The LM head [vocab, hidden] packed for lm_head_precision(width); built at first use, then
  /// shared.
  const kernels::PackedMatrix& lm_head(quant::BitWidth width, ParallelFor& parallel) const;
  /// Error{kUnsupported} where the model has no LM head. lm_head() and make_lm_head() check this
  /// too; commands call it first to fail early.
  void require_lm_head() const;
  /// Like lm_head(), but not cached.
  std::unique_ptr<OwnedMatrix> make_lm_head(quant::BitWidth width, ParallelFor& parallel) const;
  /// dst [ids, hidden] = token embedding times the config's scale + position embedding where it is
  /// learned; both rounded to bf16 first where width is 16, the sum rotated where the model is. ids
  /// and positions must be in range.
  void embed(std::span<const std::int32_t> ids, std::span<const std::int32_t> positions,
             quant::BitWidth width, float* dst) const;

  /// dst [positions, hidden] = learned position embeddings alone, rounded as in embed(), in the
  /// unrotated basis. Only for a model that has them.
  void position_rows(std::span<const std::int32_t> positions, quant::BitWidth width,
                     float* dst) const;

  /// Weights packed from now on are made once by all processes that share the memory, whose base is
  /// this one too. Call it before the first of packed() and lm_head(). Null changes nothing.
  void share_packed(std::shared_ptr<SharedMemory> memory) const;
  /// Null where packed weights are this process's alone.
  SharedMemory* shared_memory() const { return shared_.get(); }
  /// Tells this base's parts in shared memory from those of others.
  std::string shared_name() const;

  /// Heads the directory itself holds (a QuestionAnswering or SequenceClassification model).
  const std::optional<Head>& qa_head() const { return qa_head_; }
  const std::optional<Head>& class_head() const { return class_head_; }
  /// Warnings of the loader, a sentence each.
  const std::vector<std::string>& warnings() const { return warnings_; }
  /// For loaders, before the model is shared.
  void set_warnings(std::vector<std::string> warnings) { warnings_ = std::move(warnings); }
  void set_heads(std::optional<Head> qa_head, std::optional<Head> class_head) {
    qa_head_ = std::move(qa_head);
    class_head_ = std::move(class_head);
  }

 private:
  model::ModelConfig config_;
  std::string path_;
  std::shared_ptr<const WeightSource> source_;
  std::shared_ptr<const Rotation> rotation_;
  quant::PlanTarget target_;
  std::vector<model::LinearSpec> linears_;
  std::vector<model::LayerSteps> layers_;
  model::TensorNames names_;
  // Of the main rotary positions, and of layers with a window; frequencies of short sequences, and
  // where lengths have two sets, of long ones.
  struct RotaryKind {
    const model::RotaryPositions* positions = nullptr;  // into config_
    std::vector<float> frequencies, long_frequencies;
  };
  std::array<RotaryKind, 2> rotary_;
  std::vector<Norm> attention_norms_, mlp_norms_;
  std::vector<Norm> attention_out_norms_, mlp_out_norms_, q_norms_, k_norms_;
  Norm final_norm_;
  std::vector<std::vector<float>> biases_;
  std::optional<Head> qa_head_, class_head_;
  std::vector<std::string> warnings_;

  // The matrix that make returns, in shared memory where there is one.
  std::unique_ptr<OwnedMatrix> made_once(
      const std::string& name, const std::function<std::unique_ptr<OwnedMatrix>()>& make) const;

  struct Key {
    std::size_t linear;  // linears_.size() is the LM head
    int weight_bits;
    quant::QuantScheme scheme;
    kernels::WeightFormat format;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  mutable std::mutex mutex_;
  mutable std::map<Key, std::unique_ptr<OwnedMatrix>> packed_;
  mutable std::shared_ptr<SharedMemory> shared_;
  mutable std::mutex rotated_mutex_;
  mutable std::map<quant::Rotations, std::shared_ptr<const BaseModel>> rotated_;
};

/// The gain of a norm [width] as it multiplies: the stored weight plus the config's offset.
std::vector<float> norm_gain(const WeightSource& source, const model::ModelConfig& config,
                             const std::string& norm);

/// The question-answering head that training starts from where a model holds none: weights
/// N(0, initializer_range), biases 0.
Head untrained_qa_head(const BaseModel& base, std::uint64_t seed);
/// The classification head [classes, hidden] that training starts from: weights
/// N(0, initializer_range), no bias.
Head untrained_class_head(const BaseModel& base, std::size_t classes, std::uint64_t seed);

/// Precision of an LM head of a width: 32 and 16 are floats, 8 is w8a8 and 4 is w4a8. Weights of 4
/// or 8 bits are made from the bf16 ones, so that a directory and a packed file have the same head.
/// Error{kUsage} for another width.
quant::Precision lm_head_precision(quant::BitWidth width);

}  // namespace qalof::weights
