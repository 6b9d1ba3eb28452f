// Adds up the bytes of parameters, packed weights, activations, logits and teachers of a run.
#include "train/memory.h"

#include <algorithm>

#include "train/adapter_form.h"
#include "train/phases.h"

namespace qalof::train {

TrainOptions with_batches(std::size_t windows, TrainOptions options) {
  options.schedule.batch_size =
      std::min(options.schedule.batch_size, std::max<std::size_t>(windows, 1));
  return options;
}

std::uint64_t estimate_training_bytes(const model::ModelConfig& config, const TrainOptions& options,
                                      std::size_t tokens_per_window) {
  constexpr std::uint64_t kFloat = sizeof(float);
  std::uint64_t linear_weights = 0, rank_weights = 0;
  for (const model::LinearSpec& spec : model::linears(config)) {
    linear_weights += spec.in * spec.out;
    rank_weights += spec.in + spec.out;
  }
  const std::uint64_t all_weights = model::parameter_count(config);
  const bool full = options.method == Method::kFull;
  const bool single = full || options.method == Method::kLora;
  const std::uint64_t adapters = single ? 1 : trained_widths(options).size();
  const bool one_adapter =
      options.method == Method::kSwitch || options.adapters.adapter_form == AdapterForm::kCascaded;
  const std::uint64_t at_once = one_adapter ? 1 : adapters;
  const std::uint64_t widths =
      options.method == Method::kCpt
          ? static_cast<std::uint64_t>(options.widths.max_bits - options.widths.min_bits + 1)
          : adapters;
  // Values, gradients and two moments; plus the copies of a checkpoint: values and moments to
  // resume from, and the weights in the form in which they are returned.
  const std::uint64_t trained =
      (full ? all_weights : at_once * options.adapters.lora_r * rank_weights) * (4 + 5) * kFloat;
  // Weights packed for the forward pass and for the backward pass, once per width.
  const std::uint64_t forms = widths * linear_weights * 2 * kFloat;
  // The floats that codes are made from; two weight gradients of the largest linear are negligible.
  const std::uint64_t floats = owns_weights(options) ? linear_weights * kFloat : 0;
  const std::uint64_t base = full ? 0 : all_weights * kFloat;  // the mapped file

  const std::uint64_t tokens = options.schedule.batch_size * tokens_per_window;
  // Kept per token and layer: inputs of four linears and two norms, qkv, the activation's input,
  // attention's output and the residual after each half; then what only some families have: the
  // second factor of the activation, q and k before their norms, and the inputs of further norms.
  const std::uint64_t per_layer = 5 * config.hidden + 2 * config.q_width() + 2 * config.inner +
                                  config.qkv_width() + (config.is_gated() ? config.inner : 0) +
                                  (config.has_qk_norms ? config.qkv_width() : 0) +
                                  (config.has_out_norms ? 2 * config.hidden : 0);
  // With checkpointing: the residual and its norm of every block, and one block as a whole.
  const std::uint64_t kept = options.schedule.activation_checkpointing
                                 ? config.num_layers * 2 * config.hidden + per_layer
                                 : config.num_layers * per_layer;
  const std::uint64_t activations = tokens * kept * kFloat;
  // Logits are computed in chunks of this many rows (torch/loss.cpp), with a few copies.
  const std::uint64_t logit_rows = std::min<std::uint64_t>(tokens, 512);
  const std::uint64_t logits =
      options.head_kind == weights::HeadKind::kLm ? 5 * logit_rows * config.vocab_size * kFloat : 0;
  // States of students and teachers at the same time, and the cache of teacher states.
  const bool has_states =
      options.distillation.hidden_kd > 0 || options.distillation.contrastive > 0;
  const std::uint64_t states =
      has_states ? 2 * tokens * config.num_layers * config.hidden * kFloat : 0;
  const bool has_cache = options.teacher || options.method == Method::kSwitch;
  const bool large = has_states || options.head_kind == weights::HeadKind::kLm;
  std::uint64_t teacher = has_cache && large ? options.distillation.teacher_cache_bytes : 0;
  if (options.teacher) teacher += model::parameter_count(options.teacher->base->config()) * kFloat;
  return trained + forms + floats + base + activations + logits + states + teacher;
}

}  // namespace qalof::train
