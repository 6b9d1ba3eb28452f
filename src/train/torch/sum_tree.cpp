// Adds terms like a binary counter: two parts of equal depth become one of the next.
#include <ATen/core/grad_mode.h>

#include "train/torch/sum_tree.h"

namespace qalof::train {

void sum_of(std::vector<at::Tensor>& terms) {
  const at::NoGradGuard no_grad;
  for (std::size_t step = 1; step < terms.size(); step *= 2) {
    for (std::size_t i = 0; i + step < terms.size(); i += 2 * step) terms[i].add_(terms[i + step]);
  }
}

void SumTree::add() {
  const at::NoGradGuard no_grad;
  std::size_t depth = 0;
  while (!parts_.empty() && parts_.back().depth == depth) {
    buffer_.add_(parts_.back().values);
    spare_.push_back(std::move(parts_.back().values));
    parts_.pop_back();
    ++depth;
  }
  if (spare_.empty()) spare_.push_back(at::empty_like(buffer_));
  spare_.back().copy_(buffer_);
  parts_.push_back({depth, std::move(spare_.back())});
  spare_.pop_back();
}

void SumTree::finish() {
  const at::NoGradGuard no_grad;
  if (parts_.empty()) return;
  buffer_.copy_(parts_.back().values);
  spare_.push_back(std::move(parts_.back().values));
  parts_.pop_back();
  for (; !parts_.empty(); parts_.pop_back()) {
    buffer_.add_(parts_.back().values);
    spare_.push_back(std::move(parts_.back().values));
  }
}

}  // namespace qalof::train
