// Widths under a budget: every unit of a sensitivity analysis gets the width whose costs add up to
// least within a size, or whose sizes add up to least within a cost (docs/numerics.md, "Bit
// budget"). Single costs do not add exactly, so a plan can be refined by measuring it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/random.h"
#include "quant/plan.h"

namespace qalof::quant {

struct BudgetChoice {
  int bits = 8;
  double cost = 0;         // against the high width, which costs 0
  std::uint64_t size = 0;  // parameters times bits, or bytes
};

/// K or V of a layer, or of one of its heads.
struct BudgetKv {
  std::size_t layer = 0;
  std::optional<std::size_t> head;
  bool is_value = false;
};

struct BudgetUnit {
  std::string name;
  std::vector<std::string> modules;
  bool weights_only = false;  // activations stay at the high width
  std::vector<BudgetChoice> choices;
  std::optional<BudgetKv> kv = std::nullopt;  // then there are no modules
};

struct BudgetPoint {
  std::uint64_t size = 0;
  double cost = 0;
};

/// Every plan for which no other is at most as large and at most as costly, by dynamic programming
/// over units: after each unit those partial sums are kept that none dominates. Exact, whatever
/// numbers sizes are; costs are summed in the order of units. Immutable.
class BudgetFront {
 public:
  /// Error{kBadInput} for a unit without choices or a cost that is not finite; {kUnsupported} where
  /// there are more than max_sums partial sums to remember, which sizes without a common factor
  /// bring.
  explicit BudgetFront(std::span<const BudgetUnit> units,
                       std::size_t max_sums = std::size_t{64} << 20);
  /// Sizes rise, costs fall.
  const std::vector<BudgetPoint>& points() const { return points_; }
  /// Partial sums that were dropped because another one dominates them or equals them.
  std::uint64_t dominated() const { return dominated_; }
  /// The plan of a point: a choice per unit.
  std::vector<std::size_t> choices(std::size_t point) const;
  /// The cheapest point of at most that size; none where all are larger.
  std::optional<std::size_t> within_size(std::uint64_t size) const;
  /// The smallest point of at most that cost; none where all cost more.
  std::optional<std::size_t> within_cost(double cost) const;

 private:
  struct Trace {
    std::vector<std::uint32_t> previous;
    std::vector<std::uint8_t> choice;
  };
  std::vector<BudgetPoint> points_;
  std::vector<Trace> traces_;  // [unit]
  std::uint64_t dominated_ = 0;
};

/// Sums of a plan; costs in the order of units.
BudgetPoint sum_of(std::span<const BudgetUnit> units, std::span<const std::size_t> choices);

/// The choice of every unit at one width. Error{kUsage} where a unit has it not.
std::vector<std::size_t> uniform_choices(std::span<const BudgetUnit> units, int bits);
/// Choices drawn at random, then moved one step at a time in units drawn at random until the plan
/// is no larger than max_size and no unit can grow by a step. A function of (stream, draw).
/// Error{kUsage} where every plan is larger.
std::vector<std::size_t> random_choices(std::span<const BudgetUnit> units, std::uint64_t max_size,
                                        const RandomStream& stream, std::uint64_t draw);

/// The points that no other dominates (at most as large and at most as costly, one of both less; of
/// equal ones the first), as indices in the order of size.
std::vector<std::size_t> pareto_front(std::span<const BudgetPoint> points);

/// Measures the cost of a plan as a whole.
using MeasurePlan = std::function<double(std::span<const std::size_t> choices)>;

struct RefinedPlan {
  std::vector<std::size_t> choices;
  BudgetPoint point;      // cost as measured
  double first_cost = 0;  // measured, of the first plan
  int measurements = 0;
  int moves = 0;  // changes that were kept
};
/// Plans of at most max_size that single costs name: over all widths, then over ever fewer
/// neighbouring ones around the budget, down to the largest width that fits everywhere. Adapters of
/// few widths are mixed less, which single costs do not see. Each once; none where every plan is
/// larger.
std::vector<std::vector<std::size_t>> starting_plans(std::span<const BudgetUnit> units,
                                                     std::uint64_t max_size);
/// The cheapest of the starts as measured, then greedy: of the plans that differ from the best so
/// far in one unit or in two, and are no larger than max_size, the one that promises most by single
/// costs is measured, and kept where it costs less; until max_measurements (at least 1) are made or
/// nothing is left to try. At least one start.
RefinedPlan refine_within_size(std::span<const BudgetUnit> units,
                               std::span<const std::vector<std::size_t>> starts,
                               std::uint64_t max_size, int max_measurements,
                               const MeasurePlan& measure);
/// The smallest plan of the front whose measured cost is at most max_cost, by bisection from the
/// point that single costs name. The plan with every unit at its highest width costs 0 without
/// being measured; it is returned where no measured plan is good enough.
RefinedPlan refine_within_cost(std::span<const BudgetUnit> units, const BudgetFront& front,
                               double max_cost, int max_measurements, const MeasurePlan& measure);

enum class BudgetCost { kF1, kLoss, kKl, kScore };
/// "f1", "loss", "kl" or "score"; Error{kUsage} for others.
BudgetCost parse_budget_cost(const std::string& text);

struct BudgetInput {
  std::vector<BudgetUnit> units;
  UniformPrecision high;
  std::uint64_t parameters = 0;  // of all units
};
/// Units of a sensitivity.json (docs/file_formats.md, "Sensitivity"). What a unit gains counts as
/// no cost: it is noise, and would pay for losses elsewhere. K and V, and activations that were
/// measured apart, stay at the high width. size_of gives a module's size at a width; without it
/// sizes are parameters times bits. Error{kBadInput}; where names the file.
BudgetInput budget_input(
    const Json& sensitivity, const std::string& where, BudgetCost cost,
    const std::function<std::uint64_t(const std::string& module, int bits)>& size_of = {});

/// The units of K and V alone, each of size 1 times its bits; parameters counts them.
/// Error{kBadInput} where there are none, or units over all layers.
BudgetInput kv_budget_input(const Json& sensitivity, const std::string& where, BudgetCost cost);
/// Sets K and V of a plan to these choices of kv_budget_input's units.
void set_kv(const BudgetInput& input, std::span<const std::size_t> choices, PlanSpec& plan);

/// The plan of these choices: the high precision by default, and every other module by name.
PlanSpec budget_plan(const BudgetInput& input, std::span<const std::size_t> choices);

}  // namespace qalof::quant
