// qalof sensitivity: measures how much each part of a model loses at few bits
// (docs/sensitivity.md).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "app/model_handle.h"
#include "app/sensitivity/units.h"
#include "core/process_group.h"
#include "core/statistics.h"
#include "tasks/table.h"

namespace qalof::app {

struct SensitivityOptions {
  std::string by = "measured";  // estimate_sensitivity: "fisher" or "hessian"
  ModelOptions model;           // its precision is high's
  std::string task = tasks::kDefaultTask;
  tasks::TaskSet tasks;  // their options
  tasks::DataOptions data;
  UnitOptions units;
  std::string high = "8";
  std::vector<int> low = {4};
  bool early_stop = false;
  bool overwrite_output_dir = false;
  std::string output_dir;             // "" = no files, so that a killed run cannot be resumed
  std::string against;                // sensitivity.json to compare the ranks with; "" = none
  std::uint64_t seed = 42;            // of hessian's random vectors
  int hessian_vectors = 1;            // passes over the samples, each with its own vectors
  std::function<bool()> should_stop;  // called between passes; may be empty
  /// Processes that share the passes, started with the same options except output_dir, which is
  /// rank 0's alone. Null: this one does all.
  ProcessGroup* group = nullptr;
};

/// The cost of a unit at some bits: estimated where it has a score, else measured.
struct UnitCost {
  int bits = 0;
  std::uint64_t samples = 0;  // fewer than the run's where the unit was stopped early
  double delta_em = 0, delta_f1 = 0, delta_loss = 0, kl = 0;
  Interval delta_f1_interval, delta_loss_interval;
  std::optional<double> score;
  std::optional<double> first_order;  // fisher
  // hessian: mean trace per weight, and its standard error, treating linears as independent
  std::optional<double> mean_trace, mean_trace_error;
};
struct UnitResult {
  SensitivityUnit unit;
  std::vector<UnitCost> costs;  // in the order of SensitivityOptions::low
};
/// Spearman's rank correlation of one of our numbers with one of another file's, over the units
/// that both have.
struct RankCorrelation {
  int bits = 0;
  std::string ours, theirs;  // "score", "kl", ...
  std::size_t units = 0;
  double rho = 0;  // NaN where one side is constant
};
struct SensitivityResult {
  std::string by = "measured", task, model, granularity;
  std::uint64_t samples = 0;
  Json special_tokens;              // text::TextEncoder's description
  std::string high;                 // description of the all-high execution
  double em = 0, f1 = 0, loss = 0;  // of all-high
  std::vector<int> low;
  std::vector<std::string> modules;  // names of linears, which units index
  std::vector<UnitResult> units;
  std::vector<RankCorrelation> correlations;  // with --against
};

/// Measures every unit on the packed runtime. The scores equal those of `qalof eval` with a plan
/// that has the unit at low bits, everything else at high, and the head of high. Error{kUsage} for
/// widths that are not below high's, {kInterrupted} where should_stop returns true.
SensitivityResult measure_sensitivity(const SensitivityOptions& options, Observer& observer);

/// sensitivity.json (docs/file_formats.md).
Json to_json(const SensitivityResult& result);
/// Its name in the output directory: sensitivity.json, sensitivity_fisher.json, ...
std::string sensitivity_file(const std::string& by);

/// Indices of units from the most to the least sensitive, by the first width's KL or score.
std::vector<std::size_t> sensitivity_ranking(const SensitivityResult& result);

/// The all-high plan, with the head of high's width. Error{kUsage} where a width of low is not
/// below high's, or high is no uniform precision.
quant::PrecisionPlan high_plan(const ModelHandle& handle, const std::string& high,
                               const std::vector<int>& low,
                               const std::vector<SensitivityUnit>& units);
/// A result with the description of the run but no numbers.
SensitivityResult empty_result(const SensitivityOptions& options, const ModelHandle& handle);
/// Compares with --against and writes the result file, where the options request it.
void finish_result(const SensitivityOptions& options, SensitivityResult& result);
/// Correlates a result with file, the contents of a sensitivity.json; units are matched by name and
/// part. Error{kBadInput} where fewer than 3 units are in both.
std::vector<RankCorrelation> rank_correlations(const SensitivityResult& result, const Json& file,
                                               const std::string& where);

/// The executions of an analysis: all-high, and one per unit and width that shares all-high's
/// weights except the unit's.
class UnitExecutions {
 public:
  /// plan: high_plan's.
  UnitExecutions(const ModelHandle& handle, const quant::PrecisionPlan& plan,
                 const std::vector<int>& low, const std::vector<SensitivityUnit>& units,
                 ParallelFor& parallel);
  const runtime::Execution& high() const { return *high_; }
  /// The execution with one unit at one width; indices into units and low.
  const runtime::Execution& at(std::size_t unit, std::size_t low) const {
    return *trials_[unit * num_low_ + low];
  }

 private:
  std::size_t num_low_;
  std::shared_ptr<const runtime::Execution> high_;
  std::vector<std::shared_ptr<const runtime::Execution>> trials_;
};
/// The precision of a unit's linears when its part is lowered to bits.
quant::Precision lowered(quant::Precision high, Part part, int bits);

}  // namespace qalof::app
