// Finds the best plan under a budget from a sensitivity analysis (docs/sensitivity.md, "Plans under
// a budget").
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "quant/bit_budget.h"
#include "weights/base_model.h"

namespace qalof::app {

/// Exactly one of the first three limits is set.
struct BudgetOptions {
  std::optional<double> target_bits;         // mean weight bits over parameters
  std::optional<std::uint64_t> target_size;  // bytes of the linears, scales included
  std::optional<double> max_f1_loss;         // points of F1 below all-high (all units at --high)
  /// "" = f1 under max_f1_loss, else score where the analysis has scores, else kl.
  std::string cost;
  /// The most plans to measure as a whole; 0: none.
  int refine = 0;
  /// The measure used for them: f1, loss or kl.
  std::string refine_cost = "f1";
  /// Mean bits of K and V over layers (heads, where the analysis has them); none: as in all-high.
  std::optional<double> target_kv_bits;
};
/// Cost of a plan as a whole.
using MeasureCost = std::function<double(const quant::PlanSpec& plan, quant::BudgetCost cost)>;

/// Error{kUsage} for limits that contradict each other or are meaningless.
void check_budget(const BudgetOptions& options);
struct BudgetResult {
  quant::PlanSpec plan;
  std::string cost_name;
  double cost = 0;              // sum of single costs
  double mean_weight_bits = 0;  // over the units' parameters
  std::uint64_t size = 0;       // parameters times bits; bytes with target_size
  std::vector<quant::BudgetPoint> front;
  std::uint64_t dominated = 0;  // partial sums that the dynamic program dropped
  std::uint64_t parameters = 0;
  std::optional<quant::RefinedPlan> refined;  // with refine
  std::optional<double> target_bits;          // as requested
  std::optional<double> mean_kv_bits;         // with target_kv_bits
};
/// base and scheme determine sizes in bytes; without target_size they may be null and default.
/// measure may be empty without refine. where: the analysis' name in messages. Error{kUsage} where
/// no plan keeps the limit; names the limit that is possible.
BudgetResult plan_under_budget(const Json& sensitivity, const std::string& where,
                               const BudgetOptions& options, const weights::BaseModel* base,
                               const quant::QuantScheme& scheme, const MeasureCost& measure = {});

/// front.json (docs/file_formats.md, "Front").
Json front_json(const BudgetResult& result, const BudgetOptions& options);
inline constexpr const char* kFrontFile = "front.json";

}  // namespace qalof::app
