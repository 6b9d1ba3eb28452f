// Probes one width after another with a short training until the loss falls enough.
#include "train/range_test.h"

#include <cmath>
#include <numeric>

#include "core/error.h"
#include "train/trainer.h"

namespace qalof::train {

namespace {

constexpr std::int64_t kSteps = 32, kWarmup = 8;
constexpr std::size_t kFirst = 4, kLast = 8;  // steps whose losses are averaged
constexpr double kShare = 0.5;                // required fall of the loss, relative to max_bits
constexpr double kLeastFall = 0.01;           // required at max_bits, relative to the first losses

// Options of a probe: `joint` with one width, so that batches do not depend on the width.
TrainOptions probe_options(const TrainOptions& options, int bits) {
  TrainOptions probe = options;
  probe.method = Method::kJoint;
  probe.widths.bit_widths = {bits};
  probe.schedule.max_steps = kSteps;
  probe.schedule.max_tokens = 0;
  probe.schedule.warmup_steps = kWarmup;
  probe.schedule.lr_scheduler_type = LrSchedule::kConstant;
  probe.teacher_self = false;
  probe.teacher = nullptr;
  probe.distillation.hidden_kd = probe.distillation.contrastive = 0;
  probe.logging.logging_steps = probe.logging.eval_steps = probe.logging.save_steps = 0;
  return probe;
}

double mean_loss(std::span<const StepRecord> steps) {
  return std::accumulate(steps.begin(), steps.end(), 0.0,
                         [](double sum, const StepRecord& step) { return sum + step.loss; }) /
         static_cast<double>(steps.size());
}

RangeProbe probe(const std::shared_ptr<const weights::BaseModel>& base, const TrainOptions& options,
                 int bits, const Windows& examples, const TrainHooks& hooks) {
  TrainHooks quiet;
  quiet.should_stop = hooks.should_stop;
  std::vector<StepRecord> steps;
  quiet.on_step = [&](const StepRecord& step) { steps.push_back(step); };
  try {
    const bool interrupted = train(base, probe_options(options, bits), examples, quiet).interrupted;
    QALOF_CHECK(!interrupted, ErrorKind::kInterrupted,
                "stopped during the precision range test; nothing is written yet");
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kDiverged) throw;
    return {bits, 0, 0};  // diverged
  }
  const std::span<const StepRecord> all(steps);
  const RangeProbe result{bits, mean_loss(all.first(kFirst)), mean_loss(all.last(kLast))};
  return std::isfinite(result.fall()) ? result : RangeProbe{bits, 0, 0};
}

}  // namespace

RangeTest find_min_bits(const std::shared_ptr<const weights::BaseModel>& base,
                        const TrainOptions& options, const Windows& examples,
                        const TrainHooks& hooks) {
  RangeTest result;
  const auto add = [&](int bits) {
    if (hooks.observer != nullptr)
      hooks.observer->status(fmt::format("range test, {} bits: {} steps", bits, kSteps));
    result.probes.push_back(probe(base, options, bits, examples, hooks));
    const RangeProbe& last = result.probes.back();
    if (hooks.observer != nullptr) {
      hooks.observer->info(
          last.diverged() ? fmt::format("range test, {} bits: diverged", bits)
                          : fmt::format("range test, {} bits: loss {:.4f} to {:.4f} in {} steps",
                                        bits, last.first_loss, last.last_loss, kSteps));
    }
    return last.fall();
  };
  const double fall_at_top = add(options.widths.max_bits);
  QALOF_CHECK(
      !result.probes.front().diverged(), ErrorKind::kDiverged,
      "--min_bits auto: the loss is not finite in {} steps at {} bits, so that no width can "
      "be compared; a lower --learning_rate may help",
      kSteps, options.widths.max_bits);
  QALOF_CHECK(fall_at_top > kLeastFall * result.probes.front().first_loss, ErrorKind::kUsage,
              "--min_bits auto: the loss does not fall by a hundredth in {} steps at {} bits, so "
              "that no width can be compared; give the number",
              kSteps, options.widths.max_bits);
  int bits = kFewestBits;
  while (bits < options.widths.max_bits - 1 && add(bits) < kShare * fall_at_top) ++bits;
  result.min_bits = bits;
  return result;
}

}  // namespace qalof::train
