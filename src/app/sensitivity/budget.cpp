// Reads units and costs from sensitivity.json, picks a point of the Pareto front, refines it, and
// writes front.json.
#include "app/sensitivity/budget.h"

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

std::uint64_t bits_limit(const BudgetOptions& options, std::uint64_t parameters) {
  const double limit = *options.target_bits * static_cast<double>(parameters);
  return static_cast<std::uint64_t>(std::floor(limit + 1e-3));
}

// Index of the best point of the front within the limit.
std::size_t choose(const quant::BudgetFront& front, const BudgetOptions& options,
                   std::uint64_t parameters) {
  const quant::BudgetPoint& smallest = front.points().front();
  if (options.max_f1_loss) {
    // The all-high plan costs 0, so such a point exists.
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
  const auto found = front.within_size(bits_limit(options, parameters));
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

// The widths of K and V, which have a separate budget.
struct KvChoice {
  quant::BudgetInput input;
  std::vector<std::size_t> choices;
  quant::BudgetPoint sum;
};

KvChoice choose_kv(quant::BudgetInput input, double target_bits) {
  const quant::BudgetFront front(input.units);
  const double units = static_cast<double>(input.parameters);
  const auto point = front.within_size(static_cast<std::uint64_t>(target_bits * units + 1e-3));
  QALOF_CHECK(point.has_value(), ErrorKind::kUsage,
              "--target_kv_bits: found {}, the fewest of these widths are {:.3f}", target_bits,
              static_cast<double>(front.points().front().size) / units);
  return {std::move(input), front.choices(*point), front.points()[*point]};
}

}  // namespace

void check_budget(const BudgetOptions& options) {
  QALOF_CHECK(options.refine >= 0, ErrorKind::kUsage, "--refine: found {}, expected 0 or more",
              options.refine);
  QALOF_CHECK(!options.max_f1_loss || options.refine_cost == "f1", ErrorKind::kUsage,
              "--refine_cost: found {}, --max_f1_loss measures f1", options.refine_cost);
  const int limits =
      (options.target_bits ? 1 : 0) + (options.target_size ? 1 : 0) + (options.max_f1_loss ? 1 : 0);
  QALOF_CHECK(limits == 1, ErrorKind::kUsage,
              "found {} of --target_bits, --target_size and --max_f1_loss, expected one", limits);
  if (options.target_bits) {
    QALOF_CHECK(*options.target_bits >= 2 && *options.target_bits <= 32, ErrorKind::kUsage,
                "--target_bits: found {}, expected 2..32", *options.target_bits);
  }
  if (options.target_kv_bits) {
    QALOF_CHECK(*options.target_kv_bits >= 2 && *options.target_kv_bits <= 32, ErrorKind::kUsage,
                "--target_kv_bits: found {}, expected 2..32", *options.target_kv_bits);
  }
  if (!options.max_f1_loss) return;
  QALOF_CHECK(*options.max_f1_loss >= 0 && std::isfinite(*options.max_f1_loss), ErrorKind::kUsage,
              "--max_f1_loss: found {}, expected 0 or more", *options.max_f1_loss);
  QALOF_CHECK(options.cost.empty() || options.cost == "f1", ErrorKind::kUsage,
              "--cost: found {}, --max_f1_loss adds up f1", options.cost);
}

BudgetResult plan_under_budget(const Json& sensitivity, const std::string& where,
                               const BudgetOptions& options, const weights::BaseModel* base,
                               const quant::QuantScheme& scheme, const MeasureCost& measure) {
  check_budget(options);
  BudgetResult result;
  result.cost_name = cost_name(sensitivity, options);
  result.target_bits = options.target_bits;
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
  std::vector<std::size_t> choices = front.choices(point);
  std::optional<KvChoice> kv;
  if (options.target_kv_bits)
    kv = choose_kv(quant::kv_budget_input(sensitivity, where, cost), *options.target_kv_bits);
  const auto plan_of = [&](std::span<const std::size_t> chosen) {
    quant::PlanSpec plan = quant::budget_plan(input, chosen);
    if (kv) quant::set_kv(kv->input, kv->choices, plan);
    if (!scheme.is_minmax()) plan.scheme = scheme;
    return plan;
  };
  if (options.refine > 0) {
    const quant::BudgetCost goal = quant::parse_budget_cost(options.refine_cost);
    const quant::MeasurePlan measured = [&](std::span<const std::size_t> chosen) {
      return measure(plan_of(chosen), goal);
    };
    if (options.max_f1_loss) {
      result.refined = quant::refine_within_cost(input.units, front, *options.max_f1_loss,
                                                 options.refine, measured);
    } else {
      const std::uint64_t limit =
          options.target_size ? *options.target_size : bits_limit(options, input.parameters);
      result.refined = quant::refine_within_size(
          input.units, quant::starting_plans(input.units, limit), limit, options.refine, measured);
    }
    choices = result.refined->choices;
  }
  const quant::BudgetPoint sum = quant::sum_of(input.units, choices);
  result.plan = plan_of(choices);
  result.cost = sum.cost + (kv ? kv->sum.cost : 0);
  if (kv)
    result.mean_kv_bits =
        static_cast<double>(kv->sum.size) / static_cast<double>(kv->choices.size());
  result.size = sum.size;
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
