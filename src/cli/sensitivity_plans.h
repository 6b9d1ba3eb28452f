// The half of `sensitivity` that ends in plans: budgets, refinement, plans compared.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "app/sensitivity/budget.h"
#include "app/sensitivity/plan_comparison.h"
#include "app/sensitivity/sensitivity.h"
#include "cli/command_line.h"

namespace qalof::cli {

struct PlanFlags {
  std::vector<double> target_bits;
  double max_f1_loss = 0, target_kv_bits = 0;
  std::uint64_t target_size = 0;
  std::string cost, refine_cost = "f1", refine_file, output_plan, from;
  int refine = 0;
  app::ComparisonOptions comparison;
};

void add_plan_flags(CommandLine& line, PlanFlags& flags);
/// One entry per plan that is asked for; none: the analysis alone. Error{kUsage} for flags that
/// contradict each other.
std::vector<app::BudgetOptions> plan_budgets(const CommandLine& line, const PlanFlags& flags);
/// Chooses the plans of an analysis, measures and writes what is to be measured and written, adds
/// "plan" and "budget" (several: lists) to the analysis; their text.
std::string add_plans(const app::SensitivityOptions& options,
                      const std::vector<app::BudgetOptions>& budgets, const PlanFlags& flags,
                      Observer& observer, Json& analysis);

}  // namespace qalof::cli
