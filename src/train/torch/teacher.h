// Networks that teach: what a pass hands to those it teaches, the teacher from outside, and a cache
// of what a network says that does not change.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "train/torch/graph.h"

namespace qalof::train {

/// Which outputs of a network the losses of a run read.
struct WantedOutputs {
  bool logits = false, hidden = false, blocks = false;
  bool last_logits = false;  // of the last token of each window alone

  explicit WantedOutputs(const TrainOptions& options);
};

/// What a pass over a batch gave: the material of losses.
struct PassOutput {
  at::Tensor logits;               // qa: [tokens, 2]; classification: [windows, classes]
  at::Tensor hidden;               // final states [tokens, hidden]
  std::vector<at::Tensor> blocks;  // states after each block, where asked for
  Graph* graph = nullptr;          // makes logits of hidden (lm)
  std::shared_ptr<const GraphPlan> plan;
};
/// A forward pass, differentiable unless the caller forbids it. embedded: instead of the batch's
/// own embeddings, where defined.
PassOutput run_network(Graph& graph, std::shared_ptr<const GraphPlan> plan, const NetworkView& view,
                       const PackedBatch& batch, const WantedOutputs& wanted,
                       const at::Tensor& embedded = {});

/// What the adapters of a set give each linear, as the runtime chooses them, and the head of a kind
/// (none for lm). where names the network in messages: Error{kUnsupported} where an adapter owns
/// weights, {kBadInput} where there is no head or one of another number of classes.
NetworkView frozen_view(const TeacherModel& network, weights::HeadKind head_kind,
                        std::size_t num_labels, const std::string& where, at::Device device);

/// Outputs of a network that stays as it is, by window, so that it runs on each window once. On the
/// CPU graph an output depends on its window alone, so that a run with a cache has the bits of one
/// without.
class TeacherCache {
 public:
  /// max_bytes of outputs are kept; windows beyond them are computed each time.
  TeacherCache(const WantedOutputs& wanted, std::uint64_t max_bytes)
      : wanted_(wanted), max_bytes_(max_bytes) {}

  using Forward = std::function<PassOutput(const PackedBatch&)>;
  /// The outputs of the batch of these windows, different ones, as forward (without gradient) gives
  /// them.
  PassOutput outputs(std::span<const Example> examples, std::span<const std::uint32_t> windows,
                     const Forward& forward);
  std::uint64_t bytes() const { return bytes_; }

 private:
  using Tensors = std::vector<at::Tensor>;
  Tensors wanted_of(const PassOutput& output) const;
  void keep(std::uint32_t window, const Tensors& rows);

  WantedOutputs wanted_;
  std::uint64_t max_bytes_, bytes_ = 0;
  std::map<std::uint32_t, Tensors> kept_;
  PassOutput last_;  // without tensors
};

/// The network of TrainOptions::teacher in evaluation form, ready to run on a device.
class OutsideTeacher {
 public:
  OutsideTeacher(const TrainOptions& options, at::Device device, ParallelFor& parallel);
  PassOutput outputs(std::span<const Example> examples, std::span<const std::uint32_t> windows);

 private:
  std::shared_ptr<const TeacherModel> model_;
  std::unique_ptr<Graph> graph_;
  std::shared_ptr<const GraphPlan> plan_;
  NetworkView view_;
  WantedOutputs wanted_;
  TeacherCache cache_;
};

/// The bytes that a run may keep on a device (TrainOptions::teacher_cache_bytes): none but on CPU,
/// where other graphs' outputs may depend on the batch.
std::uint64_t cache_limit(const TrainOptions& options, at::Device device);

}  // namespace qalof::train
