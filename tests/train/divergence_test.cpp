// Numbers that are not finite end a run, or are told; and what a run tells while it works.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "support/error_of.h"
#include "train/trainer.h"
#include "train_test_util.h"

namespace qalof::train {
namespace divergence_test {

using qalof::testing::error_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TrainOptions run_of(Method method, std::int64_t steps) {
  TrainOptions options;
  options.method = method;
  options.schedule.max_steps = steps;
  options.schedule.warmup_steps = 0;
  options.schedule.batch_size = 2;
  options.schedule.gradient_accumulation_steps = 2;
  options.adapters.lora_r = 3;
  options.threads = 2;
  return options;
}

struct Told : Observer {
  void info(std::string_view line) override { lines += std::string(line) + "\n"; }
  void warn(std::string_view line) override { lines += "warning: " + std::string(line) + "\n"; }
  void progress(std::string_view what, std::uint64_t done, std::uint64_t total,
                std::string_view detail, std::string_view /*unit*/) override {
    calls.push_back(fmt::format("{} {}/{}", what, done, total));
    details = detail;
  }
  void status(std::string_view what) override { calls.emplace_back(what); }
  std::string lines, details;
  std::vector<std::string> calls;
};

// Fewer steps than what is borne in a row.
TEST(Divergence, RunWhoseEveryStepIsSkippedEnds) {
  for (const Method method : {Method::kLora, Method::kFull, Method::kSwitch, Method::kJoint}) {
    TrainHooks hooks;
    hooks.on_gradients = [](std::int64_t, std::span<float> gradients) { gradients[0] = kNan; };
    bool ended = false;
    hooks.on_phase_end = [&](const Checkpoint&) { ended = true; };
    const auto error =
        error_of([&] { train(tiny_base(), run_of(method, 3), tiny_examples(8), hooks); });
    EXPECT_EQ(error.kind, ErrorKind::kDiverged);
    EXPECT_THAT(error.message,
                AllOf(HasSubstr("all of its 3 steps were skipped"), HasSubstr("gradient norm nan"),
                      HasSubstr("began in the first step")));
    EXPECT_FALSE(ended) << "nothing to score";
  }
}

TEST(Divergence, RunThatEndsWithALossThatIsNotFiniteEnds) {
  TrainOptions options = run_of(Method::kFull, 2);
  options.schedule.learning_rate = 1e30;  // one step makes the network useless
  const auto error = error_of([&] { train(tiny_base(), options, tiny_examples(8), {}); });
  EXPECT_EQ(error.kind, ErrorKind::kDiverged);
  EXPECT_THAT(error.message, AllOf(HasSubstr("in step 2"), HasSubstr("--learning_rate")));
}

TEST(Divergence, SomeSkippedStepsAreTold) {
  Told told;
  TrainHooks hooks;
  hooks.observer = &told;
  hooks.on_gradients = [](std::int64_t step, std::span<float> gradients) {
    if (step == 2 || step == 4) gradients[0] = kNan;
  };
  const TrainResult result = train(tiny_base(), run_of(Method::kJoint, 6), tiny_examples(8), hooks);
  EXPECT_EQ(result.phases[0].skipped_steps, 2);
  EXPECT_TRUE(std::isfinite(result.train_loss));
  EXPECT_THAT(told.lines, HasSubstr("step 4: gradient norm nan"));
  EXPECT_THAT(told.lines, HasSubstr("phase joint: 2 of 6 steps were skipped"));
}

// Adapters whose products overflow, all weights finite.
std::shared_ptr<const TeacherModel> broken_teacher(std::shared_ptr<const weights::BaseModel> base) {
  auto adapter = std::make_shared<weights::Adapter>();
  adapter->rank = 1;
  adapter->alpha = 1;
  for (const model::LinearSpec& spec : base->linears()) {
    adapter->linears.push_back(std::make_unique<weights::LoraLinear>(
        1, 1.0F, std::vector<float>(spec.in, 1e10F), std::vector<float>(spec.out, 1e38F), spec.in,
        spec.out));
  }
  auto set = std::make_shared<weights::AdapterSet>();
  adapter->qa_head = base->qa_head();
  set->by_width[8] = adapter;
  auto teacher = std::make_shared<TeacherModel>();
  teacher->name = "broken";
  teacher->plan = plan_of("32", *base);
  teacher->base = std::move(base);
  teacher->adapters = set;
  return teacher;
}

TEST(Divergence, TeacherThatIsNotFiniteIsNamedAtOnce) {
  const auto base = tiny_base();
  for (const weights::HeadKind head_kind : {weights::HeadKind::kSpan, weights::HeadKind::kLm}) {
    TrainOptions options = run_of(Method::kSwitch, 9);
    options.head_kind = head_kind;
    options.teacher = broken_teacher(base);
    int steps = 0;
    TrainHooks hooks;
    hooks.on_step = [&](const StepRecord&) { ++steps; };
    const auto error =
        error_of([&] { train(base, options, tiny_examples(8, /*shortest=*/2), hooks); });
    EXPECT_EQ(error.kind, ErrorKind::kDiverged);
    EXPECT_THAT(error.message, AllOf(HasSubstr("--teacher broken"), HasSubstr("in step 1")));
    EXPECT_EQ(steps, 0) << "not five skipped steps and advice on the learning rate";
  }
}

// Whatever --logging_steps says: where the output goes and how long a step takes decide.
TEST(Progress, EveryStepAndEveryPassIsReported) {
  Told told;
  TrainHooks hooks;
  hooks.observer = &told;
  TrainOptions options = run_of(Method::kJoint, 3);
  options.logging.logging_steps = 1000;
  train(tiny_base(), options, tiny_examples(8), hooks);
  const auto place = [&](const std::string& call) {
    const auto found = std::ranges::find(told.calls, call);
    EXPECT_NE(found, told.calls.end()) << call;
    return found - told.calls.begin();
  };
  EXPECT_LT(place("preparing phase joint"), place("train joint 0/3"));
  EXPECT_LT(place("train joint 0/3"), place("step 1 of 3: w8 forward, batch 1 of 2"));
  EXPECT_LT(place("step 1 of 3: w8 forward, batch 1 of 2"),
            place("step 1 of 3: w8 backward, batch 1 of 2"));
  EXPECT_LT(place("step 1 of 3: w8 backward, batch 1 of 2"),
            place("step 1 of 3: w4 forward, batch 1 of 2"));
  EXPECT_LT(place("step 1 of 3: w4 backward, batch 2 of 2"), place("train joint 1/3"));
  EXPECT_LT(place("train joint 1/3"), place("train joint 2/3"));
  place("train joint 3/3");
  EXPECT_THAT(told.details, HasSubstr("loss "));
}

TEST(Progress, WarmupLongerThanTheRunIsTold) {
  for (const std::int64_t warmup : {4, 5}) {
    Told told;
    TrainHooks hooks;
    hooks.observer = &told;
    TrainOptions options = run_of(Method::kLora, 5);
    options.schedule.warmup_steps = warmup;
    train(tiny_base(), options, tiny_examples(4), hooks);
    EXPECT_EQ(told.lines.find("--warmup_steps 5 is not less") != std::string::npos, warmup == 5);
  }
}

}  // namespace divergence_test
}  // namespace qalof::train
