// Adversarial examples in embedding space by projected gradient ascent, for training against them
// (docs/numerics.md, "Adversarial training"; Madry et al. 2018, Fu et al. 2021 "Double-Win Quant").
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>

#include "core/random.h"
#include "train/options.h"

namespace qalof::train {

/// A random start [tokens, hidden], each token's row uniform in the ball of radius epsilon: a
/// function of the stream, the step (0-based, of the phase), the pass and the token's number in the
/// step.
at::Tensor start_of_perturbation(const RandomStream& stream, const AdversarialOptions& options,
                                 std::int64_t step, std::size_t pass, std::size_t first_token,
                                 std::int64_t tokens, std::int64_t hidden);

/// One ascent step along gradient [tokens, hidden], projected back into the ball. A row whose
/// gradient is zero does not move.
at::Tensor ascend(const at::Tensor& perturbation, const at::Tensor& gradient,
                  const AdversarialOptions& options);

/// The perturbation [tokens, hidden] of embedded after options.steps ascent steps from start,
/// without gradient. loss returns the scalar to maximize, differentiable in its argument;
/// parameters get no gradient from it.
at::Tensor compute_perturbation(const at::Tensor& embedded, at::Tensor start,
                                const AdversarialOptions& options,
                                const std::function<at::Tensor(const at::Tensor& embedded)>& loss);

}  // namespace qalof::train
