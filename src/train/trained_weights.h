// The result of training: adapters with heads per width, or the whole model's tensors; and a base
// made from such tensors, so that a model under training can be evaluated without writing files.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "weights/adapter.h"
#include "weights/base_model.h"

namespace qalof::train {

struct NamedTensor {
  std::vector<std::size_t> shape;
  std::vector<float> values;
};

struct TrainedWeights {
  /// lora and switch: an adapter with its head per weight width.
  std::map<int, std::shared_ptr<const weights::Adapter>> adapters;
  /// full: every tensor in the Hugging Face layout ("h.0.attn.c_attn.weight" is [in, out]), without
  /// prefix; among them the head of the task: "qa_outputs.weight" and ".bias", or
  /// "score.weight".
  std::map<std::string, NamedTensor> tensors;
};

/// A base made from the tensors of `full`, with the config of like.
std::shared_ptr<const weights::BaseModel> make_base(
    const weights::BaseModel& like, const std::map<std::string, NamedTensor>& tensors);
/// The adapters as a set for the runtime.
std::shared_ptr<const weights::AdapterSet> make_adapter_set(const TrainedWeights& weights);

}  // namespace qalof::train
