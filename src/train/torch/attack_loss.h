// The terms of the loss that an attack minimizes (docs/numerics.md, "Attack"), over packed rows of
// mixed embeddings; each is differentiable.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "train/batch.h"
#include "train/gradient_gemm.h"

namespace qalof::train {

/// Token embeddings [vocab, hidden] and products with them from both sides: by the kernels where
/// they are f32 on the CPU, else by ATen. Must outlive the tensors computed with it.
class TokenMatrix {
 public:
  /// bits: 32, or, on the CPU, 16: factors are rounded to bfloat16, sums are f32.
  TokenMatrix(const at::Tensor& table, int bits, ParallelFor& parallel);
  const at::Tensor& table() const { return table_; }
  std::int64_t vocab() const { return table_.size(0); }
  /// weights [rows, vocab] -> [rows, hidden]
  at::Tensor mix(const at::Tensor& weights) const;
  /// rows [rows, hidden] -> scores [rows, vocab]
  void scores(const at::Tensor& rows, at::Tensor& scores) const;
  ParallelFor& parallel() const { return parallel_; }

 private:
  void multiply(const at::Tensor& x, const kernels::PackedMatrix& w, at::Tensor& y) const;

  at::Tensor table_;
  ParallelFor& parallel_;
  std::vector<std::byte> mix_panels_, score_panels_;  // none: ATen
  kernels::PackedMatrix mix_matrix_, score_matrix_;
};

/// Calls task for stretches of up to size rows on the threads of parallel, without gradient; the
/// stretches depend on rows and size alone.
void for_rows(std::int64_t rows, std::int64_t size, ParallelFor& parallel,
              const std::function<void(std::int64_t first, std::int64_t count)>& task);

/// max(0, z_label - max of the others + kappa) per row of logits [windows, classes]; returns
/// [windows].
at::Tensor margin_losses(const at::Tensor& logits, std::span<const std::int32_t> labels,
                         double kappa);

/// Per window, the mean of -sum_v pi_v log p(v | before) over all its tokens but the first: p are a
/// language model's predictions from its states hidden [tokens, hidden], and pi mixes its token
/// embeddings to mixed [tokens, hidden]. Needs mixed alone, not pi, because sum_v pi_v = 1. Returns
/// [windows]; 0 for a window of one token. Differentiable in hidden and mixed.
at::Tensor fluency_losses(const at::Tensor& hidden, const at::Tensor& mixed,
                          const PackedBatch& batch, const TokenMatrix& tokens);

/// The recall of BERTScore (Zhang et al. 2020): sum_i weights_i max_j cos(original_i, hidden_j) per
/// window of hidden [windows * n, hidden]; original [n, hidden], weights [n]. Returns [windows],
/// differentiable in hidden.
at::Tensor similarities(const at::Tensor& hidden, const at::Tensor& original,
                        const at::Tensor& weights);

}  // namespace qalof::train
