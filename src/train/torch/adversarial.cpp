// Random starts in the ball, ascent steps with projection, and the loop that perturbs embeddings.
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "train/torch/adversarial.h"

namespace qalof::train {

namespace {

// The passes of a step use disjoint ranges of counters: the pass is in the bits above these.
constexpr unsigned kPassShift = 48;

at::Tensor row_norms(const at::Tensor& rows) { return at::linalg_vector_norm(rows, 2, {1}, true); }

}  // namespace

at::Tensor start_of_perturbation(const RandomStream& stream, const AdversarialOptions& options,
                                 std::int64_t step, std::size_t pass, std::size_t first_token,
                                 std::int64_t tokens, std::int64_t hidden) {
  at::Tensor start = at::empty({tokens, hidden}, at::kFloat);
  const auto at = static_cast<std::uint64_t>(step);
  const auto width = static_cast<std::size_t>(hidden);
  const auto epsilon = static_cast<float>(options.epsilon);
  float* row = start.mutable_data_ptr<float>();
  for (std::int64_t token = 0; token < tokens; ++token, row += width) {
    // One counter per number, plus one for the radius.
    const std::uint64_t first = (std::uint64_t{pass} << kPassShift) +
                                (first_token + static_cast<std::size_t>(token)) * (width + 1);
    double square = 0;
    for (std::size_t j = 0; j < width; ++j) {
      if (options.norm == PerturbationNorm::kLinf) {
        row[j] = epsilon * (2 * stream.uniform(at, first + j) - 1);
      } else {
        row[j] = stream.normal(at, first + j);
        square += double{row[j]} * double{row[j]};
      }
    }
    if (options.norm == PerturbationNorm::kLinf || square == 0) continue;
    const double radius = options.epsilon * std::pow(double{stream.uniform(at, first + width)},
                                                     1.0 / static_cast<double>(width));
    const auto scale = static_cast<float>(radius / std::sqrt(square));
    for (std::size_t j = 0; j < width; ++j) row[j] *= scale;
  }
  return start;
}

at::Tensor ascend(const at::Tensor& perturbation, const at::Tensor& gradient,
                  const AdversarialOptions& options) {
  if (options.norm == PerturbationNorm::kLinf) {
    return (perturbation + options.step_length() * gradient.sign())
        .clamp(-options.epsilon, options.epsilon);
  }
  const at::Tensor norms = row_norms(gradient);
  const at::Tensor direction = at::where(norms > 0, gradient / norms, at::zeros_like(gradient));
  const at::Tensor moved = perturbation + options.step_length() * direction;
  const at::Tensor lengths = row_norms(moved);
  return at::where(lengths > options.epsilon, moved * (options.epsilon / lengths), moved);
}

at::Tensor compute_perturbation(const at::Tensor& embedded, at::Tensor start,
                                const AdversarialOptions& options,
                                const std::function<at::Tensor(const at::Tensor& embedded)>& loss) {
  const at::Tensor clean = embedded.detach();
  at::Tensor perturbation = std::move(start);
  for (std::int64_t i = 0; i < options.steps; ++i) {
    const at::Tensor point = (clean + perturbation).requires_grad_();
    const at::Tensor gradient = torch::autograd::grad({loss(point)}, {point}).front();
    perturbation = ascend(perturbation, gradient, options);
  }
  return perturbation;
}

}  // namespace qalof::train
