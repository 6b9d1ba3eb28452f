// Builds the plans to compare with (uniform, random, original, front) and their paired differences.
#include "app/sensitivity/plan_comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/random.h"
#include "tasks/samples.h"

namespace qalof::app {

namespace {

constexpr std::size_t kOriginalBlocks = 12;  // GPT-2's
constexpr int kOriginalBits = 4;

// Whether the original's pattern has this linear of a block (of kOriginalBlocks) at 4 bits.
bool is_low_in_original(std::size_t block, model::LinearRole role) {
  const bool is_attention_out = role == model::LinearRole::kAttentionOut;
  const bool is_mlp = model::reads_mlp_norm(role) || role == model::LinearRole::kDown;
  return block >= 10 || (block == 9 && is_mlp) || (block <= 3 && is_attention_out);
}

// A number without trailing zeros: "4.5", "5".
std::string short_bits(double bits) { return fmt::format("{:.4g}", bits); }

// Collects plans and drops duplicates.
class Plans {
 public:
  explicit Plans(const quant::QuantScheme& scheme) : scheme_(scheme) {}
  /// Adds a plan of the units' widths, with the K and V of `like`.
  void add(const std::string& name, const std::string& kind, const quant::BudgetInput& input,
           std::span<const std::size_t> choices, const quant::PlanSpec& like,
           std::optional<std::size_t> budget = std::nullopt) {
    ComparedPlan plan{name, kind, quant::budget_plan(input, choices), budget};
    plan.spec.kv = like.kv;
    add(std::move(plan));
  }
  void add(ComparedPlan plan) {
    if (!scheme_.is_minmax()) plan.spec.scheme = scheme_;
    if (seen_.insert(quant::to_json(plan.spec).dump()).second) plans_.push_back(std::move(plan));
  }
  std::vector<ComparedPlan> take() { return std::move(plans_); }

 private:
  quant::QuantScheme scheme_;
  std::set<std::string> seen_;
  std::vector<ComparedPlan> plans_;
};

void add_front(const quant::BudgetInput& input, int count, const quant::PlanSpec& like,
               Plans& plans) {
  const quant::BudgetFront front(input.units);
  const auto low = front.points().front().size, high = front.points().back().size;
  for (int i = 0; i < count; ++i) {
    const double part = count == 1 ? 0 : static_cast<double>(i) / (count - 1);
    const auto size = low + static_cast<std::uint64_t>(part * static_cast<double>(high - low));
    const std::size_t point = front.within_size(size).value();
    const double bits =
        static_cast<double>(front.points()[point].size) / static_cast<double>(input.parameters);
    plans.add("front " + short_bits(bits), "front", input, front.choices(point), like);
  }
}

void add_uniform(const quant::BudgetInput& input, const quant::PlanSpec& like, Plans& plans) {
  std::set<int> widths;
  for (const quant::BudgetChoice& choice : input.units.front().choices) widths.insert(choice.bits);
  for (const int bits : widths) {
    plans.add(fmt::format("uniform {}", bits), "uniform", input,
              quant::uniform_choices(input.units, bits), like);
  }
}

// The difference in F1 between a plan and the mean of others, paired by sample.
PlanDifference difference(const MeasuredPlan& plan, const std::vector<const MeasuredPlan*>& others,
                          const std::string& name, const PairedBootstrap& bootstrap) {
  std::vector<double> differences = plan.f1_of_samples;
  for (std::size_t i = 0; i < differences.size(); ++i) {
    double sum = 0;
    for (const MeasuredPlan* other : others) sum += other->f1_of_samples[i];
    differences[i] -= sum / static_cast<double>(others.size());
  }
  const MeanAndError found = mean_and_error(differences);
  return {plan.plan.name, name, found.mean, found.error, bootstrap.interval(differences)};
}

MeasuredPlan measured(const ComparedPlan& plan, const quant::PlanTarget& target, PlanMeter& meter) {
  const PlanScores scores = meter.measure(plan.spec);
  MeasuredPlan result;
  result.plan = plan;
  result.bits = quant::resolve(plan.spec, target).mean_weight_bits(target);
  const auto count = static_cast<double>(scores.samples.size());
  for (const tasks::SampleScore& score : scores.samples) {
    result.f1_of_samples.push_back(score.f1);
    result.em += score.exact / count;
    result.loss += score.loss / count;
    result.kl += score.kl / count;
  }
  const MeanAndError f1 = mean_and_error(result.f1_of_samples);
  result.f1 = f1.mean;
  result.f1_error = f1.error;
  result.tokens_per_second = scores.tokens_per_second;
  return result;
}

std::size_t count_dominated(const std::vector<MeasuredPlan>& plans) {
  std::vector<quant::BudgetPoint> points;
  points.reserve(plans.size());
  for (const MeasuredPlan& plan : plans)
    points.push_back({static_cast<std::uint64_t>(std::llround(plan.bits * 1e9)), -plan.f1});
  return plans.size() - quant::pareto_front(points).size();
}

}  // namespace

quant::PlanSpec original_pattern(const weights::BaseModel& base,
                                 const quant::UniformPrecision& high) {
  quant::PlanSpec plan;
  plan.default_precision = high;
  plan.head = high.linear.weight.bits;
  const std::size_t blocks = base.config().num_layers;
  for (const model::LinearSpec& spec : base.linears()) {
    const std::size_t block = (2 * spec.layer + 1) * kOriginalBlocks / (2 * blocks);
    if (is_low_in_original(block, spec.role))
      plan.modules[spec.name] = {{kOriginalBits}, {kOriginalBits}};
  }
  return plan;
}

std::vector<ComparedPlan> plans_to_compare(const Json& sensitivity, const std::string& where,
                                           const std::vector<BudgetResult>& budgets,
                                           const ComparisonOptions& options,
                                           const weights::BaseModel& base,
                                           const quant::QuantScheme& scheme) {
  QALOF_CHECK(!budgets.empty(), ErrorKind::kInternal, "no budget to compare plans of");
  QALOF_CHECK(options.measure >= 0 && options.measure <= 1000, ErrorKind::kUsage,
              "--measure: found {}, expected 0..1000", options.measure);
  QALOF_CHECK(options.random_plans >= 1 && options.random_plans <= 1000, ErrorKind::kUsage,
              "--random_plans: found {}, expected 1..1000", options.random_plans);
  const quant::BudgetInput input =
      quant::budget_input(sensitivity, where, quant::parse_budget_cost(budgets.front().cost_name));
  Plans plans(scheme);
  std::vector<std::string> names;
  for (std::size_t i = 0; i < budgets.size(); ++i) {
    names.push_back(short_bits(budgets[i].target_bits.value_or(budgets[i].mean_weight_bits)));
    plans.add({"plan " + names.back(), "plan", budgets[i].plan, i});
  }
  const quant::PlanSpec& like = budgets.front().plan;
  for (const std::string& other : options.compare) {
    if (other == "uniform") {
      add_uniform(input, like, plans);
    } else if (other == "random") {
      const RandomStream stream(options.seed, "random_plans");
      for (std::size_t i = 0; i < budgets.size(); ++i) {
        const auto size = static_cast<std::uint64_t>(
            std::llround(budgets[i].mean_weight_bits * static_cast<double>(input.parameters)));
        for (int n = 0; n < options.random_plans; ++n) {
          const auto draw = i * 1000 + static_cast<std::uint64_t>(n);
          plans.add(fmt::format("random {} #{}", names[i], n + 1), "random", input,
                    quant::random_choices(input.units, size, stream, draw), like, i);
        }
      }
    } else if (other == "original") {
      plans.add({"original", "original", original_pattern(base, input.high), std::nullopt});
    } else {
      const std::string name = std::filesystem::path(other).filename().string();
      plans.add({name, "given", quant::parse_plan(other), std::nullopt});
    }
  }
  // Added last, so that a plan already listed keeps its name.
  if (options.measure > 0) add_front(input, options.measure, like, plans);
  return plans.take();
}

ComparisonResult compare_plans(const std::vector<ComparedPlan>& plans,
                               const quant::PlanTarget& target, PlanMeter& meter,
                               Observer& observer) {
  ComparisonResult result;
  for (const ComparedPlan& plan : plans) {
    result.plans.push_back(measured(plan, target, meter));
    const MeasuredPlan& found = result.plans.back();
    observer.info(fmt::format("{} of {}: {}: {:.3f} bits, F1 {:.2f}", result.plans.size(),
                              plans.size(), plan.name, found.bits, found.f1));
  }
  result.samples = result.plans.front().f1_of_samples.size();
  result.dominated = count_dominated(result.plans);
  const PairedBootstrap bootstrap(result.samples);
  for (const MeasuredPlan& plan : result.plans) {
    if (plan.plan.kind != "plan") continue;
    const auto add = [&](const std::vector<const MeasuredPlan*>& others, const std::string& name) {
      result.differences.push_back(difference(plan, others, name, bootstrap));
    };
    std::vector<const MeasuredPlan*> below, random;
    for (const MeasuredPlan& other : result.plans) {
      const bool is_uniform = other.plan.kind == "uniform";
      if (is_uniform && other.bits <= plan.bits + 1e-9) below.push_back(&other);
      if (other.plan.kind == "random" && other.plan.budget == plan.plan.budget)
        random.push_back(&other);
    }
    std::sort(below.begin(), below.end(),
              [](const MeasuredPlan* a, const MeasuredPlan* b) { return a->bits > b->bits; });
    if (!below.empty()) add({below[0]}, below[0]->plan.name);
    if (below.size() > 1 && below[0]->bits > plan.bits - 0.01) add({below[1]}, below[1]->plan.name);
    if (!random.empty()) add(random, fmt::format("mean of {} random", random.size()));
    for (const MeasuredPlan& other : result.plans) {
      if (other.plan.kind == "original" || other.plan.kind == "given")
        add({&other}, other.plan.name);
    }
  }
  return result;
}

void add_comparison(const ComparisonResult& result, Json& front) {
  Json points = Json::array(), differences = Json::array();
  for (const MeasuredPlan& plan : result.plans) {
    points.push_back({{"name", plan.plan.name},
                      {"kind", plan.plan.kind},
                      {"bits", plan.bits},
                      {"f1", plan.f1},
                      {"f1_standard_error", plan.f1_error},
                      {"exact_match", plan.em},
                      {"loss", plan.loss},
                      {"kl", plan.kl},
                      {"tokens_per_second", plan.tokens_per_second}});
  }
  for (const PlanDifference& found : result.differences) {
    differences.push_back({{"plan", found.plan},
                           {"other", found.other},
                           {"delta_f1", found.delta_f1},
                           {"standard_error", found.standard_error},
                           {"interval", {found.interval.low, found.interval.high}}});
  }
  front["samples"] = result.samples;
  front["points"] = points;
  front["differences"] = differences;
  front["dominated_points"] = result.dominated;
}

}  // namespace qalof::app
