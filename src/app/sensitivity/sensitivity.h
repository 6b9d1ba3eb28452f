// qalof sensitivity: what each part of a model loses at few bits (docs/sensitivity.md).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "app/model_handle.h"
#include "app/sensitivity/units.h"
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
  std::string output_dir;             // "" = no files: a killed run begins anew
  std::string against;                // sensitivity.json to compare the ranks with; "" = none
  std::uint64_t seed = 42;            // of hessian's random vectors
  int hessian_vectors = 1;            // passes over the samples, each with vectors of its own
  std::function<bool()> should_stop;  // asked between passes; may be empty
};

/// What a unit costs at some bits: measured, or estimated where score is there.
struct UnitCost {
  int bits = 0;
  std::uint64_t samples = 0;  // fewer than the run's where the unit was stopped early
  double delta_em = 0, delta_f1 = 0, delta_loss = 0, kl = 0;
  Interval delta_f1_interval, delta_loss_interval;
  std::optional<double> score;
  std::optional<double> first_order;  // fisher
  // hessian: of a weight, and its standard error, linears taken as independent
  std::optional<double> mean_trace, mean_trace_error;
};
struct UnitResult {
  SensitivityUnit unit;
  std::vector<UnitCost> costs;  // as low lists the bits
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
  std::string high;                 // in words
  double em = 0, f1 = 0, loss = 0;  // all-high
  std::vector<int> low;
  std::vector<std::string> modules;  // names of linears, which units index
  std::vector<UnitResult> units;
  std::vector<RankCorrelation> correlations;  // with --against
};

/// Measures every unit on the packed runtime. The scores are those of eval with a plan of the unit
/// at low bits and the head of high. Error{kUsage} for widths that are not below high's,
/// {kInterrupted} where should_stop says so.
SensitivityResult measure_sensitivity(const SensitivityOptions& options, Observer& observer);

/// sensitivity.json (docs/file_formats.md).
Json to_json(const SensitivityResult& result);
/// Its name in the output directory: sensitivity.json, sensitivity_fisher.json, ...
std::string sensitivity_file(const std::string& by);

/// Order of units from the most sensitive, by the first width's KL or score.
std::vector<std::size_t> sensitivity_ranking(const SensitivityResult& result);

/// The plan of high with its own head. Error{kUsage} where a width of low is not below high's, or
/// high is no uniform precision.
quant::PrecisionPlan high_plan(const ModelHandle& handle, const std::string& high,
                               const std::vector<int>& low,
                               const std::vector<SensitivityUnit>& units);
/// A result without numbers.
SensitivityResult empty_result(const SensitivityOptions& options, const ModelHandle& handle);
/// Compares with --against and writes the file, as far as options ask for it.
void finish_result(const SensitivityOptions& options, SensitivityResult& result);
/// file: the contents of a sensitivity.json. Units are the same by name and part. Error{kBadInput}
/// where fewer than 3 units are in both.
std::vector<RankCorrelation> rank_correlations(const SensitivityResult& result, const Json& file,
                                               const std::string& where);

/// The executions of an analysis: all-high, and one per unit and width that shares its pointers.
class UnitExecutions {
 public:
  /// plan: high_plan's.
  UnitExecutions(const ModelHandle& handle, const quant::PrecisionPlan& plan,
                 const std::vector<int>& low, const std::vector<SensitivityUnit>& units,
                 ParallelFor& parallel);
  const runtime::Execution& high() const { return *high_; }
  /// units x low
  const runtime::Execution& at(std::size_t unit, std::size_t low) const {
    return *trials_[unit * num_low_ + low];
  }

 private:
  std::size_t num_low_;
  std::shared_ptr<const runtime::Execution> high_;
  std::vector<std::shared_ptr<const runtime::Execution>> trials_;
};
/// The widths of a unit's linears at low bits.
quant::Precision lowered(quant::Precision high, Part part, int bits);

}  // namespace qalof::app
