// A training method as data: the list of phases it consists of.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "quant/plan.h"
#include "train/options.h"

namespace qalof::train {

/// One run of the loop with a fresh optimizer and schedule.
struct Phase {
  std::string name;           // "w8", "full", "plan"
  quant::PrecisionPlan plan;  // what the network computes in
  std::vector<int> widths;    // adapters that train: the plan's weight widths; empty: the base
  int head_width = 32;        // whose head trains
  std::optional<std::size_t> teacher;  // the earlier phase whose network teaches
  std::optional<int> head_from;        // the width whose head is copied; else the base's or fresh
};

/// Checks the options against each other and the model (Error{kUsage}, {kUnsupported}).
void check_options(const TrainOptions& options, const quant::PlanTarget& target);
std::vector<Phase> make_phases(const TrainOptions& options, const quant::PlanTarget& target);

/// A plan with one width everywhere.
quant::PrecisionPlan uniform_plan(int bits, std::optional<int> kv_bits,
                                  const quant::PlanTarget& target);

}  // namespace qalof::train
