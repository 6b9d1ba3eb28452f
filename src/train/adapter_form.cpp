// Ranks and scaling of adapters, and which quantizer values a run learns.
#include "train/adapter_form.h"

namespace qalof::train {

std::size_t adapter_rank(const TrainOptions& options, int bits) {
  if (options.adapters.adapter_form != AdapterForm::kCascaded) return options.adapters.lora_r;
  const std::size_t thirds = bits <= 4 ? 3 : bits <= 6 ? 2 : 1;
  return (options.adapters.lora_r * thirds + 2) / 3;
}

double lora_scaling(const TrainOptions& options) {
  return options.adapters.lora_alpha / static_cast<double>(options.adapters.lora_r);
}

bool learns_steps(const TrainOptions& options) {
  return options.quantizers.learn_steps == LearnSteps::kWeights ||
         options.quantizers.learn_steps == LearnSteps::kAll;
}
bool learns_clips(const TrainOptions& options) {
  return options.quantizers.learn_steps == LearnSteps::kActivations ||
         options.quantizers.learn_steps == LearnSteps::kAll;
}
bool owns_weights(const TrainOptions& options) {
  return options.adapters.adapter_form == AdapterForm::kMerged || learns_steps(options);
}

}  // namespace qalof::train
