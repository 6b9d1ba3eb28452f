// Chooses the networks and teachers of a step: walks, cycles, drawn widths, and when to descend.
#include "train/step_plan.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "core/error.h"
#include "core/random.h"

namespace qalof::train {

namespace {

// A cycle with fewer steps would skip widths.
constexpr std::int64_t kMinStepsPerCycle = 5;
// Descend by loss: the loss has stopped falling where a mean is not lower than the previous one by
// this share.
constexpr double kPlateau = 0.01;

// Bits, before rounding, at a part (0..1) of a cycle.
double bits_at(const TrainOptions& options, double part) {
  const double range = options.widths.max_bits - options.widths.min_bits;
  return options.widths.min_bits + 0.5 * range * (1.0 - std::cos(std::numbers::pi * part));
}

bool ends_at_top(const TrainOptions& options, std::int64_t cycles, std::int64_t total) {
  const double last = 1.0 - static_cast<double>(cycles) / static_cast<double>(total);
  return cycles * kMinStepsPerCycle <= total &&
         std::nearbyint(bits_at(options, last)) == options.widths.max_bits;
}

// Number of steps over which descend averages the loss.
std::size_t loss_window(const Phase& phase, std::int64_t total) {
  const auto levels = static_cast<std::int64_t>(phase.networks.size());
  return static_cast<std::size_t>(std::clamp<std::int64_t>(total / (4 * levels), 1, 50));
}

bool has_stopped_falling(const std::vector<double>& losses, std::size_t window) {
  if (losses.size() < 2 * window) return false;
  const auto mean = [&](auto first) {
    return std::accumulate(first, first + static_cast<std::ptrdiff_t>(window), 0.0) /
           static_cast<double>(window);
  };
  const auto last = losses.end() - static_cast<std::ptrdiff_t>(window);
  return mean(last) > (1.0 - kPlateau) * mean(last - static_cast<std::ptrdiff_t>(window));
}

// The step at which a level begins where all levels have equally many steps.
std::int64_t part_begin(std::size_t level, std::size_t levels, std::int64_t total) {
  return static_cast<std::int64_t>(level) * total / static_cast<std::int64_t>(levels);
}

std::vector<TeacherReference> teachers_of(const Phase& phase, const TrainOptions& options,
                                          std::optional<std::size_t> network, std::size_t pass) {
  if (options.teacher) return {{TeacherKind::kModel, 0}};
  if (phase.teacher) return {{TeacherKind::kPhase, *phase.teacher}};
  std::vector<TeacherReference> teachers;
  if (options.method == Method::kJoint) {
    for (std::size_t i = 0; i < pass; ++i) teachers.push_back({TeacherKind::kEarlierPass, i});
    return teachers;
  }
  // The highest network teaches all others; in a curriculum, each level learns from the previous.
  if (options.teacher_self && phase.walk != Walk::kAll && network != 0U) {
    const bool descends = phase.walk == Walk::kDescend;
    teachers.push_back({TeacherKind::kNetwork, descends ? *network - 1 : 0});
  }
  return teachers;
}

// The phase's plan with some linears moved to the next trained width above or below.
quant::PrecisionPlan plan_near(const Phase& phase, const RandomStream& stream, std::uint64_t step) {
  quant::PrecisionPlan plan = *phase.around;
  for (std::size_t i = 0; i < plan.linears.size(); ++i) {
    quant::Precision& precision = plan.linears[i];
    const std::uint64_t drawn = stream.below(4, step, 2 + i);
    if (drawn < 2) continue;
    int next = precision.weight.bits;
    for (const int bits : phase.widths) {  // from high to low
      if (drawn == 2 && bits > precision.weight.bits) next = bits;
      if (drawn == 3 && bits < precision.weight.bits) {
        next = bits;
        break;
      }
    }
    if (precision.activation == precision.weight) precision.activation.bits = next;
    precision.weight.bits = next;
  }
  return plan;
}

}  // namespace

int cyclic_bits(const TrainOptions& options, std::int64_t step, std::int64_t total) {
  const std::int64_t part = step * options.widths.num_cyclic_period % total;
  return static_cast<int>(
      std::nearbyint(bits_at(options, static_cast<double>(part) / static_cast<double>(total))));
}

void check_cycles(const TrainOptions& options, std::int64_t total) {
  if (ends_at_top(options, options.widths.num_cyclic_period, total)) return;
  std::int64_t largest = total / kMinStepsPerCycle;
  while (largest > 0 && !ends_at_top(options, largest, total)) --largest;
  QALOF_CHECK(largest > 0, ErrorKind::kUsage,
              "--method cpt: {} steps are too few for one cycle from {} to {} bits", total,
              options.widths.min_bits, options.widths.max_bits);
  fail(ErrorKind::kUsage,
       "--num_cyclic_period: found {}, expected at most {} so that each of the cycles of {} steps "
       "has at least {} and ends at {} bits",
       options.widths.num_cyclic_period, largest, total, kMinStepsPerCycle,
       options.widths.max_bits);
}

quant::PrecisionPlan random_plan(const Phase& phase, const TrainOptions& options,
                                 const quant::PlanTarget& target, std::int64_t step) {
  const RandomStream stream(options.seed, "random_widths");
  const auto at = static_cast<std::uint64_t>(step);
  if (phase.around) return plan_near(phase, stream, at);
  quant::PrecisionPlan plan = phase.networks.front().plan;
  const std::size_t per_layer = plan.linears.size() / target.num_layers;
  for (std::size_t i = 0; i < plan.linears.size(); ++i) {
    const std::uint64_t drawn = stream.below(phase.networks.size(), at, 2 + i);
    const quant::PrecisionPlan& chosen = phase.networks[drawn].plan;
    plan.linears[i] = chosen.linears[i];
    if (i % per_layer != 0) continue;
    plan.k[i / per_layer] = chosen.k[i / per_layer];
    plan.v[i / per_layer] = chosen.v[i / per_layer];
  }
  return plan;
}

StepPlan plan_step(const Phase& phase, const TrainOptions& options, const quant::PlanTarget& target,
                   std::int64_t step, std::int64_t total, const WalkState& state) {
  StepPlan result;
  auto add = [&](std::size_t network) {
    result.passes.push_back(
        {phase.networks[network], teachers_of(phase, options, network, result.passes.size())});
  };
  switch (phase.walk) {
    case Walk::kAll:
      for (std::size_t i = 0; i < phase.networks.size(); ++i) add(i);
      break;
    case Walk::kCyclic:
      add(static_cast<std::size_t>(options.widths.max_bits - cyclic_bits(options, step, total)));
      break;
    case Walk::kDescend:
      add(state.level);
      break;
    case Walk::kRandom: {
      const RandomStream stream(options.seed, "random_widths");
      const auto at = static_cast<std::uint64_t>(step);
      const std::size_t num_linears = target.linear_names.size();
      const bool per_layer =
          options.widths.random_widths == RandomWidths::kLayer ||
          (options.widths.random_widths == RandomWidths::kBoth && stream.below(2, at, 0) == 1);
      if (!per_layer) {
        add(stream.below(phase.networks.size(), at, 1));
        break;
      }
      // The head is drawn too, so that the head of every width is trained.
      const std::uint64_t head = stream.below(phase.networks.size(), at, 2 + num_linears);
      const Network mixed{"mixed", random_plan(phase, options, target, step),
                          phase.networks[head].head_width};
      result.passes.push_back({mixed, teachers_of(phase, options, std::nullopt, 0)});
    }
  }
  return result;
}

bool advance(const Phase& phase, const TrainOptions& options, std::int64_t next_step,
             std::int64_t total, double loss, WalkState& state) {
  if (phase.walk != Walk::kDescend || state.level + 1 == phase.networks.size()) return false;
  const std::size_t levels = phase.networks.size();
  bool descends = next_step >= part_begin(state.level + 1, levels, total);
  if (options.widths.curriculum == Curriculum::kLoss) {
    const std::size_t window = loss_window(phase, total);
    if (std::isfinite(loss)) state.losses.push_back(loss);
    if (state.losses.size() > 2 * window) state.losses.erase(state.losses.begin());
    // Descends at the latest when each level below is left with half of its equal share of steps.
    const auto below = static_cast<std::int64_t>(levels - 1 - state.level);
    const std::int64_t latest =
        total - below * std::max<std::int64_t>(1, total / (2 * static_cast<std::int64_t>(levels)));
    descends = has_stopped_falling(state.losses, window) || next_step >= latest;
  }
  if (!descends) return false;
  ++state.level;
  state.losses.clear();
  return true;
}

}  // namespace qalof::train
