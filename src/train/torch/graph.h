// The differentiable network behind one interface, with two implementations: the runtime's own
// kernels on CPU (kernel_graph), whose numbers are the runtime's bit for bit, and plain ATen
// (aten_graph) for CUDA and as an oracle.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/threads.h"
#include "quant/plan.h"
#include "train/batch.h"
#include "train/torch/network.h"
#include "weights/base_model.h"

namespace qalof::train {

/// A precision plan in the form that graphs read.
struct GraphPlan {
  std::vector<quant::Precision> linears;
  quant::QuantScheme scheme;
  std::vector<std::vector<int>> k_bits, v_bits;  // [layer][kv head]
  quant::BitWidth embedding{32};                 // token and position embeddings, LM head
  double ste_clip = 0;                           // 0: none

  GraphPlan(const quant::PrecisionPlan& plan, double clip);
};

/// One network on one device. Not thread-safe: one per calling thread.
class Graph {
 public:
  explicit Graph(const model::ModelConfig& config) : logit_cap_(config.logit_cap) {}
  virtual ~Graph() = default;
  virtual at::Device device() const = 0;
  /// From now on decode keeps the inputs of blocks alone and computes the rest again in the
  /// backward pass (torch/checkpointed.h); values and gradients stay the same, on the CPU graph by
  /// bits.
  void checkpoint_blocks(bool is_on) { checkpoints_blocks_ = is_on; }
  /// Embeddings [tokens, hidden], learned positions included. Differentiable where the base trains.
  virtual at::Tensor embed(const PackedBatch& batch, const GraphPlan& plan) = 0;
  /// embed with rows [tokens, hidden] instead of token embeddings: scales them where the model
  /// does, and adds learned positions. Differentiable in rows.
  virtual at::Tensor embed_rows(const at::Tensor& rows, const PackedBatch& batch,
                                const GraphPlan& plan) = 0;
  /// Hidden states after the final norm [tokens, hidden], from any embeddings. Differentiable in
  /// the embeddings, in the adapters of view and, where the base trains, in its tensors. blocks,
  /// where not null, receives the residual after each block, [tokens, hidden] each, differentiable
  /// as well; in a rotated scheme it is rotated back into the unrotated basis. plan must live until
  /// the backward pass is done.
  virtual at::Tensor decode(const at::Tensor& embedded, const PackedBatch& batch,
                            const GraphPlan& plan, const NetworkView& view,
                            std::vector<at::Tensor>* blocks = nullptr) = 0;
  /// embed and decode for the batch's own tokens.
  at::Tensor hidden(const PackedBatch& batch, const GraphPlan& plan, const NetworkView& view,
                    std::vector<at::Tensor>* blocks = nullptr) {
    return decode(embed(batch, plan), batch, plan, view, blocks);
  }
  /// Logits [rows, outputs] of a head in f32. Differentiable.
  virtual at::Tensor head_logits(const at::Tensor& hidden, const HeadParams& head) = 0;
  /// LM logits [rows, vocab] without autograd; loss.cpp differentiates them with the next two
  /// functions.
  virtual at::Tensor lm_logits(const at::Tensor& hidden, const GraphPlan& plan) = 0;
  /// Turns the gradient of lm_logits' result into that of the logits before they are soft capped,
  /// in place; nothing to do in models without a cap.
  void pass_logit_cap(const at::Tensor& logits, at::Tensor& dlogits) const {
    if (logit_cap_ != 0) dlogits.mul_(1 - (logits / logit_cap_).square_());
  }
  /// The gradient [rows, hidden] with respect to hidden, given that of the logits before a cap.
  virtual at::Tensor lm_hidden_gradient(const at::Tensor& dlogits, const GraphPlan& plan) = 0;
  /// Adds the gradient of the LM head to dhead [vocab, hidden].
  virtual void add_lm_head_gradient(const at::Tensor& dlogits, const at::Tensor& hidden,
                                    at::Tensor& dhead) = 0;
  /// The LM head's parameter where it trains (tied: wte, else lm_head), else undefined.
  virtual at::Tensor lm_head_parameter() const = 0;
  /// Must be called when trainable tensors of the base or of adapters have changed; discards their
  /// packed forms.
  virtual void weights_changed() {}
  /// Must be called before each micro-batch of a step (both 0-based; steps of all phases);
  /// stochastic rounding depends on it.
  virtual void begin_batch(std::int64_t step, std::size_t batch) { (void)step, (void)batch; }

 protected:
  bool checkpoints_blocks() const { return checkpoints_blocks_; }

 private:
  double logit_cap_;  // 0: none
  bool checkpoints_blocks_ = false;
};

/// How the CPU graph multiplies gradients by integer weights (TrainOptions::gradient_bits).
struct GradientPrecision {
  int bits = 32;           // 0: no backward pass will run
  std::uint64_t seed = 0;  // of stochastic rounding at 8 bits
};
/// Called in every backward pass of a linear with its index, its float input x [tokens, in], the
/// gradient dy [tokens, out] of its output and the gradient dinput [tokens, in] of its quantized
/// input, without the adapter's branch.
using LinearObserver = std::function<void(std::size_t linear, const at::Tensor& x,
                                          const at::Tensor& dy, const at::Tensor& dinput)>;
/// The CPU graph. trainable: the base's tensors as parameters (method `full`), or null for a frozen
/// base. parallel must outlive the graph.
std::unique_ptr<Graph> make_kernel_graph(std::shared_ptr<const weights::BaseModel> base,
                                         const BaseParams* trainable, ParallelFor& parallel,
                                         GradientPrecision gradient = {},
                                         LinearObserver observe_linear = nullptr);
/// The ATen graph over params (frozen or trainable), on their device and in their dtype. Scheme
/// seed only; others are Error{kUnsupported}. Adapters must not own weights.
std::unique_ptr<Graph> make_aten_graph(const model::ModelConfig& config, BaseParams params);
/// The ATen graph of a frozen base in f32 on a device, for every scheme: for schemes other than
/// seed, integer plans dequantize the runtime's codes once per width, rotated schemes those of
/// base->rotated(). parallel must outlive the graph. Adapters must not own weights.
std::unique_ptr<Graph> make_aten_graph(std::shared_ptr<const weights::BaseModel> base,
                                       at::Device device, ParallelFor& parallel);

}  // namespace qalof::train
