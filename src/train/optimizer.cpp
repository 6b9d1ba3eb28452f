#include <cmath>

#include "train/optimizer_torch.h"

namespace qalof::train {

AdamW::AdamW(FlatParameters& parameters, const AdamWOptions& options)
    : parameters_(parameters),
      options_(options),
      mean_(at::zeros_like(parameters.values())),
      square_(at::zeros_like(parameters.values())),
      scratch_(at::empty_like(parameters.values())) {}

void AdamW::step(double learning_rate) {
  ++steps_;
  const at::NoGradGuard no_grad;
  const at::Tensor& gradients = parameters_.gradients();
  at::Tensor& values = parameters_.values();
  const double correction1 = 1.0 - std::pow(options_.beta1, static_cast<double>(steps_));
  const double correction2 = 1.0 - std::pow(options_.beta2, static_cast<double>(steps_));
  if (options_.weight_decay > 0) {
    values.narrow(0, 0, parameters_.num_decayed())
        .mul_(1.0 - learning_rate * options_.weight_decay);
  }
  mean_.mul_(options_.beta1).add_(gradients, 1.0 - options_.beta1);
  square_.mul_(options_.beta2).addcmul_(gradients, gradients, 1.0 - options_.beta2);
  at::sqrt_out(scratch_, square_);
  scratch_.div_(std::sqrt(correction2)).add_(options_.epsilon);
  values.addcdiv_(mean_, scratch_, -learning_rate / correction1);
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
