// Activation checkpointing: a part of a network that keeps its inputs alone and runs again in the
// backward pass (Chen, Xu, Zhang and Guestrin 2016, "Training deep nets with sublinear memory
// cost").
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <vector>

#include "model/config.h"
#include "train/torch/network.h"

namespace qalof::train {

/// Outputs of a part of a network from its inputs. A pure function: called again it gives the same
/// bits. What it reads besides must live, unchanged, until the backward pass.
using NetworkPart = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& inputs)>;

/// part(inputs). Where gradients are wanted, they are those of part by bits, but what its backward
/// pass needs is computed again there. parameters: the tensors besides inputs that may get a
/// gradient from part.
std::vector<at::Tensor> checkpointed(NetworkPart part, const std::vector<at::Tensor>& inputs,
                                     const std::vector<at::Tensor>& parameters);

/// The tensors of view and params that a block may give a gradient to; some may be undefined,
/// frozen or not read by it.
std::vector<at::Tensor> block_parameters(std::size_t layer, const model::LayerSteps& steps,
                                         const NetworkView& view, const BaseParams& params);

}  // namespace qalof::train
