// AdamW on runs of neighbouring groups with equal step counts, and clipping by the global norm.
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "train/torch/optimizer.h"

namespace qalof::train {

AdamW::AdamW(FlatParameters& parameters, const AdamWOptions& options)
    : parameters_(parameters),
      options_(options),
      mean_(at::zeros_like(parameters.values())),
      square_(at::zeros_like(parameters.values())),
      scratch_(at::empty_like(parameters.values())),
      steps_(parameters.num_groups()) {}

std::vector<AdamW::Run> AdamW::find_runs(std::span<const std::size_t> groups) const {
  std::vector<Run> runs;
  for (const std::size_t kind : {0, 1}) {  // matrices come before vectors
    for (const std::size_t group : groups) {
      const ParameterRange& range = parameters_.group(group)[kind];
      if (range.count == 0) continue;
      const bool extends = !runs.empty() && runs.back().steps == steps_[group] &&
                           runs.back().range.first + runs.back().range.count == range.first;
      if (extends) {
        runs.back().range.count += range.count;
      } else {
        runs.push_back({range, steps_[group]});
      }
    }
  }
  return runs;
}

void AdamW::update(double learning_rate, const Run& run) {
  const auto [first, count] = run.range;
  auto part = [&](at::Tensor& all) { return all.narrow(0, first, count); };
  const at::Tensor gradients = part(parameters_.gradients()), values = part(parameters_.values());
  const at::Tensor mean = part(mean_), square = part(square_);
  at::Tensor scratch = part(scratch_);
  const double correction1 = 1.0 - std::pow(options_.beta1, static_cast<double>(run.steps));
  const double correction2 = 1.0 - std::pow(options_.beta2, static_cast<double>(run.steps));
  const std::int64_t decayed =
      std::clamp(parameters_.num_decayed() - first, std::int64_t{0}, count);
  if (options_.weight_decay > 0 && decayed > 0) {
    values.narrow(0, 0, decayed).mul_(1.0 - learning_rate * options_.weight_decay);
  }
  mean.mul_(options_.beta1).add_(gradients, 1.0 - options_.beta1);
  square.mul_(options_.beta2).addcmul_(gradients, gradients, 1.0 - options_.beta2);
  at::sqrt_out(scratch, square);
  scratch.div_(std::sqrt(correction2)).add_(options_.epsilon);
  values.addcdiv_(mean, scratch, -learning_rate / correction1);
}

void AdamW::step(double learning_rate, std::span<const std::size_t> groups) {
  const at::NoGradGuard no_grad;
  for (const std::size_t group : groups) ++steps_[group];
  for (const Run& run : find_runs(groups)) update(learning_rate, run);
}

AdamWState AdamW::state() const { return {to_vector(mean_), to_vector(square_), steps_}; }

void AdamW::restore(const AdamWState& state) {
  QALOF_CHECK(state.steps.size() == steps_.size(), ErrorKind::kBadInput,
              "checkpoint: the optimizer counts {} groups, expected {}", state.steps.size(),
              steps_.size());
  copy_values(state.mean, "optimizer.mean", mean_);
  copy_values(state.square, "optimizer.square", square_);
  steps_ = state.steps;
}

double clip_gradients(at::Tensor& gradients, double max_norm) {
  const double norm =
      at::linalg_vector_norm(gradients, 2, std::nullopt, /*keepdim=*/false, at::kDouble)
          .item<double>();
  if (max_norm > 0 && std::isfinite(norm) && norm > max_norm) {
    const at::NoGradGuard no_grad;
    gradients.mul_(max_norm / norm);
  }
  return norm;
}

}  // namespace qalof::train
