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

void SumOfParts::sum(at::Tensor& values, std::size_t contributors, const Exchange& parts_to_each,
                     const Exchange& whole_to_all) {
  const at::NoGradGuard no_grad;
  const auto processes = static_cast<std::int64_t>(processes_);
  const std::int64_t count = values.numel(), part = (count + processes - 1) / processes;
  if (!mine_.defined() || mine_.numel() != processes * part) {
    mine_ = at::zeros({processes * part}, values.options());
    parts_ = at::empty({processes * part}, values.options());
  }
  mine_.narrow(0, 0, count).copy_(values);
  parts_to_each(parts_, mine_);
  std::vector<at::Tensor> terms;
  for (std::size_t i = 0; i < contributors; ++i)
    terms.push_back(parts_.narrow(0, static_cast<std::int64_t>(i) * part, part));
  sum_of(terms);
  whole_to_all(mine_, terms.front());
  values.copy_(mine_.narrow(0, 0, count));
}

}  // namespace qalof::train
