// Measures whole plans against all-high on the packed runtime, for refining a plan under a budget
// and for comparing plans (docs/sensitivity.md, "Plans under a budget").
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "app/sensitivity/sensitivity.h"
#include "quant/bit_budget.h"
#include "tasks/samples.h"

namespace qalof::app {

struct PlanScores {
  std::vector<tasks::SampleScore> samples;  // in file order
  double tokens_per_second = 0;  // median over batches, of the passes through the decoder
};

/// Measures plans one after the other on the same samples. Not thread-safe.
class PlanMeter {
 public:
  /// Runs all-high once on the samples. options and errors are those of measure_sensitivity; the
  /// observer must outlive this object. With an output directory, scores are stored there by plan
  /// and batch (docs/file_formats.md, "Front"), and stored ones are not measured again.
  PlanMeter(const SensitivityOptions& options, Observer& observer);
  ~PlanMeter();
  /// Scores of a plan with the head it names. Error{kInterrupted} where should_stop returns true.
  PlanScores measure(const quant::PlanSpec& plan);
  /// Mean over the samples of the KL divergence from all-high (nats), the rise in loss (nats) or
  /// the fall in F1 (points). Error{kUsage} for kScore, which cannot be measured.
  double cost(const quant::PlanSpec& plan, quant::BudgetCost cost);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qalof::app
