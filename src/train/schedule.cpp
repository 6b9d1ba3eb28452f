#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "train/batch.h"

namespace qalof::train {

double learning_rate_at(const TrainOptions& options, std::int64_t step, std::int64_t total) {
  const std::int64_t warmup = options.warmup_steps;
  if (step < warmup) {
    return options.learning_rate * static_cast<double>(step) / static_cast<double>(warmup);
  }
  const double done = static_cast<double>(step - warmup);
  const double length = static_cast<double>(std::max<std::int64_t>(total - warmup, 1));
  const double fraction = std::min(done / length, 1.0);
  switch (options.lr_scheduler_type) {
    case LrSchedule::kConstant:
      return options.learning_rate;
    case LrSchedule::kLinear:
      return options.learning_rate * (1.0 - fraction);
    case LrSchedule::kCosine:
      break;
  }
  return options.learning_rate * 0.5 * (1.0 + std::cos(std::numbers::pi * fraction));
}

namespace {

std::int64_t steps_of_tokens(const TrainOptions& options, const Phase& phase,
                             std::span<const Example> examples) {
  const std::size_t passes = phase.walk == Walk::kAll ? phase.networks.size() : 1;
  DataOrder order = data_order(options, phase.name, examples);
  std::int64_t tokens = 0;
  for (std::int64_t step = 0;; ++step) {
    std::size_t in_step = 0;
    for (const std::uint32_t w : order.step(step)) in_step += examples[w].ids.size();
    const auto next = tokens + static_cast<std::int64_t>(passes * in_step);
    if (next >= options.max_tokens) {
      const bool with_it = next - options.max_tokens <= options.max_tokens - tokens;
      return std::max<std::int64_t>(1, with_it ? step + 1 : step);
    }
    tokens = next;
  }
}

}  // namespace

std::int64_t steps_of_phase(const TrainOptions& options, const Phase& phase,
                            std::span<const Example> examples) {
  if (options.max_steps > 0) return options.max_steps;
  if (options.max_tokens > 0) return steps_of_tokens(options, phase, examples);
  const std::size_t per_step = options.batch_size * options.gradient_accumulation_steps;
  const auto per_epoch = static_cast<double>((examples.size() + per_step - 1) / per_step);
  return std::max<std::int64_t>(1, std::llround(std::ceil(per_epoch * options.num_train_epochs)));
}

}  // namespace qalof::train
