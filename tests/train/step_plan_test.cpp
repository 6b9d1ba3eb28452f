// Schedules of widths: exact values, distributions, and what a step trains.
#include "train/step_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numbers>

#include "core/error.h"
#include "train_test_util.h"

namespace qalof::train {
namespace step_plan_test {

struct Plans {
  explicit Plans(const TrainOptions& chosen)
      : options(chosen),
        target(tiny_base()->target()),
        phase(make_phases(chosen, target).front()) {}

  StepPlan at(std::int64_t step, std::int64_t total, const WalkState& state = {}) const {
    return plan_step(phase, options, target, step, total, state);
  }

  TrainOptions options;
  quant::PlanTarget target;
  Phase phase;
};

TrainOptions options_of(Method method) {
  TrainOptions options;
  options.method = method;
  return options;
}

std::string usage_error(const TrainOptions& options, std::int64_t total) {
  try {
    check_cycles(options, total);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "accepted";
}

TEST(Joint, TrainsAllWidthsFromHighToLowEachTaughtByThoseAbove) {
  TrainOptions options = options_of(Method::kJoint);
  options.widths.bit_widths = {4, 8, 6};
  const Plans plans(options);
  const StepPlan step = plans.at(3, 10);
  ASSERT_EQ(step.passes.size(), 3U);
  const std::vector<std::string> names = {"w8", "w6", "w4"};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(step.passes[i].network.name, names[i]);
    EXPECT_EQ(step.passes[i].weight, 1);
    ASSERT_EQ(step.passes[i].teachers.size(), i);
    for (std::size_t j = 0; j < i; ++j) {
      EXPECT_EQ(step.passes[i].teachers[j], (TeacherReference{TeacherKind::kEarlierPass, j}));
    }
  }
}

TEST(Cyclic, FollowsItsFormulaAndEndsAtTheTop) {
  const TrainOptions options = options_of(Method::kCpt);
  // One cycle of ten steps: 4 + 2 (1 - cos(pi t / 10)) by hand.
  TrainOptions one = options;
  one.widths.num_cyclic_period = 1;
  const std::vector<int> expected = {4, 4, 4, 5, 5, 6, 7, 7, 8, 8};
  for (std::int64_t t = 0; t < 10; ++t) {
    EXPECT_EQ(cyclic_bits(one, t, 10), expected[static_cast<std::size_t>(t)]) << t;
  }
  for (const std::int64_t total : {160, 161, 1000, 1003}) {
    EXPECT_EQ(usage_error(options, total), "accepted");
    EXPECT_EQ(cyclic_bits(options, 0, total), 4);
    EXPECT_EQ(cyclic_bits(options, total - 1, total), 8) << total;
  }
  const Plans plans(options);
  std::map<std::string, int> found, histogram;
  for (std::int64_t t = 0; t < 1000; ++t) {
    const StepPlan step = plans.at(t, 1000);
    ASSERT_EQ(step.passes.size(), 1U);
    ++found[step.passes[0].network.name];
    const double part = std::fmod(static_cast<double>(t) * 32.0, 1000.0) / 1000.0;
    ++histogram[fmt::format("w{}", std::lround(4 + 2 * (1 - std::cos(std::numbers::pi * part))))];
  }
  EXPECT_EQ(found, histogram);
  EXPECT_EQ(found.size(), 5U);
}

TEST(Cyclic, ShortCyclesAreRefusedWithTheLargestNumber) {
  TrainOptions options = options_of(Method::kCpt);
  EXPECT_NE(usage_error(options, 159).find("--num_cyclic_period: found 32, expected at most 31"),
            std::string::npos);
  options.widths.num_cyclic_period = 31;
  EXPECT_EQ(usage_error(options, 159), "accepted");
  // A wider range needs more steps to reach its top: 3 (1 - cos(pi N / 159)) < 0.5, N < 29.6.
  options.widths.min_bits = 2;
  EXPECT_NE(usage_error(options, 159).find("at most 29"), std::string::npos)
      << usage_error(options, 159);
  options.widths.num_cyclic_period = 29;
  EXPECT_EQ(cyclic_bits(options, 158, 159), 8);
  EXPECT_NE(usage_error(options, 3).find("too few for one cycle"), std::string::npos);
}

TEST(Random, DrawsAreUniformReproducibleAndIndependentOfOrder) {
  TrainOptions options = options_of(Method::kRandom);
  const Plans plans(options);
  constexpr int kSteps = 5000;
  std::map<std::string, int> counts;
  for (int t = 0; t < kSteps; ++t) ++counts[plans.at(t, kSteps).passes[0].network.name];
  ASSERT_EQ(counts.size(), 5U);
  // Five standard deviations of a binomial count.
  const double slack = 5 * std::sqrt(kSteps * 0.2 * 0.8);
  for (const auto& [name, count] : counts) EXPECT_NEAR(count, kSteps / 5, slack) << name;
  const Plans again(options);
  EXPECT_EQ(again.at(77, kSteps).passes[0].network.plan,
            plans.at(77, kSteps).passes[0].network.plan);
  options.seed = 43;
  const Plans other(options);
  int same = 0;
  for (int t = 0; t < 1000; ++t) {
    same += other.at(t, kSteps).passes[0].network.name == plans.at(t, kSteps).passes[0].network.name
                ? 1
                : 0;
  }
  EXPECT_NEAR(same, 200, 5 * std::sqrt(1000 * 0.2 * 0.8));
}

TEST(Random, LayersDrawWidthsOfTheirOwnAndHeadsAreDrawnToo) {
  TrainOptions options = options_of(Method::kRandom);
  options.widths.random_widths = RandomWidths::kLayer;
  options.widths.bit_widths = {8, 4};
  const Plans plans(options);
  const std::size_t linears = plans.target.linear_names.size();
  std::vector<int> fours(linears), heads(9);
  int equal_neighbours = 0;
  constexpr int kSteps = 2000;
  for (int t = 0; t < kSteps; ++t) {
    const StepPlan step = plans.at(t, kSteps);
    const quant::PrecisionPlan& plan = step.passes[0].network.plan;
    for (std::size_t i = 0; i < linears; ++i) {
      fours[i] += plan.linears[i].weight.bits == 4 ? 1 : 0;
      EXPECT_EQ(plan.linears[i].weight, plan.linears[i].activation);
    }
    equal_neighbours += plan.linears[0] == plan.linears[1] ? 1 : 0;
    EXPECT_EQ(plan.k[0][0].bits, plan.linears[0].weight.bits);
    EXPECT_EQ(plan.v[1][0].bits, plan.linears[4].weight.bits);
    ++heads[static_cast<std::size_t>(step.passes[0].network.head_width)];
  }
  const double slack = 5 * std::sqrt(kSteps * 0.25);
  for (const int count : fours) EXPECT_NEAR(count, kSteps / 2, slack);
  EXPECT_NEAR(equal_neighbours, kSteps / 2, slack);
  EXPECT_NEAR(heads[4], kSteps / 2, slack);
  options.widths.random_widths = RandomWidths::kBoth;
  const Plans both(options);
  int mixed = 0;
  for (int t = 0; t < kSteps; ++t)
    mixed += both.at(t, kSteps).passes[0].network.name == "mixed" ? 1 : 0;
  EXPECT_NEAR(mixed, kSteps / 2, slack);
}

std::vector<std::size_t> levels_of(const TrainOptions& options, std::int64_t total,
                                   const std::function<double(std::int64_t)>& loss) {
  const Plans plans(options);
  WalkState state;
  std::vector<std::size_t> levels;
  for (std::int64_t t = 0; t < total; ++t) {
    levels.push_back(state.level);
    EXPECT_EQ(plans.at(t, total, state).passes[0].network.name,
              plans.phase.networks[state.level].name);
    const std::size_t before = state.level;
    const bool lower = advance(plans.phase, options, t + 1, total, loss(t), state);
    EXPECT_EQ(lower, state.level == before + 1);
  }
  return levels;
}

// A plan of 8 bits but for two linears of 6 and one of 4.
TrainOptions around_plan(Method method) {
  TrainOptions options = options_of(method);
  options.plan = plan_of("8", *tiny_base());
  options.plan->linears[1] = options.plan->linears[2] = {{6}, {6}};
  options.plan->linears[5] = {{4}, {8}};
  return options;
}

TEST(AroundAPlan, NetworksAreThePlanWithNoLinearBelowAWidth) {
  TrainOptions options = around_plan(Method::kJoint);
  const Plans plans(options);
  EXPECT_EQ(plans.phase.widths, (std::vector<int>{8, 6, 4}));  // joint's own and the plan's
  EXPECT_FALSE(plans.phase.has_head_per_width);
  const StepPlan step = plans.at(0, 10);
  ASSERT_EQ(step.passes.size(), 3U);
  EXPECT_EQ(step.passes[0].network.name, "plan8");
  EXPECT_EQ(step.passes[0].network.plan, plan_of("8", *tiny_base()));
  EXPECT_EQ(step.passes[1].network.plan.linears[1], options.plan->linears[1]);
  EXPECT_EQ(step.passes[1].network.plan.linears[5], (quant::Precision{{6}, {8}}));
  EXPECT_EQ(step.passes[2].network.name, "plan");
  EXPECT_EQ(step.passes[2].network.plan, *options.plan);

  // One phase after the other, the last in the plan, taught by the one before.
  options.method = Method::kSwitch;
  const std::vector<Phase> phases = make_phases(options, plans.target);
  ASSERT_EQ(phases.size(), 3U);
  EXPECT_EQ(phases[0].widths, std::vector<int>{8});
  EXPECT_EQ(phases[2].name, "plan");
  EXPECT_EQ(phases[2].widths, (std::vector<int>{8, 6, 4}));
  EXPECT_EQ(phases[2].teacher, 1U);
  EXPECT_EQ(phases[2].head_from, 8);

  // By width, and so by step, even where networks are the same.
  options.method = Method::kCpt;
  const Phase cyclic = make_phases(options, plans.target).front();
  ASSERT_EQ(cyclic.networks.size(), 5U);
  EXPECT_EQ(cyclic.networks[1].plan.linears[1].weight.bits, 7);
  EXPECT_EQ(cyclic.networks[2].plan.linears[1].weight.bits, 6);
  EXPECT_EQ(cyclic.networks[4].plan, *options.plan);
}

TEST(AroundAPlan, RandomLayersKeepTheirWidthOrTakeTheNextOne) {
  TrainOptions options = around_plan(Method::kRandom);
  options.widths.random_widths = RandomWidths::kLayer;
  options.widths.bit_widths = {8, 6, 5, 4};
  const Plans plans(options);
  constexpr int kSteps = 4000;
  std::map<int, int> of_six, of_four, of_eight;
  for (std::int64_t step = 0; step < kSteps; ++step) {
    const StepPlan drawn = plans.at(step, kSteps);
    ASSERT_EQ(drawn.passes.size(), 1U);
    const quant::PrecisionPlan& plan = drawn.passes[0].network.plan;
    ++of_eight[plan.linears[0].weight.bits];
    ++of_six[plan.linears[1].weight.bits];
    ++of_four[plan.linears[5].weight.bits];
    EXPECT_EQ(plan.linears[1].activation, plan.linears[1].weight);
    EXPECT_EQ(plan.linears[5].activation.bits, 8);  // weights alone were low
    EXPECT_EQ(plan.k, options.plan->k);
  }
  // Five standard deviations of a binomial share.
  const double most = 5 * std::sqrt(kSteps * 0.25);
  EXPECT_NEAR(of_six[6], kSteps / 2, most);
  EXPECT_NEAR(of_six[8], kSteps / 4, most);
  EXPECT_NEAR(of_six[5], kSteps / 4, most);
  EXPECT_EQ(of_six.size(), 3U);
  EXPECT_NEAR(of_four[4], kSteps * 3 / 4, most);  // nothing below is trained
  EXPECT_NEAR(of_four[5], kSteps / 4, most);
  EXPECT_NEAR(of_eight[8], kSteps * 3 / 4, most);
  EXPECT_NEAR(of_eight[6], kSteps / 4, most);
}

TEST(CurriculumTest, ScheduleHasEqualParts) {
  const TrainOptions options = options_of(Method::kCurriculum);
  const auto levels = levels_of(options, 50, [](std::int64_t) { return 1.0; });
  for (std::size_t t = 0; t < 50; ++t) EXPECT_EQ(levels[t], t / 10) << t;
}

TEST(CurriculumTest, LossComesDownWhereItStopsFallingAndAtTheLatestInTime) {
  TrainOptions options = options_of(Method::kCurriculum);
  options.widths.curriculum = Curriculum::kLoss;
  options.widths.bit_widths = {8, 4};
  // Windows of 100 / 8 = 12 steps: flat from step 30 on, two windows are full at 24 and equal once
  // both lie beyond 30.
  auto levels = levels_of(options, 100, [](std::int64_t t) {
    return t < 30 ? 100.0 - 3.0 * static_cast<double>(t) : 10.0;
  });
  const auto drop = std::find(levels.begin(), levels.end(), 1U) - levels.begin();
  EXPECT_GT(drop, 42);
  EXPECT_LE(drop, 54);
  // A loss that always falls comes down when half of an equal part is left.
  levels =
      levels_of(options, 100, [](std::int64_t t) { return std::pow(0.5, static_cast<double>(t)); });
  EXPECT_EQ(std::find(levels.begin(), levels.end(), 1U) - levels.begin(), 75);
  // Losses that are not finite decide nothing.
  levels = levels_of(options, 100, [](std::int64_t) { return NAN; });
  EXPECT_EQ(std::find(levels.begin(), levels.end(), 1U) - levels.begin(), 75);
}

}  // namespace step_plan_test
}  // namespace qalof::train
