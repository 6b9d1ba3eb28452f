// Parameters of a network as PyTorch tensors: what a graph (graph_torch.h) computes with.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "train/options.h"
#include "weights/adapter.h"
#include "weights/base_model.h"

namespace qalof::train {

struct NormParams {
  at::Tensor gamma, beta;  // [hidden]
};

/// Every tensor of the decoder in f32; linear weights are [out, in], as kernels read them. What a
/// family does not have (betas, biases, position embeddings) has no elements.
struct BaseParams {
  at::Tensor wte, wpe;  // [vocab, hidden], [positions, hidden]
  at::Tensor lm_head;   // [vocab, hidden] where it is a matrix of its own that is asked for
  std::vector<NormParams> attention_norms, mlp_norms;  // [layer]
  NormParams final_norm;
  std::vector<at::Tensor> weights, biases;  // [linear]

  /// What multiplies the last hidden states: lm_head or, tied, wte.
  const at::Tensor& lm_matrix() const { return lm_head.numel() > 0 ? lm_head : wte; }
};

/// A low-rank pair: a [r, in], b [out, r]; both undefined where a linear has none.
struct LoraParams {
  at::Tensor a, b;
};

/// Where the learned values of a linear's quantizers start: the scheme's own scales; no steps where
/// those are not learned.
struct QuantizerStart {
  int bits = 0;
  quant::QuantScheme scheme;
  weights::LearnedLinear values;
  float rate = 1;  // of the offsets
};
/// Learned values as offsets, so that one learning rate fits all of them and decay leads back:
/// step = start * (1 + rate * offset), clip = 1 + rate * offset.
struct QuantizerParams {
  at::Tensor steps;                             // [out * groups], or undefined
  at::Tensor clip;                              // [1], or undefined
  std::shared_ptr<const QuantizerStart> start;  // null: nothing is learned

  /// The values as they are now. Groups have steps that bfloat16 has.
  weights::LearnedLinear values() const;
  /// Moves offsets to where values are allowed (docs/numerics.md, "Learned steps").
  void project();
};
/// rate: TrainOptions::learn_steps_rate. weights: whether steps are learned.
std::shared_ptr<const QuantizerStart> quantizer_start(const weights::BaseModel& base,
                                                      std::size_t linear, int bits,
                                                      const TrainOptions& options,
                                                      ParallelFor& parallel);
/// What options have learned at a width.
bool learns_steps(const TrainOptions& options, int bits);
bool learns_clips(const TrainOptions& options, int bits);

/// weight [outputs, hidden]; bias [outputs], or undefined where the head has none.
struct HeadParams {
  at::Tensor weight, bias;
};

/// One width's adapter and head.
struct AdapterParams {
  std::vector<LoraParams> linears;          // [linear]
  HeadParams head;                          // undefined for lm
  std::vector<QuantizerParams> quantizers;  // [linear], or empty
};

/// What one forward pass uses, chosen by plan: which pair each linear has, which head.
struct NetworkView {
  std::vector<LoraParams> lora;  // [linear] or empty
  double lora_scaling = 1;       // alpha / r
  HeadParams head;
  bool merged = false;                      // pairs are added to weights before quantization
  std::vector<QuantizerParams> quantizers;  // [linear] or empty
};

/// A stretch of a flat buffer.
struct ParameterRange {
  std::int64_t first = 0, count = 0;
};

/// Trainable parameters in one flat buffer each for values and gradients, so that clipping and the
/// optimizer are a few operations whatever the number of parameters. Matrices come first: only they
/// decay. Parameters that always train together form a group: a step moves the groups that it
/// trained and leaves the others, moments included, as they are.
class FlatParameters {
 public:
  /// Returns the parameter's index; values are in C order. Groups count from 0 and are added one
  /// after the other.
  std::size_t add(const std::vector<std::int64_t>& shape, const std::vector<float>& values,
                  std::size_t group = 0);
  /// The values that add was given; until build.
  const std::vector<float>& initial(std::size_t index) const { return pending_[index].values; }
  /// Lays the parameters out on a device; add is over then.
  void build(at::Device device);
  /// A leaf tensor that views the buffers.
  const at::Tensor& parameter(std::size_t index) const { return leaves_[index]; }

  at::Tensor& values() { return values_; }
  at::Tensor& gradients() { return gradients_; }
  std::int64_t num_decayed() const { return num_decayed_; }
  std::size_t num_groups() const { return groups_.size(); }
  /// A group's matrices, then its vectors; either may be empty.
  const std::array<ParameterRange, 2>& group(std::size_t index) const { return groups_[index]; }

 private:
  struct Pending {
    std::vector<std::int64_t> shape;
    std::vector<float> values;
    std::size_t group = 0;
  };
  std::vector<Pending> pending_;
  std::vector<at::Tensor> leaves_;
  std::vector<std::array<ParameterRange, 2>> groups_;
  at::Tensor values_, gradients_;
  std::int64_t num_decayed_ = 0;
};

/// Copies values into a tensor. Error{kBadInput} naming `name` where their numbers differ.
void copy_values(const std::vector<float>& values, const std::string& name, at::Tensor& tensor);

/// Copies of the base's tensors on a device, without gradient.
BaseParams load_base_params(const weights::BaseModel& base, at::Device device,
                            at::ScalarType dtype = at::kFloat);
/// The same tensors as parameters of flat, to be built by the caller; call bind after build. An LM
/// head of its own is one where the kind needs it.
class TrainableBase {
 public:
  TrainableBase(const weights::BaseModel& base, FlatParameters& flat,
                weights::HeadKind head_kind = weights::HeadKind::kLm);
  BaseParams bind(const FlatParameters& flat) const;

 private:
  std::vector<std::size_t> indices_;
  model::ModelConfig config_;
  bool with_lm_head_;
};

/// The head that options.start has for a width, else the base's own of the kind where it has one of
/// as many outputs, else an untrained one.
weights::Head initial_head(const weights::BaseModel& base, const TrainOptions& options, int bits);

std::vector<float> to_vector(const at::Tensor& tensor);
at::Tensor to_tensor(const std::vector<float>& values, const std::vector<std::int64_t>& shape);
/// Copies out of the graph, into the forms of the runtime; a pair has the rank of its tensors.
weights::Head export_head(const HeadParams& head);
std::shared_ptr<const weights::Adapter> export_adapter(const AdapterParams& params,
                                                       const weights::BaseModel& base,
                                                       const TrainOptions& options);
std::map<std::string, NamedTensor> export_base(const BaseParams& params, const HeadParams& head,
                                               const model::ModelConfig& config,
                                               weights::HeadKind head_kind);

}  // namespace qalof::train
