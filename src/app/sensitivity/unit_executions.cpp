// Builds all-high and one spliced execution per unit and width (declared in sensitivity.h).
#include <map>

#include "app/sensitivity/sensitivity.h"
#include "core/error.h"

namespace qalof::app {

namespace {

void check_low(const quant::UniformPrecision& high, int bits, Part part) {
  int limit = std::min(high.linear.weight.bits, high.linear.activation.bits);
  if (part == Part::kWeights) limit = high.linear.weight.bits;
  if (part == Part::kActivations) limit = high.linear.activation.bits;
  if (part == Part::kKv) limit = std::min(high.k.bits, high.v.bits);
  QALOF_CHECK(bits >= 2 && bits <= 8 && bits < limit, ErrorKind::kUsage,
              "--low: found {}, expected 2..8 and less than --high {}", bits,
              quant::to_string(high));
}

}  // namespace

quant::Precision lowered(quant::Precision high, Part part, int bits) {
  if (part == Part::kBoth || part == Part::kWeights) high.weight = {bits};
  if (part == Part::kBoth || part == Part::kActivations) high.activation = {bits};
  return high;
}

quant::PrecisionPlan high_plan(const ModelHandle& handle, const std::string& high,
                               const std::vector<int>& low,
                               const std::vector<SensitivityUnit>& units) {
  const quant::UniformPrecision uniform = quant::parse_uniform_precision(high);
  for (const SensitivityUnit& unit : units) {
    for (const int bits : low) check_low(uniform, bits, unit.part);
  }
  quant::PlanSpec spec;
  spec.source = "--high " + high;
  spec.scheme = handle.plan.scheme;
  spec.default_precision = uniform;
  spec.head = uniform.linear.weight.bits;
  return quant::resolve(spec, handle.base->target());
}

UnitExecutions::UnitExecutions(const ModelHandle& handle, const quant::PrecisionPlan& plan,
                               const std::vector<int>& low,
                               const std::vector<SensitivityUnit>& units, ParallelFor& parallel)
    : num_low_(low.size()) {
  const auto create = [&](quant::PrecisionPlan changed) {
    return runtime::Execution::create(handle.base, std::move(changed), handle.adapters, parallel,
                                      handle.execution);
  };
  high_ = create(plan);
  // Executions with every linear at one precision; units take their linears from these.
  std::map<std::pair<int, int>, std::shared_ptr<const runtime::Execution>> donors;
  const auto donor = [&](quant::Precision precision) {
    auto& execution = donors[{precision.weight.bits, precision.activation.bits}];
    if (!execution) {
      quant::PrecisionPlan changed = plan;
      for (std::size_t i = 0; i < changed.linears.size(); ++i) {
        quant::check_scheme(changed.scheme, precision, handle.base->target().linear_names[i]);
        changed.linears[i] = precision;
      }
      execution = create(std::move(changed));
    }
    return execution;
  };
  for (const SensitivityUnit& unit : units) {
    for (const int bits : low) {
      std::vector<runtime::Execution::Replacement> replacements;
      runtime::KvPrecision kv = high_->kv();
      if (unit.part == Part::kKv) {
        for (const std::size_t layer : unit.kv_layers) {
          std::vector<int>& heads = (unit.is_value ? kv.v_bits : kv.k_bits)[layer];
          if (unit.kv_head) {
            heads[*unit.kv_head] = bits;
          } else {
            heads.assign(heads.size(), bits);
          }
        }
      } else {
        const auto by = donor(lowered(plan.linears.front(), unit.part, bits));
        for (const std::size_t linear : unit.linears) replacements.push_back({linear, by});
      }
      trials_.push_back(runtime::Execution::spliced(high_, replacements, kv));
    }
  }
}

}  // namespace qalof::app
