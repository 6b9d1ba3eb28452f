// Sums in one fixed binary tree, so that they do not depend on which process adds which terms
// (docs/numerics.md, "Sums over processes").
#pragma once

#include <ATen/ATen.h>

#include <cstddef>
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

}  // namespace qalof::train
