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

/// A precision plan in the form a graph reads.
struct GraphPlan {
  std::vector<quant::Precision> linears;
  quant::QuantScheme scheme;
  std::vector<std::vector<int>> k_bits, v_bits;  // [layer][kv head]
  quant::BitWidth embedding{32};                 // token and position embeddings, LM head
  double ste_clip = 0;                           // 0: none

  GraphPlan(const quant::PrecisionPlan& plan, double clip);
};

/// One network on one device. Not thread-safe: one per thread of control.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual at::Device device() const = 0;
  /// Embeddings [tokens, hidden], learned positions included. Differentiable where the base trains.
  virtual at::Tensor embed(const PackedBatch& batch, const GraphPlan& plan) = 0;
  /// The same for rows [tokens, hidden] in the place of token embeddings: only what else embed adds
  /// to them. Differentiable in them.
  virtual at::Tensor embed_rows(const at::Tensor& rows, const PackedBatch& batch,
                                const GraphPlan& plan) = 0;
  /// Final-normed hidden states [tokens, hidden] of embeddings, which need not be those of tokens.
  /// Differentiable in them, in the adapters of view and, where the base trains, in its tensors.
  /// blocks, where not null, receives the residual after each block, [tokens, hidden] each,
  /// differentiable likewise; in a rotated scheme turned back into the base's own basis.
  virtual at::Tensor decode(const at::Tensor& embedded, const PackedBatch& batch,
                            const GraphPlan& plan, const NetworkView& view,
                            std::vector<at::Tensor>* blocks = nullptr) = 0;
  /// Both for the batch's own tokens.
  at::Tensor hidden(const PackedBatch& batch, const GraphPlan& plan, const NetworkView& view,
                    std::vector<at::Tensor>* blocks = nullptr) {
    return decode(embed(batch, plan), batch, plan, view, blocks);
  }
  /// Logits [rows, outputs] of a head in f32. Differentiable.
  virtual at::Tensor head_logits(const at::Tensor& hidden, const HeadParams& head) = 0;
  /// LM logits [rows, vocab] without autograd; the caller differentiates (losses.cpp) with the next
  /// two.
  virtual at::Tensor lm_logits(const at::Tensor& hidden, const GraphPlan& plan) = 0;
  /// The gradient [rows, hidden] of hidden given that of the logits.
  virtual at::Tensor lm_hidden_gradient(const at::Tensor& dlogits, const GraphPlan& plan) = 0;
  /// Adds the gradient of the LM head to dhead [vocab, hidden].
  virtual void add_lm_head_gradient(const at::Tensor& dlogits, const at::Tensor& hidden,
                                    at::Tensor& dhead) = 0;
  /// The LM head's parameter where it trains (tied: wte, else lm_head), else undefined.
  virtual at::Tensor lm_head_parameter() const = 0;
  /// Tells that trainable tensors of the base or of adapters have changed, so that packed forms of
  /// them are stale.
  virtual void weights_changed() {}
  /// Tells which step (0-based, of all phases) comes: random rounding is a function of it.
  virtual void begin_step(std::int64_t step) { (void)step; }
};

/// How the CPU graph multiplies gradients by integer weights (TrainOptions::gradient_bits).
struct GradientPrecision {
  int bits = 32;           // 0: nothing is ever differentiated
  std::uint64_t seed = 0;  // of stochastic rounding at 8 bits
};
/// Told in every backward pass of a linear: its index, the float rows x [tokens, in] it has read,
/// the gradient dy [tokens, out] of what it gave, and that of its quantized input [tokens, in],
/// without the adapter's branch.
using LinearObserver = std::function<void(std::size_t linear, const at::Tensor& x,
                                          const at::Tensor& dy, const at::Tensor& dinput)>;
/// The CPU graph. trainable: the base's tensors as parameters for `full`, or null: the base is
/// frozen. parallel must outlive the graph.
std::unique_ptr<Graph> make_kernel_graph(std::shared_ptr<const weights::BaseModel> base,
                                         const BaseParams* trainable, ParallelFor& parallel,
                                         GradientPrecision gradient = {},
                                         LinearObserver observe_linear = nullptr);
/// The ATen graph over params (frozen or trainable), on their device and in their dtype: scheme
/// seed alone, others are Error{kUnsupported}. No adapters that own weights.
std::unique_ptr<Graph> make_aten_graph(const model::ModelConfig& config, BaseParams params);
/// The ATen graph of a frozen base in f32 on a device, in every scheme: integer plans of others
/// than seed take the numbers that the runtime's codes stand for, once for each width, rotated
/// schemes those of base->rotated(). parallel must outlive it. No adapters that own weights.
std::unique_ptr<Graph> make_aten_graph(std::shared_ptr<const weights::BaseModel> base,
                                       at::Device device, ParallelFor& parallel);

}  // namespace qalof::train
