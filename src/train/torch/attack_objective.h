// One evaluation of an attack's loss and of its gradient with respect to the distributions' theta.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "train/attack.h"
#include "train/torch/attack_loss.h"
#include "train/torch/graph.h"

namespace qalof::train {

/// A network at one precision, ready to be differentiated.
struct AttackNetwork {
  Graph* graph = nullptr;
  std::shared_ptr<const GraphPlan> plan;
  NetworkView view;
  std::shared_ptr<const TokenMatrix> tokens;  // rounded as in the plan
};

/// A text under attack: theta and noise are [positions, vocab].
struct TextState {
  const AttackText* text = nullptr;
  at::Tensor theta;
  at::Tensor original;  // the reference's states on the original text [positions, hidden]
  at::Tensor weights;   // of the similarity [positions]
  at::Tensor gradient;  // of the loss [positions, vocab]; set by evaluate
  AttackLosses losses;  // set by evaluate
};

/// The attack's loss on fixed networks. Not thread-safe.
class AttackObjective {
 public:
  /// classifiers: at least one; allowed [vocab] is 0 or 1. product_bits: TokenMatrix's.
  AttackObjective(std::vector<AttackNetwork> classifiers, AttackNetwork reference,
                  at::Tensor allowed, const AttackOptions& options, int product_bits,
                  ParallelFor& parallel);

  /// The reference's states on a text [positions, hidden].
  at::Tensor original_states(const AttackText& text);
  /// exp((theta - max) / temperature) for allowed tokens, else 0; at positions of kept tokens, 1
  /// for that token and 0 elsewhere, so that every sample has it and the gradient is 0.
  at::Tensor weights_of(const TextState& state) const;
  /// Computes loss and gradient of each text for its noise [samples][positions, vocab] (in the form
  /// of GumbelNoise). chosen: the classifiers to average over; empty: all.
  void evaluate(std::span<TextState> texts, const std::vector<std::vector<at::Tensor>>& noise,
                std::span<const std::size_t> chosen);

 private:
  at::Tensor sample(std::span<TextState> texts, const std::vector<std::vector<at::Tensor>>& noise);
  at::Tensor margins(const PackedBatch& batch, const std::vector<std::size_t>& chosen,
                     std::map<const TokenMatrix*, at::Tensor>& mixed);
  void differentiate_samples(std::span<TextState> texts, const at::Tensor& samples,
                             const at::Tensor& gradient) const;

  // Embeddings of all networks concatenated by column, so that samples are read, and their gradient
  // is written, only once.
  struct Column {
    std::shared_ptr<const TokenMatrix> tokens;
    std::int64_t first = 0;
  };

  std::vector<AttackNetwork> classifiers_;
  AttackNetwork reference_;
  std::vector<Column> columns_;
  std::unique_ptr<const TokenMatrix> all_tokens_;
  at::Tensor allowed_;
  AttackOptions options_;
  ParallelFor& parallel_;
  at::Tensor samples_, scores_;  // [rows, vocab], reused between calls
};

}  // namespace qalof::train
