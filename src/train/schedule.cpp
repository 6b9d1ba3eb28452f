// Warmup and decay of the learning rate, and the number of steps of a phase.
#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "train/batch.h"

namespace qalof::train {

double learning_rate_at(const TrainOptions& options, std::int64_t step, std::int64_t total) {
  const std::int64_t warmup = options.schedule.warmup_steps;
  if (step < warmup) {
    return options.schedule.learning_rate * static_cast<double>(step) / static_cast<double>(warmup);
  }
  const double done = static_cast<double>(step - warmup);
  const double length = static_cast<double>(std::max<std::int64_t>(total - warmup, 1));
  const double fraction = std::min(done / length, 1.0);
  switch (options.schedule.lr_scheduler_type) {
    case LrSchedule::kConstant:
      return options.schedule.learning_rate;
    case LrSchedule::kLinear:
      return options.schedule.learning_rate * (1.0 - fraction);
    case LrSchedule::kCosine:
      break;
  }
  return options.schedule.learning_rate * 0.5 * (1.0 + std::cos(std::numbers::pi * fraction));
}

namespace {

std::int64_t steps_of_epoch(const TrainOptions& options, std::size_t examples) {
  const std::size_t per_step =
      options.schedule.batch_size * options.schedule.gradient_accumulation_steps;
  return static_cast<std::int64_t>((examples + per_step - 1) / per_step);
}

std::int64_t steps_of_tokens(const TrainOptions& options, const Phase& phase,
                             const Windows& examples) {
  const std::size_t passes = phase.walk == Walk::kAll ? phase.networks.size() : 1;
  // Whole epochs that end before max_tokens are skipped without counting their steps.
  const auto of_epoch = static_cast<std::int64_t>(passes * examples.tokens());
  const std::int64_t epochs = (options.schedule.max_tokens - 1) / of_epoch;
  const std::int64_t per_epoch = steps_of_epoch(options, examples.size());
  QALOF_CHECK(epochs < kMostSteps / per_epoch, ErrorKind::kUsage,
              "--max_tokens: found {}, which are {} passes of {} steps over the data, expected at "
              "most {} steps",
              options.schedule.max_tokens, epochs, per_epoch, kMostSteps);
  DataOrder order = data_order(options, phase.name, examples);
  std::int64_t tokens = epochs * of_epoch;
  for (std::int64_t step = epochs * per_epoch;; ++step) {
    std::size_t in_step = 0;
    for (const std::uint32_t w : order.step(step)) in_step += examples.length(w);
    const auto next = tokens + static_cast<std::int64_t>(passes * in_step);
    if (next >= options.schedule.max_tokens) {
      const bool with_it =
          next - options.schedule.max_tokens <= options.schedule.max_tokens - tokens;
      return std::max<std::int64_t>(1, with_it ? step + 1 : step);
    }
    tokens = next;
  }
}

}  // namespace

std::int64_t steps_of_phase(const TrainOptions& options, const Phase& phase,
                            const Windows& examples) {
  if (options.schedule.max_steps > 0) return options.schedule.max_steps;
  if (options.schedule.max_tokens > 0) return steps_of_tokens(options, phase, examples);
  const std::int64_t per_epoch = steps_of_epoch(options, examples.size());
  const double steps =
      std::ceil(static_cast<double>(per_epoch) * options.schedule.num_train_epochs);
  QALOF_CHECK(steps <= static_cast<double>(kMostSteps), ErrorKind::kUsage,
              "--num_train_epochs: found {}, which are {} steps, {} in each epoch, expected at "
              "most {} steps",
              options.schedule.num_train_epochs, steps, per_epoch, kMostSteps);
  return std::max<std::int64_t>(1, std::llround(steps));
}

}  // namespace qalof::train
