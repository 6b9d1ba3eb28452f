// AdamW (Loshchilov and Hutter 2019, algorithm 2) on flat buffers.
#pragma once

#include <ATen/ATen.h>

#include "train/network_torch.h"

namespace qalof::train {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0;
};

class AdamW {
 public:
  AdamW(FlatParameters& parameters, const AdamWOptions& options);
  /// One update from the gradients as they are.
  void step(double learning_rate);

 private:
  FlatParameters& parameters_;
  AdamWOptions options_;
  at::Tensor mean_, square_, scratch_;
  std::int64_t steps_ = 0;
};

/// Scales gradients so that their norm is at most max_norm (0: leaves them) and returns the norm
/// before. A norm that is not finite leaves them as they are.
double clip_gradients(at::Tensor& gradients, double max_norm);

}  // namespace qalof::train
