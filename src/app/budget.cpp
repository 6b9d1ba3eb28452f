#include "app/budget.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "runtime/footprint.h"

namespace qalof::app {

namespace {

constexpr std::size_t kMaxFrontPoints = 512;

std::string cost_name(const Json& sensitivity, const BudgetOptions& options) {
  if (!options.cost.empty()) return options.cost;
  if (options.max_f1_loss) return "f1";
  const bool is_measured = !sensitivity.is_object() || sensitivity.value("by", "") == "measured";
  return is_measured ? "kl" : "score";
}

// The point of the front under the limit.
std::size_t choose(const quant::BudgetFront& front, const BudgetOptions& options,
                   std::uint64_t parameters) {
  const quant::BudgetPoint& smallest = front.points().front();
  if (options.max_f1_loss) {
    // All-high costs 0, so there is one.
    return front.within_cost(*options.max_f1_loss).value();
  }
  if (options.target_size) {
    const auto found = front.within_size(*options.target_size);
    QALOF_CHECK(found.has_value(), ErrorKind::kUsage,
                "--target_size: found {} bytes, the smallest plan of these widths has {}",
                *options.target_size, smallest.size);
    return *found;
  }
  const double weights = static_cast<double>(parameters);
  const auto limit = static_cast<std::uint64_t>(std::floor(*options.target_bits * weights + 1e-3));
  const auto found = front.within_size(limit);
  QALOF_CHECK(found.has_value(), ErrorKind::kUsage,
              "--target_bits: found {}, the smallest plan of these widths has {:.3f}",
              *options.target_bits, static_cast<double>(smallest.size) / weights);
  return *found;
}

double mean_bits(const std::vector<quant::BudgetUnit>& by_bits,
                 std::span<const std::size_t> choices, std::uint64_t parameters) {
  return static_cast<double>(quant::sum_of(by_bits, choices).size) /
         static_cast<double>(parameters);
}

}  // namespace

void check_budget(const BudgetOptions& options) {
  const int limits =
      (options.target_bits ? 1 : 0) + (options.target_size ? 1 : 0) + (options.max_f1_loss ? 1 : 0);
  QALOF_CHECK(limits == 1, ErrorKind::kUsage,
              "found {} of --target_bits, --target_size and --max_f1_loss, expected one", limits);
  if (options.target_bits) {
    QALOF_CHECK(*options.target_bits >= 2 && *options.target_bits <= 32, ErrorKind::kUsage,
                "--target_bits: found {}, expected 2..32", *options.target_bits);
  }
  if (!options.max_f1_loss) return;
  QALOF_CHECK(*options.max_f1_loss >= 0 && std::isfinite(*options.max_f1_loss), ErrorKind::kUsage,
              "--max_f1_loss: found {}, expected 0 or more", *options.max_f1_loss);
  QALOF_CHECK(options.cost.empty() || options.cost == "f1", ErrorKind::kUsage,
              "--cost: found {}, --max_f1_loss adds up f1", options.cost);
}

BudgetResult plan_under_budget(const Json& sensitivity, const std::string& where,
                               const BudgetOptions& options, const runtime::BaseModel* base,
                               const quant::QuantScheme& scheme) {
  check_budget(options);
  BudgetResult result;
  result.cost_name = cost_name(sensitivity, options);
  const quant::BudgetCost cost = quant::parse_budget_cost(result.cost_name);
  const quant::BudgetInput by_bits = quant::budget_input(sensitivity, where, cost);
  quant::BudgetInput input = by_bits;
  if (options.target_size) {
    QALOF_CHECK(base != nullptr, ErrorKind::kInternal, "--target_size needs the model");
    std::map<std::string, const model::LinearSpec*> linears;
    for (const model::LinearSpec& spec : base->linears()) linears[spec.name] = &spec;
    input = quant::budget_input(sensitivity, where, cost, [&](const std::string& module, int bits) {
      const auto found = linears.find(module);
      QALOF_CHECK(found != linears.end(), ErrorKind::kBadInput,
                  "{}: {:.100} is no linear of the model", where, module);
      return runtime::stored_bytes(*found->second, quant::BitWidth{bits}, scheme);
    });
  }
  const quant::BudgetFront front(input.units);
  const std::size_t point = choose(front, options, input.parameters);
  const std::vector<std::size_t> choices = front.choices(point);
  result.plan = quant::budget_plan(input, choices);
  if (!scheme.is_seed()) result.plan.scheme = scheme;
  result.cost = front.points()[point].cost;
  result.size = front.points()[point].size;
  result.parameters = input.parameters;
  result.mean_weight_bits = mean_bits(by_bits.units, choices, input.parameters);
  result.front = front.points();
  result.dominated = front.dominated();
  return result;
}

Json front_json(const BudgetResult& result, const BudgetOptions& options) {
  Json points = Json::array();
  const std::size_t count = result.front.size();
  const std::size_t stride = (count + kMaxFrontPoints - 1) / kMaxFrontPoints;
  for (std::size_t i = 0; i < count; i += std::max<std::size_t>(stride, 1)) {
    const quant::BudgetPoint& point = result.front[i];
    const double size = static_cast<double>(point.size);
    Json entry = {{"cost", point.cost}};
    if (options.target_size) {
      entry["bytes"] = point.size;
    } else {
      entry["bits"] = size / static_cast<double>(result.parameters);
    }
    points.push_back(entry);
  }
  return {{"format_version", 1},
          {"cost", result.cost_name},
          {"predicted", points},
          {"dominated", result.dominated}};
}

}  // namespace qalof::app
