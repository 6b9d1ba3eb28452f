// Teachers: the outputs of a pass that losses read, the teacher from outside the run, and a cache
// for the outputs of networks that do not change.
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
  bool last_logits = false;  // logits of the last token of each window only

  explicit WantedOutputs(const TrainOptions& options);
};

/// The outputs of a pass over a batch, for the losses.
struct PassOutput {
  at::Tensor logits;               // qa: [tokens, 2]; classification: [windows, classes]
  at::Tensor hidden;               // final states [tokens, hidden]
  std::vector<at::Tensor> blocks;  // states after each block, where requested
  Graph* graph = nullptr;          // computes logits from hidden (lm)
  std::shared_ptr<const GraphPlan> plan;
};
/// A forward pass, differentiable unless the caller forbids it. embedded: instead of the batch's
/// own embeddings, where defined.
PassOutput run_network(Graph& graph, std::shared_ptr<const GraphPlan> plan, const NetworkView& view,
                       const PackedBatch& batch, const WantedOutputs& wanted,
                       const at::Tensor& embedded = {});

/// The pairs of an adapter set for each linear, chosen as by the runtime, and the head of a kind
/// (none for lm). where: the network's name in messages. Error{kUnsupported} where an adapter owns
/// weights, {kBadInput} where there is no head or one with another number of classes.
NetworkView frozen_view(const TeacherModel& network, weights::HeadKind head_kind,
                        std::size_t num_labels, const std::string& where, at::Device device);

/// Caches the outputs of a network that does not change, by window, so that it runs on each window
/// once. On the CPU graph an output depends on its window alone, so that a run with a cache is
/// bitwise equal to one without.
class TeacherCache {
 public:
  /// Keeps up to max_bytes of outputs; further windows are computed each time.
  TeacherCache(const WantedOutputs& wanted, std::uint64_t max_bytes)
      : wanted_(wanted), max_bytes_(max_bytes) {}

  using Forward = std::function<PassOutput(const PackedBatch&)>;
  /// The outputs of forward (called without gradient) for a batch of these windows, which must be
  /// distinct.
  PassOutput outputs(const Windows& examples, std::span<const std::uint32_t> windows,
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
  PassOutput outputs(const Windows& examples, std::span<const std::uint32_t> windows);

 private:
  std::shared_ptr<const TeacherModel> model_;
  std::unique_ptr<Graph> graph_;
  std::shared_ptr<const GraphPlan> plan_;
  NetworkView view_;
  WantedOutputs wanted_;
  TeacherCache cache_;
};

/// The size of a run's teacher caches: TrainOptions::teacher_cache_bytes on CPU, 0 on other
/// devices, where outputs may depend on the batch.
std::uint64_t cache_limit(const TrainOptions& options, at::Device device);

}  // namespace qalof::train
