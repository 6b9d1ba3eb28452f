// Losses that compare the states of a network with those of its teachers (docs/numerics.md,
// "Losses"). Each returns a scalar to call backward on and adds its value to *value. Teachers get
// no gradient.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace qalof::train {

/// Squared error of the states [tokens, hidden] after every block, relative to the square of the
/// teacher's state of the same token: a few tokens carry states a hundred times as large as others,
/// and would decide the loss otherwise. Mean over blocks, summed over tokens and teachers, divided
/// by normalizer (the tokens of the whole optimizer step). teachers: the blocks of each teacher, of
/// the same shapes. Quantization-aware knowledge distillation (Kim, Bhalgat, Lee, Patel and Kwak
/// 2019), here on every block and relative.
at::Tensor compute_hidden_loss(const std::vector<at::Tensor>& blocks,
                               const std::vector<const std::vector<at::Tensor>*>& teachers,
                               double normalizer, double* value);

/// The most tokens of a forward pass that compute_contrastive_loss compares.
constexpr std::int64_t kContrastedTokens = 512;
/// Each token's final state [tokens, hidden] should be closer to the teacher's state of the same
/// token than to those of the other tokens of the pass: cross entropy over cosines divided by
/// temperature, mean over tokens, times weight, summed over teachers. Of more than
/// kContrastedTokens tokens, an evenly spaced subset is used. Token-level contrastive distillation
/// of Tao et al. 2022 (QuantGPT), without its projection and memory bank.
at::Tensor compute_contrastive_loss(const at::Tensor& hidden,
                                    const std::vector<at::Tensor>& teachers, double temperature,
                                    double weight, double* value);

}  // namespace qalof::train
