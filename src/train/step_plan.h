// The networks that one optimizer step trains: a function of (phase, options, step, state of the
// walk), so that a run can be resumed at any step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "train/phases.h"

namespace qalof::train {

/// Which network teaches another in a step. Teachers get no gradient.
enum class TeacherKind {
  kEarlierPass,  // pass `index` of this step, whose outputs are already computed
  kNetwork,      // networks[index] of the phase, as trained so far
  kPhase,        // the network of the finished phase `index`
  kModel         // TrainOptions::teacher
};
struct TeacherReference {
  TeacherKind kind = TeacherKind::kModel;
  std::size_t index = 0;
  friend bool operator==(const TeacherReference&, const TeacherReference&) = default;
};

/// One forward and backward pass over the step's windows.
struct StepPass {
  Network network;
  std::vector<TeacherReference> teachers;
  double weight = 1;  // of its loss in the step's sum
};
/// The passes of a step; gradients are summed, then the optimizer moves once.
struct StepPlan {
  std::vector<StepPass> passes;
};

/// The state of a walk that depends on earlier steps; needed in full to resume.
struct WalkState {
  std::size_t level = 0;       // descend: networks[level] is trained
  std::vector<double> losses;  // descend by loss: losses of the steps at this level
};

/// Bits of a step (0-based) of cyclic precision, docs/numerics.md, "Schedules".
int cyclic_bits(const TrainOptions& options, std::int64_t step, std::int64_t total);
/// Error{kUsage} where cycles are too short to reach the highest width; names the largest possible
/// number of cycles.
void check_cycles(const TrainOptions& options, std::int64_t total);

/// A plan whose widths are drawn by (seed, step, layer); K and V of a layer have the width of its
/// first linear. Where the phase trains around a plan, each linear keeps the plan's width with
/// probability 1/2, else has the next trained one above or below where there is one; K and V are
/// the plan's.
quant::PrecisionPlan random_plan(const Phase& phase, const TrainOptions& options,
                                 const quant::PlanTarget& target, std::int64_t step);

/// The passes of a step (0-based) of total.
StepPlan plan_step(const Phase& phase, const TrainOptions& options, const quant::PlanTarget& target,
                   std::int64_t step, std::int64_t total, const WalkState& state);

/// Records the loss of a finished step. True where the next step (0-based, of total) begins a lower
/// level, whose adapter and head then start as copies of those of the previous level.
bool advance(const Phase& phase, const TrainOptions& options, std::int64_t next_step,
             std::int64_t total, double loss, WalkState& state);

}  // namespace qalof::train
