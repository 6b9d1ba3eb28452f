// AdamW (Loshchilov and Hutter 2019, algorithm 2) on flat buffers.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <vector>

#include "train/run_state.h"
#include "train/torch/network.h"

namespace qalof::train {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0;
};

/// The optimizer with its moments; parameters must outlive it.
class AdamW {
 public:
  AdamW(FlatParameters& parameters, const AdamWOptions& options);
  /// Updates the groups (ascending) that were trained, from the current gradients. The others keep
  /// their values, moments and step counts.
  void step(double learning_rate, std::span<const std::size_t> groups);
  AdamWState state() const;
  /// Error{kBadInput} where the state does not fit these parameters.
  void restore(const AdamWState& state);

 private:
  // Neighbouring ranges of groups that have taken the same number of steps.
  struct Run {
    ParameterRange range;
    std::int64_t steps = 0;
  };
  std::vector<Run> find_runs(std::span<const std::size_t> groups) const;
  void update(double learning_rate, const Run& run);

  FlatParameters& parameters_;
  AdamWOptions options_;
  at::Tensor mean_, square_, scratch_;
  std::vector<std::int64_t> steps_;  // [group]
};

/// Scales gradients so that their norm is at most max_norm (0: no clipping) and returns the norm
/// before. Gradients whose norm is not finite are left unchanged.
double clip_gradients(at::Tensor& gradients, double max_norm);

}  // namespace qalof::train
