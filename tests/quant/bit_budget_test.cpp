// The dynamic program against every plan there is, the front against its definition, and
// refinement against costs that do not add.
#include "quant/bit_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <set>

#include "quant/plan_test_util.h"
#include "support/error_of.h"

namespace qalof::quant {
namespace bit_budget_test {

using ::qalof::testing::error_of;
using ::qalof::testing::two_layers;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Choices = std::vector<std::size_t>;

// Costs are multiples of 1/8, so that sums are exact; ties are frequent. Sizes share no factor.
std::vector<BudgetUnit> random_units(std::mt19937_64& random, std::size_t count) {
  const auto below = [&](std::uint64_t n) { return random() % n; };
  std::vector<BudgetUnit> units(count);
  for (std::size_t u = 0; u < count; ++u) {
    units[u].name = fmt::format("u{}", u);
    const std::size_t widths = 1 + below(4);
    for (std::size_t c = 0; c < widths; ++c) {
      units[u].choices.push_back(
          {static_cast<int>(4 + c), static_cast<double>(below(24)) / 8 - 0.5, 1 + below(50)});
    }
  }
  return units;
}

std::vector<Choices> every_plan(std::span<const BudgetUnit> units) {
  std::vector<Choices> plans = {{}};
  for (const BudgetUnit& unit : units) {
    std::vector<Choices> longer;
    for (const Choices& plan : plans) {
      for (std::size_t c = 0; c < unit.choices.size(); ++c) {
        longer.push_back(plan);
        longer.back().push_back(c);
      }
    }
    plans = std::move(longer);
  }
  return plans;
}

TEST(BitBudget, FindsWhatTryingEveryPlanFinds) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 60; ++round) {
    const std::vector<BudgetUnit> units = random_units(random, 1 + round % 6);
    const BudgetFront front(units);
    std::vector<BudgetPoint> all;
    for (const Choices& plan : every_plan(units)) all.push_back(sum_of(units, plan));
    for (std::uint64_t limit = 0; limit < 320; limit += 7) {
      double best = std::numeric_limits<double>::infinity();
      for (const BudgetPoint& point : all) {
        if (point.size <= limit) best = std::min(best, point.cost);
      }
      const auto found = front.within_size(limit);
      ASSERT_EQ(found.has_value(), std::isfinite(best)) << "round " << round << " size " << limit;
      if (!found) continue;
      EXPECT_EQ(front.points()[*found].cost, best);
      const BudgetPoint sum = sum_of(units, front.choices(*found));
      EXPECT_EQ(sum.cost, best);
      EXPECT_EQ(sum.size, front.points()[*found].size);
      EXPECT_LE(sum.size, limit);
    }
    for (double limit = -2; limit < 10; limit += 0.375) {
      std::uint64_t best = UINT64_MAX;
      for (const BudgetPoint& point : all) {
        if (point.cost <= limit) best = std::min(best, point.size);
      }
      const auto found = front.within_cost(limit);
      ASSERT_EQ(found.has_value(), best != UINT64_MAX) << "round " << round << " cost " << limit;
      if (found) {
        EXPECT_EQ(front.points()[*found].size, best);
      }
    }
    // Its points are the undominated ones among all plans.
    std::vector<std::uint64_t> expected, found;
    for (const std::size_t i : pareto_front(all)) expected.push_back(all[i].size);
    for (const BudgetPoint& point : front.points()) found.push_back(point.size);
    EXPECT_EQ(found, expected);
  }
}

TEST(BitBudget, CountsWhatItDrops) {
  const std::vector<BudgetUnit> units = {{"a", {}, false, {{8, 0, 1}, {4, 0, 0}}},
                                         {"b", {}, false, {{8, 0, 1}, {4, 1, 0}}}};
  const BudgetFront front(units);
  ASSERT_EQ(front.points().size(), 2U);
  EXPECT_EQ(front.dominated(), 1U);  // unit a at 8 bits
  EXPECT_THAT(front.choices(0), ElementsAre(1, 1));
  EXPECT_THAT(front.choices(1), ElementsAre(1, 0));
}

TEST(BitBudget, TwelveBlocksOfGpt2) {
  std::mt19937_64 random(3);
  std::vector<BudgetUnit> units;
  std::uint64_t parameters = 0;
  for (int i = 0; i < 48; ++i) {
    const std::uint64_t count = 768ULL * std::vector<std::uint64_t>{2304, 768, 3072, 3072}[i % 4];
    parameters += count;
    BudgetUnit unit{"u", {}, false, {}};
    for (int bits = 4; bits <= 8; ++bits) {
      const double cost = bits == 8 ? 0 : static_cast<double>(random() % 1000) / (bits - 3);
      unit.choices.push_back({bits, cost, count * static_cast<std::uint64_t>(bits)});
    }
    units.push_back(unit);
  }
  const BudgetFront front(units);
  EXPECT_LE(front.points().size(), 577U);  // of the 48 x 12 x 4 / 4 sizes there are
  const auto found = front.within_size(parameters * 26 / 5);
  ASSERT_TRUE(found);
  EXPECT_GT(front.points()[*found].size, parameters * 51 / 10);
}

TEST(BitBudget, RefusesWhatItCannotAdd) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<BudgetUnit> bad = {{"a", {}, false, {{8, nan, 1}}}};
  EXPECT_EQ(error_of([&] { BudgetFront front(bad); }).kind, ErrorKind::kBadInput);
  const std::vector<BudgetUnit> none = {{"a", {}, false, {}}};
  EXPECT_EQ(error_of([&] { BudgetFront front(none); }).kind, ErrorKind::kBadInput);
  std::mt19937_64 random(1);
  const auto units = random_units(random, 6);
  const auto error = error_of([&] { BudgetFront front(units, 3); });
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_THAT(error.message, HasSubstr("partial sums"));
}

TEST(BitBudget, FrontOfMeasuredPoints) {
  const std::vector<BudgetPoint> points = {{8, 0}, {4, 3}, {6, 1}, {6, 1}, {5, 4}, {7, 1}, {4, 2}};
  EXPECT_THAT(pareto_front(points), ElementsAre(6, 2, 0));
  EXPECT_TRUE(pareto_front({}).empty());
}

// Four units of one size, two of which may be low. Single costs name a and b, which together cost
// much more than they do singly.
std::vector<BudgetUnit> four_units() {
  std::vector<BudgetUnit> units;
  for (int i = 0; i < 4; ++i)
    units.push_back(
        {std::string(1, static_cast<char>('a' + i)), {}, false, {{4, 1.0 + i, 4}, {8, 0, 8}}});
  return units;
}
double with_interaction(std::span<const BudgetUnit> units, std::span<const std::size_t> choices) {
  return sum_of(units, choices).cost + (choices[0] == 0 && choices[1] == 0 ? 10 : 0);
}

TEST(BitBudget, RefinementFindsInteractions) {
  const auto units = four_units();
  int measured = 0;
  const MeasurePlan measure = [&](std::span<const std::size_t> choices) {
    ++measured;
    return with_interaction(units, choices);
  };
  const BudgetFront front(units);
  const std::size_t start = front.within_size(24).value();
  EXPECT_THAT(front.choices(start), ElementsAre(0, 0, 1, 1));
  const std::vector<Choices> starts = {front.choices(start)};
  const RefinedPlan plan = refine_within_size(units, starts, 24, 100, measure);
  EXPECT_THAT(plan.choices, ElementsAre(0, 1, 0, 1));
  EXPECT_EQ(plan.first_cost, 13);
  EXPECT_EQ(plan.point.cost, 4);
  EXPECT_EQ(plan.point.size, 24U);
  EXPECT_EQ(plan.measurements, measured);
  EXPECT_EQ(plan.moves, 1);
}

TEST(BitBudget, RefinementStopsAtItsLimitAndNeverGrowsCost) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 30; ++round) {
    const auto units = random_units(random, 5);
    const BudgetFront front(units);
    const std::size_t start = front.points().size() / 2;
    const std::uint64_t limit = front.points()[start].size;
    const std::uint64_t salt = random();
    int measured = 0;
    std::vector<Choices> seen;
    const auto noise = [&](std::span<const std::size_t> choices) {
      std::uint64_t hash = salt;
      for (const std::size_t c : choices) hash = (hash ^ c) * 1099511628211ULL;
      return static_cast<double>(hash >> 40);
    };
    const std::vector<Choices> starts = starting_plans(units, limit);
    ASSERT_EQ(starts.at(0), front.choices(start));
    const RefinedPlan plan =
        refine_within_size(units, starts, limit, 8, [&](std::span<const std::size_t> choices) {
          ++measured;
          seen.emplace_back(choices.begin(), choices.end());
          EXPECT_LE(sum_of(units, choices).size, limit);
          return noise(choices);
        });
    EXPECT_LE(measured, 8);
    EXPECT_EQ(plan.measurements, measured);
    EXPECT_LE(plan.point.cost, plan.first_cost);
    EXPECT_EQ(plan.point.cost, noise(plan.choices));
    std::sort(seen.begin(), seen.end());
    EXPECT_EQ(std::unique(seen.begin(), seen.end()), seen.end()) << "a plan was measured twice";
  }
}

TEST(BitBudget, StartsAreTheBestOfEveryRangeOfWidthsAroundTheBudget) {
  // Single costs fall so that 4 and 8 bits beat 6 everywhere.
  std::vector<BudgetUnit> units;
  for (int i = 0; i < 4; ++i)
    units.push_back(
        {std::to_string(i), {}, false, {{4, 1 + 0.01 * i, 4}, {6, 0.9 + 0.005 * i, 6}, {8, 0, 8}}});
  EXPECT_THAT(starting_plans(units, 24), ElementsAre(ElementsAre(0, 0, 2, 2),    // 4, 6, 8
                                                     ElementsAre(1, 1, 1, 1)));  // 6
  // 6 bits do not fit everywhere.
  EXPECT_THAT(starting_plans(units, 20), ElementsAre(ElementsAre(0, 0, 0, 2),    // 4, 6, 8
                                                     ElementsAre(0, 0, 1, 1),    // 4, 6
                                                     ElementsAre(0, 0, 0, 0)));  // 4
  EXPECT_THAT(starting_plans(units, 32), ElementsAre(ElementsAre(2, 2, 2, 2)));
  EXPECT_TRUE(starting_plans(units, 15).empty());
  // A width that a unit lacks is no uniform plan, and hides none below it.
  auto lacking = units;
  lacking[3].choices.pop_back();
  EXPECT_EQ(starting_plans(lacking, 30).back(), (Choices{1, 1, 1, 1}));
  for (const std::uint64_t limit : {16U, 21U, 25U, 30U})
    for (const Choices& plan : starting_plans(units, limit))
      EXPECT_LE(sum_of(units, plan).size, limit);
}

TEST(BitBudget, RefinementKeepsTheStartThatMeasuresBest) {
  const auto units = four_units();
  const std::vector<Choices> starts = {{0, 0, 1, 1}, {1, 1, 0, 0}, {0, 1, 1, 0}};
  const auto measure = [&](std::span<const std::size_t> choices) {
    return choices[2] == 0 && choices[3] == 0 ? 1.0 : 2.0;
  };
  const RefinedPlan two = refine_within_size(units, starts, 24, 2, measure);
  EXPECT_EQ(two.choices, starts[1]);
  EXPECT_EQ(two.first_cost, 2);
  EXPECT_EQ(two.measurements, 2);
  EXPECT_EQ(refine_within_size(units, starts, 24, 1, measure).choices, starts[0]);
}

TEST(BitBudget, RefinementToACostFindsTheSmallestPlanThatHoldsIt) {
  const auto units = four_units();
  const BudgetFront front(units);
  const MeasurePlan measure = [&](std::span<const std::size_t> choices) {
    return with_interaction(units, choices);
  };
  // Singly a and b cost 3; measured, 13. One of them alone costs 1.
  const RefinedPlan plan = refine_within_cost(units, front, 3, 10, measure);
  EXPECT_THAT(plan.choices, ElementsAre(0, 1, 1, 1));
  EXPECT_EQ(plan.first_cost, 13);
  EXPECT_EQ(plan.point.cost, 1);
  // Nothing is good enough: all high, which is what costs are counted against.
  const RefinedPlan high =
      refine_within_cost(units, front, 3, 10, [](std::span<const std::size_t>) { return 9.0; });
  EXPECT_THAT(high.choices, ElementsAre(1, 1, 1, 1));
  EXPECT_EQ(high.point.cost, 0);
}

Json sensitivity() {
  return Json::parse(R"({"format_version": 1, "by": "measured", "low": 4,
    "high": {"precision": "w8a8kv8", "f1": 90.0}, "granularity": "sublayer", "units": [
    {"name": "h.0.attn.c_attn", "modules": ["h.0.attn.c_attn"], "part": "both", "parameters": 48,
     "costs": [{"bits": 4, "delta_f1": -2.0, "delta_loss": 0.5, "kl": 0.25}]},
    {"name": "h.1.mlp", "modules": ["h.1.mlp.c_fc", "h.1.mlp.c_proj"], "part": "weights",
     "parameters": 128, "costs": [{"bits": 4, "delta_f1": 0.5, "delta_loss": -0.5, "kl": 0.125}]},
    {"name": "h.0.k", "modules": [], "part": "kv", "parameters": 0, "costs": []}]})");
}

TEST(BitBudget, ReadsCostsOfASensitivityFile) {
  const BudgetInput f1 = budget_input(sensitivity(), "s.json", BudgetCost::kF1);
  ASSERT_EQ(f1.units.size(), 2U);
  EXPECT_EQ(f1.parameters, 176U);
  EXPECT_EQ(f1.units[0].choices[0].cost, 2);  // an F1 that falls costs
  EXPECT_EQ(f1.units[1].choices[0].cost, 0);  // a gain does not pay for another unit's loss
  EXPECT_EQ(f1.units[0].choices[0].size, 4U * 48);
  EXPECT_EQ(f1.units[0].choices[1].size, 8U * 48);
  EXPECT_EQ(f1.units[0].choices[1].cost, 0);
  EXPECT_EQ(budget_input(sensitivity(), "s.json", BudgetCost::kLoss).units[0].choices[0].cost, 0.5);
  const BudgetInput kl = budget_input(
      sensitivity(), "s.json", BudgetCost::kKl,
      [](const std::string& module, int bits) { return module.size() + (bits == 4 ? 1U : 9U); });
  EXPECT_EQ(kl.units[1].choices[0].cost, 0.125);
  EXPECT_EQ(kl.units[1].choices[1].size, 12U + 9 + 14 + 9);
  const auto missing = error_of([] { budget_input(sensitivity(), "s.json", BudgetCost::kScore); });
  EXPECT_EQ(missing.kind, ErrorKind::kBadInput);
  EXPECT_THAT(missing.message, HasSubstr("s.json: units: h.0.attn.c_attn: score"));
}

TEST(BitBudget, RefusesUnitsThatOverlap) {
  Json json = sensitivity();
  json["units"][1]["modules"].push_back("h.0.attn.c_attn");
  const auto error = error_of([&] { budget_input(json, "s.json", BudgetCost::kF1); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message, HasSubstr("overlap"));
}

TEST(BitBudget, PlansAreWhatEveryCommandTakes) {
  const BudgetInput input = budget_input(sensitivity(), "s.json", BudgetCost::kKl);
  const Json json = to_json(budget_plan(input, Choices{0, 0}));
  const PlanTarget target = two_layers();
  const PrecisionPlan plan = resolve(plan_from_json(json, "plan.json"), target);
  EXPECT_EQ(plan.linears[0], (Precision{BitWidth{4}, BitWidth{4}}));
  EXPECT_EQ(plan.linears[1], (Precision{BitWidth{8}, BitWidth{8}}));
  EXPECT_EQ(plan.linears[6], (Precision{BitWidth{4}, BitWidth{8}}));  // weights alone were lowered
  EXPECT_EQ(plan.linears[7], (Precision{BitWidth{4}, BitWidth{8}}));
  EXPECT_EQ(plan.k[0][0], BitWidth{8});
  EXPECT_EQ(plan.head, 8);
  EXPECT_TRUE(budget_plan(input, Choices{1, 1}).modules.empty());
}

TEST(BitBudget, RandomPlansFillTheSizeAndUniformOnesHaveOneWidth) {
  std::mt19937_64 random(3);
  std::vector<BudgetUnit> units = random_units(random, 12);
  for (BudgetUnit& unit : units) {
    unit.choices.resize(1);
    const std::uint64_t parameters = 1 + random() % 40;
    unit.choices = {{8, 0, 8 * parameters}, {4, 1, 4 * parameters}, {6, 0.5, 6 * parameters}};
  }
  const auto smallest = sum_of(units, uniform_choices(units, 4)).size;
  const auto largest = sum_of(units, uniform_choices(units, 8)).size;
  const RandomStream stream(42, "random_plans");
  std::set<Choices> seen;
  for (std::uint64_t draw = 0; draw < 40; ++draw) {
    const std::uint64_t limit = smallest + (largest - smallest) * (draw % 4) / 4;
    const Choices choices = random_choices(units, limit, stream, draw);
    EXPECT_EQ(choices, random_choices(units, limit, stream, draw));
    seen.insert(choices);
    const std::uint64_t size = sum_of(units, choices).size;
    ASSERT_LE(size, limit);
    for (std::size_t u = 0; u < units.size(); ++u) {
      if (choices[u] == 0) continue;
      const std::size_t next = choices[u] == 1 ? 2 : 0;
      EXPECT_GT(size - units[u].choices[choices[u]].size + units[u].choices[next].size, limit);
    }
  }
  EXPECT_EQ(seen.size(), 31U);  // of the smallest size there is one plan
  EXPECT_EQ(error_of([&] { random_choices(units, smallest - 1, stream, 0); }).kind,
            ErrorKind::kUsage);
  EXPECT_EQ(uniform_choices(units, 6), Choices(12, 2));
  EXPECT_EQ(error_of([&] { uniform_choices(units, 5); }).message,
            "bit budget: u0: has no width of 5 bits");
}

TEST(BitBudget, KAndVHaveABudgetOfTheirOwn) {
  Json json = sensitivity();
  EXPECT_THAT(error_of([&] { kv_budget_input(json, "s.json", BudgetCost::kKl); }).message,
              HasSubstr("h.0.k: is of all layers"));
  json["units"].erase(2);
  EXPECT_THAT(error_of([&] { kv_budget_input(json, "s.json", BudgetCost::kKl); }).message,
              HasSubstr("has no unit of K or V"));
  const auto add = [&](const char* kind, int block, int head, double kl) {
    json["units"].push_back({{"name", fmt::format("h.{}.{}.{}", block, kind, head)},
                             {"modules", Json::array()},
                             {"part", "kv"},
                             {"kind", kind},
                             {"block", block},
                             {"head", head},
                             {"parameters", 0},
                             {"costs", {{{"bits", 4}, {"kl", kl}}}}});
  };
  add("k", 0, 0, 0.5);
  add("k", 0, 1, 0.1);
  add("v", 1, 0, 0.2);
  add("v", 1, 1, 0.4);
  const BudgetInput input = kv_budget_input(json, "s.json", BudgetCost::kKl);
  EXPECT_EQ(input.parameters, 4U);
  const BudgetFront front(input.units);
  PlanSpec spec = budget_plan(budget_input(json, "s.json", BudgetCost::kKl), Choices{1, 1});
  set_kv(input, front.choices(front.within_size(6 * 4).value()), spec);
  const PrecisionPlan plan = resolve(plan_from_json(to_json(spec), "plan.json"), two_layers());
  EXPECT_THAT(plan.k[0], ElementsAre(BitWidth{8}, BitWidth{4}));
  EXPECT_THAT(plan.v[1], ElementsAre(BitWidth{4}, BitWidth{8}));
  EXPECT_THAT(plan.v[0], ElementsAre(BitWidth{8}, BitWidth{8}));
}

TEST(BitBudget, CostsHaveNames) {
  EXPECT_EQ(parse_budget_cost("f1"), BudgetCost::kF1);
  EXPECT_EQ(parse_budget_cost("kl"), BudgetCost::kKl);
  EXPECT_EQ(error_of([] { parse_budget_cost("em"); }).kind, ErrorKind::kUsage);
}

}  // namespace bit_budget_test
}  // namespace qalof::quant
