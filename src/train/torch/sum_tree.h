// Sums in one fixed binary tree, so that they do not depend on which process adds which terms
// (docs/numerics.md, "Sums over processes").
#pragma once

#include <ATen/ATen.h>

#include <cstddef>
#include <functional>
#include <vector>

namespace qalof::train {

/// Adds neighbours until one is left, terms.front(); where their number is odd the last waits for
/// the next round. Terms are overwritten; at least one.
void sum_of(std::vector<at::Tensor>& terms);

/// The same sum of terms that are computed one after another in one buffer, with as many copies as
/// the tree is deep.
class SumTree {
 public:
  /// buffer outlives this.
  explicit SumTree(at::Tensor& buffer) : buffer_(buffer) {}
  /// Takes the term in the buffer; its contents are undefined until finish.
  void add();
  /// Leaves the sum of the terms since the last finish in the buffer.
  void finish();

 private:
  struct Part {
    std::size_t depth;
    at::Tensor values;
  };
  at::Tensor& buffer_;
  std::vector<Part> parts_;        // from the first terms on, ever less deep
  std::vector<at::Tensor> spare_;  // buffers to use again
};

/// A tree over processes: each adds a part of the values of all, then all get every part. So twice
/// the bytes of the values travel, whatever the number of processes.
class SumOfParts {
 public:
  /// Sends one of equal parts of a tensor to each process, or the whole of one to all, and puts
  /// what comes from them into `received` by rank.
  using Exchange = std::function<void(at::Tensor& received, at::Tensor& sent)>;

  explicit SumOfParts(std::size_t processes) : processes_(processes) {}
  /// values [n] become the sum over the first `contributors` processes.
  void sum(at::Tensor& values, std::size_t contributors, const Exchange& parts_to_each,
           const Exchange& whole_to_all);

 private:
  std::size_t processes_;
  at::Tensor mine_, parts_;  // [processes * part]; what is behind the values is zero
};

}  // namespace qalof::train
