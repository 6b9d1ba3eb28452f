// Parameters of a network as PyTorch tensors, for the graphs of graph.h.
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
  at::Tensor gamma, beta;  // [width]; gamma is the gain itself, as weights::norm_gain
};

/// Every tensor of the decoder in f32; linear weights are [out, in], as kernels read them. Tensors
/// that a family lacks (betas, biases, position embeddings) have no elements.
struct BaseParams {
  at::Tensor wte, wpe;  // [vocab, hidden], [positions, hidden]
  at::Tensor lm_head;   // [vocab, hidden] where it is a separate matrix and was requested
  std::vector<NormParams> attention_norms, mlp_norms;  // [layer]
  // Norms that not all families have, [layer] or empty.
  std::vector<NormParams> attention_out_norms, mlp_out_norms, q_norms, k_norms;
  NormParams final_norm;
  std::vector<at::Tensor> weights, biases;  // [linear]

  /// The matrix of the LM head: lm_head or, where tied, wte.
  const at::Tensor& lm_matrix() const { return lm_head.numel() > 0 ? lm_head : wte; }
};

/// A low-rank pair: a [r, in], b [out, r]; both undefined where a linear has none.
struct LoraParams {
  at::Tensor a, b;
};

/// Start values of a linear's learned quantizers: the scheme's own scales; no steps where those are
/// not learned.
struct QuantizerStart {
  int bits = 0;
  quant::QuantScheme scheme;
  weights::LearnedLinear values;
  float rate = 1;  // multiplies the offsets
};
/// Learned values as offsets, so that one learning rate fits all of them and weight decay leads
/// back to the start: step = start * (1 + rate * offset), clip = 1 + rate * offset.
struct QuantizerParams {
  at::Tensor steps;                             // [out * groups], or undefined
  at::Tensor clip;                              // [1], or undefined
  std::shared_ptr<const QuantizerStart> start;  // null: nothing is learned

  /// The current values. Steps of groups are rounded to bfloat16.
  weights::LearnedLinear values() const;
  /// Clamps offsets so that values are in their allowed range (docs/numerics.md, "Learned steps").
  void project();
};
/// The start values of a linear at a width, with the rate of options (learn_steps_rate).
std::shared_ptr<const QuantizerStart> quantizer_start(const weights::BaseModel& base,
                                                      std::size_t linear, int bits,
                                                      const TrainOptions& options,
                                                      ParallelFor& parallel);
/// Whether options learn steps, or clip factors, at a width.
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

/// The pair of each linear and the head that one forward pass uses, chosen by its plan.
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

/// Trainable parameters in one flat buffer for values and one for gradients, so that clipping and
/// the optimizer take few operations for any number of parameters. Matrices come first: only they
/// decay. Parameters that always train together form a group: a step updates the groups that it
/// trained and leaves the others, including their moments, unchanged.
class FlatParameters {
 public:
  /// Adds a parameter and returns its index; values are in C order. Groups count from 0 and are
  /// added one after the other.
  std::size_t add(const std::vector<std::int64_t>& shape, const std::vector<float>& values,
                  std::size_t group = 0);
  /// The values passed to add; only before build.
  const std::vector<float>& initial(std::size_t index) const { return pending_[index].values; }
  /// Lays the parameters out on a device; nothing can be added afterwards.
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

/// Copies values into a tensor. Error{kBadInput} with `name` where the counts differ.
void copy_values(const std::vector<float>& values, const std::string& name, at::Tensor& tensor);

/// Copies of the base's tensors on a device, without gradient.
BaseParams load_base_params(const weights::BaseModel& base, at::Device device,
                            at::ScalarType dtype = at::kFloat);
/// The base's tensors as parameters of flat; the caller calls flat.build and then bind. A separate
/// LM head is included where the task needs it.
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

/// The initial head of a width: that of options.start, else the base's own for the task where it
/// has the right number of outputs, else an untrained one.
weights::Head initial_head(const weights::BaseModel& base, const TrainOptions& options, int bits);

std::vector<float> to_vector(const at::Tensor& tensor);
at::Tensor to_tensor(const std::vector<float>& values, const std::vector<std::int64_t>& shape);
/// Copies parameters into the runtime's types; a pair has the rank of its tensors.
weights::Head export_head(const HeadParams& head);
std::shared_ptr<const weights::Adapter> export_adapter(const AdapterParams& params,
                                                       const weights::BaseModel& base,
                                                       const TrainOptions& options);
std::map<std::string, NamedTensor> export_base(const BaseParams& params, const HeadParams& head,
                                               const model::ModelConfig& config,
                                               weights::HeadKind head_kind);

}  // namespace qalof::train
