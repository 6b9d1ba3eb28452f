// A training method as data: the list of phases it consists of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "quant/plan.h"
#include "train/options.h"

namespace qalof::train {

/// The model at one precision, and the width whose head it has.
struct Network {
  std::string name;  // "w8", "plan", "full"
  quant::PrecisionPlan plan;
  int head_width = 32;
};

/// Which of its networks a phase trains in a step (step_plan.h).
enum class Walk { kAll, kCyclic, kRandom, kDescend };

/// One run of the loop with a fresh optimizer and schedule.
struct Phase {
  std::string name;               // "w8", "full", "plan", "joint"
  std::vector<Network> networks;  // from high to low
  Walk walk = Walk::kAll;
  std::vector<int> widths;         // adapters that train, from high to low; empty: the base
  bool has_head_per_width = true;  // false: one head, stored with every width of a plan
  std::optional<quant::PrecisionPlan> around;  // random: layers draw widths next to the plan's
  std::optional<std::size_t> teacher;          // the earlier phase whose network teaches
  std::optional<int> head_from;  // the width whose head is copied; else the base's or fresh
};

/// Checks that options.teacher can teach a model (Error{kUsage}, {kUnsupported}, {kBadInput}).
void check_teacher(const TrainOptions& options, const model::ModelConfig& student);
std::vector<Phase> make_phases(const TrainOptions& options, const quant::PlanTarget& target);

/// The widths of --bit_widths, else the method's default, and those of the plan, from high to low
/// without repetition.
std::vector<int> trained_widths(const TrainOptions& options);

/// A plan with one width everywhere.
quant::PrecisionPlan uniform_plan(int bits, std::optional<int> kv_bits,
                                  const quant::PlanTarget& target);

}  // namespace qalof::train
