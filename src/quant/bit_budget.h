// Bit widths under a budget: one width for each unit of a sensitivity analysis, so that the sum of
// costs is least within a size, or the sum of sizes within a cost (docs/numerics.md, "Bit budget").
// Costs of single units do not add exactly, so a plan can be refined by measuring it as a whole.
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
  double cost = 0;         // relative to the high width, which costs 0
  std::uint64_t size = 0;  // parameters times bits, or bytes
};

/// K or V of a layer, or of one head of a layer.
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
  std::optional<BudgetKv> kv = std::nullopt;  // if set, modules is empty
};

struct BudgetPoint {
  std::uint64_t size = 0;
  double cost = 0;
};

/// All plans that no other plan dominates (at most as large and at most as costly), by dynamic
/// programming over units: after each unit only undominated partial sums are kept. Exact for any
/// sizes; costs are summed in the order of units. Immutable.
class BudgetFront {
 public:
  /// Error{kBadInput} for a unit without choices or a cost that is not finite; {kUnsupported} where
  /// more than max_sums partial sums would have to be stored, as happens when sizes have no common
  /// factor.
  explicit BudgetFront(std::span<const BudgetUnit> units,
                       std::size_t max_sums = std::size_t{64} << 20);
  /// In order: sizes ascend, costs descend.
  const std::vector<BudgetPoint>& points() const { return points_; }
  /// Number of partial sums dropped because another dominates or equals them.
  std::uint64_t dominated() const { return dominated_; }
  /// The plan of a point: one choice per unit.
  std::vector<std::size_t> choices(std::size_t point) const;
  /// The cheapest point of at most that size; nullopt where all are larger.
  std::optional<std::size_t> within_size(std::uint64_t size) const;
  /// The smallest point of at most that cost; nullopt where all cost more.
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

/// Size and cost of a plan; costs are summed in the order of units.
BudgetPoint sum_of(std::span<const BudgetUnit> units, std::span<const std::size_t> choices);

/// The choice of one width in every unit. Error{kUsage} where a unit lacks it.
std::vector<std::size_t> uniform_choices(std::span<const BudgetUnit> units, int bits);
/// Random choices, then moved one step at a time in randomly drawn units until the plan is no
/// larger than max_size and no unit can grow by a step. A function of (stream, draw). Error{kUsage}
/// where every plan is larger than max_size.
std::vector<std::size_t> random_choices(std::span<const BudgetUnit> units, std::uint64_t max_size,
                                        const RandomStream& stream, std::uint64_t draw);

/// Indices, ordered by size, of the points that no other dominates: one dominates another if it is
/// at most as large and as costly, and less in one of them; of equal points the first is kept.
std::vector<std::size_t> pareto_front(std::span<const BudgetPoint> points);

/// Measures the cost of a plan as a whole.
using MeasurePlan = std::function<double(std::span<const std::size_t> choices)>;

struct RefinedPlan {
  std::vector<std::size_t> choices;
  BudgetPoint point;      // cost as measured
  double first_cost = 0;  // of the first plan, measured
  int measurements = 0;
  int moves = 0;  // changes kept
};
/// Starting points for refine_within_size, of at most max_size: the best plan by single costs over
/// all widths, then over ever narrower ranges of neighbouring widths around the budget, down to the
/// largest width that fits everywhere. Fewer widths mix fewer adapters, an effect that single costs
/// do not measure. Without duplicates; empty where every plan is larger.
std::vector<std::vector<std::size_t>> starting_plans(std::span<const BudgetUnit> units,
                                                     std::uint64_t max_size);
/// Measures the starts (at least one) and improves the cheapest greedily: among plans of at most
/// max_size that differ from the best so far in one or two units, the one with the best sum of
/// single costs is measured, and kept if it costs less. Ends after max_measurements (at least 1) or
/// when nothing is left to try.
RefinedPlan refine_within_size(std::span<const BudgetUnit> units,
                               std::span<const std::vector<std::size_t>> starts,
                               std::uint64_t max_size, int max_measurements,
                               const MeasurePlan& measure);
/// The smallest plan of the front whose measured cost is at most max_cost, by bisection that begins
/// at the point predicted by single costs. The plan with every unit at its highest width costs 0 by
/// definition and is returned where no measured plan is good enough.
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
/// Reads the units of a sensitivity.json (docs/file_formats.md, "Sensitivity"). A negative cost
/// counts as 0: an apparent gain is noise, and would offset real losses. K and V, and activations
/// measured separately, stay at the high width. size_of gives a module's size at a width; without
/// it sizes are parameters times bits. Error{kBadInput}; where names the file.
BudgetInput budget_input(
    const Json& sensitivity, const std::string& where, BudgetCost cost,
    const std::function<std::uint64_t(const std::string& module, int bits)>& size_of = {});

/// The units of K and V only, each with its bits as size; parameters counts them. Error{kBadInput}
/// where there are none, or where a unit covers all layers.
BudgetInput kv_budget_input(const Json& sensitivity, const std::string& where, BudgetCost cost);
/// Applies choices of kv_budget_input's units to K and V of a plan.
void set_kv(const BudgetInput& input, std::span<const std::size_t> choices, PlanSpec& plan);

/// The plan of these choices: the high precision by default, all other modules listed by name.
PlanSpec budget_plan(const BudgetInput& input, std::span<const std::size_t> choices);

}  // namespace qalof::quant
