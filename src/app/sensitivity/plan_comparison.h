// Compares plans under a budget with others of similar size, each measured as a whole
// (docs/sensitivity.md, "Plans compared").
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "app/sensitivity/budget.h"
#include "app/sensitivity/plan_meter.h"
#include "core/json.h"
#include "core/statistics.h"

namespace qalof::app {

struct ComparisonOptions {
  int measure = 0;  // number of plans of the front to measure, evenly spread over sizes
  /// "uniform" (every width of the units), "random", "original", or plans in the form of
  /// --precision.
  std::vector<std::string> compare;
  int random_plans = 10;  // per plan under a budget, of its size
  std::uint64_t seed = 42;

  bool is_empty() const { return measure == 0 && compare.empty(); }
};

struct ComparedPlan {
  std::string name;  // "plan 4.5", "uniform 5", "random 4.5 #3", "original", "front 5.31"
  std::string kind;  // "plan", "uniform", "random", "original", "front" or "given"
  quant::PlanSpec spec;
  std::optional<std::size_t> budget;  // index of the budget whose size it has
};
/// The plans under the budgets and those to compare them with, without duplicates. budgets are
/// results of one analysis; where: its name in messages. Error{kUsage} for meaningless options, and
/// as parse_plan.
std::vector<ComparedPlan> plans_to_compare(const Json& sensitivity, const std::string& where,
                                           const std::vector<BudgetResult>& budgets,
                                           const ComparisonOptions& options,
                                           const weights::BaseModel& base,
                                           const quant::QuantScheme& scheme);

struct MeasuredPlan {
  ComparedPlan plan;
  double bits = 0;  // mean weight bits over the linears
  double em = 0, f1 = 0, loss = 0, kl = 0;
  double f1_error = 0;  // standard error of the mean over samples
  double tokens_per_second = 0;
  std::vector<double> f1_of_samples;
};
/// F1 of a plan minus that of another, or minus the mean of several; mean over the samples.
struct PlanDifference {
  std::string plan, other;
  double delta_f1 = 0, standard_error = 0;
  Interval interval;  // 95 %, paired bootstrap
};
struct ComparisonResult {
  std::uint64_t samples = 0;
  std::vector<MeasuredPlan> plans;
  std::vector<PlanDifference> differences;
  std::size_t dominated = 0;  // plans that another beats in both bits and F1
};
/// Measures all plans. Every plan under a budget is compared with the largest uniform width that is
/// not larger (and, where that has the plan's size, with the next width below), with the mean of
/// the random plans of its size, and with every other plan except those of the front.
ComparisonResult compare_plans(const std::vector<ComparedPlan>& plans,
                               const quant::PlanTarget& target, PlanMeter& meter,
                               Observer& observer);

/// Adds points and differences to front.json (docs/file_formats.md, "Front").
void add_comparison(const ComparisonResult& result, Json& front);

/// The hybrid pattern of the original implementation: 14 of GPT-2's 48 linears at 4 bits, all
/// others and K and V at high. On other models, the linears at corresponding depths and roles
/// (docs/sensitivity.md).
quant::PlanSpec original_pattern(const weights::BaseModel& base,
                                 const quant::UniformPrecision& high);

}  // namespace qalof::app
