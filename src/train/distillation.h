// Weights of hard labels and teacher logits in a loss (docs/numerics.md, "Losses"). Data only.
#pragma once

#include <cstddef>

#include "train/options.h"

namespace qalof::train {

struct Distillation {
  double alpha = 0;        // kl: share of distillation in the loss, divided among the teachers
  double temperature = 1;  // kl
  KdLoss loss = KdLoss::kKl;
  double beta = 1;  // mse: the weight of each teacher

  /// Weight of the hard labels; of distillation as a whole; and one teacher's share of the latter.
  double hard_weight(std::size_t num_teachers) const {
    return num_teachers > 0 && loss == KdLoss::kKl ? 1.0 - alpha : 1.0;
  }
  double weight() const { return loss == KdLoss::kKl ? alpha : beta; }
  double share(std::size_t num_teachers) const {
    return loss == KdLoss::kKl ? 1.0 / static_cast<double>(num_teachers) : 1.0;
  }
};

}  // namespace qalof::train
