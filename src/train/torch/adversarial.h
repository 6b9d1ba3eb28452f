// Adversarial examples in embedding space by projected gradient ascent, for training against them
// (docs/numerics.md, "Adversarial training"; Madry et al. 2018, Fu et al. 2021 "Double-Win Quant").
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>

#include "core/random.h"
#include "train/options.h"

namespace qalof::train {

/// Each token's row [tokens, hidden], uniform in the ball of radius epsilon: a function of the
/// stream, of step (0-based, of the phase), pass and the token's number in the step.
at::Tensor start_of_perturbation(const RandomStream& stream, const AdversarialOptions& options,
                                 std::int64_t step, std::size_t pass, std::size_t first_token,
                                 std::int64_t tokens, std::int64_t hidden);

/// One step upwards along gradient [tokens, hidden] and back into the ball. A row without gradient
/// stays.
at::Tensor ascend(const at::Tensor& perturbation, const at::Tensor& gradient,
                  const AdversarialOptions& options);

/// What options.steps of them make of start: the perturbation [tokens, hidden] to be added to
/// embedded, without gradient. loss gives the scalar to be raised, differentiable in its argument;
/// parameters get no gradient of it.
at::Tensor perturbation_of(const at::Tensor& embedded, at::Tensor start,
                           const AdversarialOptions& options,
                           const std::function<at::Tensor(const at::Tensor& embedded)>& loss);

}  // namespace qalof::train
