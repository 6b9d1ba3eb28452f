// A run that goes on from any step is the run that never stopped, bit for bit.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "support/error_of.h"
#include "train/run_state.h"
#include "train/trainer.h"
#include "train_test_util.h"

namespace qalof::train {
namespace resume_test {

TrainOptions run_of(Method method) {
  TrainOptions options;
  options.method = method;
  options.schedule.max_steps = 11;
  options.schedule.warmup_steps = 3;
  options.schedule.batch_size = 3;
  options.adapters.lora_r = 3;
  options.schedule.learning_rate = 5e-3;
  options.schedule.weight_decay = 0.01;
  options.widths.num_cyclic_period = 2;
  options.threads = 2;
  options.logging.save_steps = 1;
  return options;
}

// Everything but the seconds.
void expect_same_record(const StepRecord& a, const StepRecord& b) {
  EXPECT_EQ(a.phase, b.phase);
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.total_steps, b.total_steps);
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_EQ(a.hard_loss, b.hard_loss);
  EXPECT_EQ(a.distillation, b.distillation);
  EXPECT_EQ(a.hidden_loss, b.hidden_loss);
  EXPECT_EQ(a.contrastive_loss, b.contrastive_loss);
  EXPECT_EQ(a.grad_norm, b.grad_norm);
  EXPECT_EQ(a.learning_rate, b.learning_rate);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.skipped, b.skipped);
  ASSERT_EQ(a.passes.size(), b.passes.size());
  for (std::size_t i = 0; i < a.passes.size(); ++i) {
    EXPECT_EQ(a.passes[i].network, b.passes[i].network);
    EXPECT_EQ(a.passes[i].loss, b.passes[i].loss);
    EXPECT_EQ(a.passes[i].hard_loss, b.passes[i].hard_loss);
    EXPECT_EQ(a.passes[i].distillation, b.passes[i].distillation);
    EXPECT_EQ(a.passes[i].hidden_loss, b.passes[i].hidden_loss);
    EXPECT_EQ(a.passes[i].contrastive_loss, b.passes[i].contrastive_loss);
    EXPECT_EQ(a.passes[i].accuracy, b.passes[i].accuracy);
    EXPECT_EQ(a.passes[i].tokens, b.passes[i].tokens);
  }
}

void expect_same_result(const TrainResult& a, const TrainResult& b) {
  EXPECT_EQ(a.steps, b.steps);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.train_loss, b.train_loss);
  ASSERT_EQ(a.phases.size(), b.phases.size());
  for (std::size_t i = 0; i < a.phases.size(); ++i) {
    EXPECT_EQ(a.phases[i].name, b.phases[i].name);
    EXPECT_EQ(a.phases[i].precision, b.phases[i].precision);
    EXPECT_EQ(a.phases[i].train_loss, b.phases[i].train_loss);
    EXPECT_EQ(a.phases[i].skipped_steps, b.phases[i].skipped_steps);
    ASSERT_EQ(a.phases[i].networks.size(), b.phases[i].networks.size());
    for (std::size_t n = 0; n < a.phases[i].networks.size(); ++n) {
      EXPECT_EQ(a.phases[i].networks[n].steps, b.phases[i].networks[n].steps);
      EXPECT_EQ(a.phases[i].networks[n].train_loss, b.phases[i].networks[n].train_loss);
    }
    ASSERT_EQ(a.phases[i].steps.size(), b.phases[i].steps.size());
    for (std::size_t s = 0; s < a.phases[i].steps.size(); ++s) {
      expect_same_record(a.phases[i].steps[s], b.phases[i].steps[s]);
    }
  }
  ASSERT_EQ(a.weights.adapters.size(), b.weights.adapters.size());
  for (const auto& [width, adapter] : a.weights.adapters) {
    EXPECT_TRUE(same_adapter(*adapter, *b.weights.adapters.at(width))) << width;
  }
  ASSERT_EQ(a.weights.tensors.size(), b.weights.tensors.size());
  for (const auto& [name, tensor] : a.weights.tensors) {
    EXPECT_TRUE(same_bytes(tensor.values, b.weights.tensors.at(name).values)) << name;
  }
}

// Runs, and keeps the state after every step.
TrainResult run_and_keep(const std::shared_ptr<const weights::BaseModel>& base,
                         const TrainOptions& options, const std::vector<Example>& examples,
                         std::vector<RunState>& states, TrainHooks hooks = {}) {
  hooks.on_save = [&](const Checkpoint& point) {
    states.push_back(point.state());
    EXPECT_EQ(states.back().global_step(), point.global_step);
  };
  return train(base, options, examples, hooks);
}

class ResumeTest : public ::testing::TestWithParam<const char*> {};

// The run that a test's name stands for.
TrainOptions options_of(const std::string& name,
                        const std::shared_ptr<const weights::BaseModel>& base,
                        const std::vector<Example>& examples) {
  TrainOptions options = run_of(parse_method(name.substr(0, name.find('_'))));
  if (name == "switch_gradient8") options.quantizers.gradient_bits = 8;
  if (name == "curriculum_loss") options.widths.curriculum = Curriculum::kLoss;
  if (name == "random_both") options.widths.random_widths = RandomWidths::kBoth;
  if (name.ends_with("_lm")) options.head_kind = weights::HeadKind::kLm;
  if (name.ends_with("_cascaded")) options.adapters.adapter_form = AdapterForm::kCascaded;
  if (name.ends_with("_residual")) options.adapters.init_lora = InitLora::kResidualSvd;
  if (name.find("merged") != std::string::npos)
    options.adapters.adapter_form = AdapterForm::kMerged;
  if (name.find("learned") != std::string::npos) options.quantizers.learn_steps = LearnSteps::kAll;
  options.schedule.group_by_length = name == "lora_by_length";
  if (name.ends_with("_classification")) {
    options.head_kind = weights::HeadKind::kClass;
    options.num_labels = 3;
  }
  if (name.ends_with("_plan")) {
    options.plan = mixed_plan(*base);
    options.widths.random_widths = RandomWidths::kBoth;
  }
  if (name.find("adversarial") != std::string::npos) {
    options.adversarial = {.steps = 2, .epsilon = 0.2};
    options.schedule.gradient_accumulation_steps = 2;
    if (name.ends_with("_qa")) options.adversarial.norm = PerturbationNorm::kLinf;
  }
  if (name.ends_with("_self")) options.teacher_self = true;
  if (name.find("_teacher") != std::string::npos) {
    auto teacher = std::make_shared<TeacherModel>();
    TrainOptions lora = run_of(Method::kLora);
    lora.head_kind = options.head_kind;
    lora.num_labels = options.num_labels;
    teacher->adapters = make_adapter_set(train(base, lora, examples, {}).weights);
    teacher->base = base;
    teacher->plan = plan_of("32", *base);
    options.teacher = teacher;
    options.distillation.teacher_cache_bytes = 30'000;  // some windows fit
  }
  if (options.teacher || options.teacher_self)
    options.distillation.hidden_kd = options.distillation.contrastive = 0.3;
  return options;
}

TEST_P(ResumeTest, FromEveryStepIsTheUninterruptedRun) {
  const std::string name = GetParam();
  const auto base = tiny_base();
  const auto examples = tiny_examples(8, /*shortest=*/2);
  const TrainOptions options = options_of(name, base, examples);
  std::vector<RunState> states;
  const TrainResult whole = run_and_keep(base, options, examples, states);
  ASSERT_EQ(states.size(), static_cast<std::size_t>(whole.steps));
  for (const RunState& state : states) {
    SCOPED_TRACE(name + " from step " + std::to_string(state.global_step()));
    std::vector<RunState> later;
    TrainHooks hooks;
    hooks.resume = &state;
    const TrainResult resumed = run_and_keep(base, options, examples, later, hooks);
    expect_same_result(whole, resumed);
    EXPECT_EQ(static_cast<std::int64_t>(later.size()), whole.steps - state.global_step());
    if (HasFailure()) return;
  }
}

TEST_P(ResumeTest, CheckpointedActivationsChangeNoBit) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(8, /*shortest=*/2);
  TrainOptions options = options_of(GetParam(), base, examples);
  const TrainResult whole = train(base, options, examples, {});
  options.schedule.activation_checkpointing = true;
  expect_same_result(whole, train(base, options, examples, {}));
}

INSTANTIATE_TEST_SUITE_P(
    Methods, ResumeTest,
    ::testing::Values("switch", "joint", "cpt", "random", "curriculum", "lora", "full",
                      "switch_gradient8", "curriculum_loss", "random_both", "joint_lm",
                      "switch_teacher", "joint_teacher", "lora_teacher_lm", "cpt_self",
                      "curriculum_self", "joint_cascaded", "cpt_cascaded", "random_cascaded",
                      "curriculum_cascaded", "switch_residual", "switch_learned", "joint_merged",
                      "curriculum_merged_learned", "random_learned_cascaded", "random_plan",
                      "switch_plan", "curriculum_plan", "lora_by_length", "switch_classification",
                      "full_classification", "joint_teacher_classification",
                      "random_adversarial_classification", "joint_adversarial_qa"),
    [](const auto& name) { return std::string(name.param); });

TEST(Resume, ACheckpointOfAnotherShapeIsRefused) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(8);
  TrainOptions options = run_of(Method::kSwitch);
  std::vector<RunState> states;
  run_and_keep(base, options, examples, states);
  RunState state = states.back();
  TrainHooks hooks;
  hooks.resume = &state;
  auto expect_refused = [&] {
    EXPECT_EQ(qalof::testing::error_of([&] { train(base, options, examples, hooks); }).kind,
              ErrorKind::kBadInput);
  };
  options.adapters.lora_r = 4;
  expect_refused();
  options.adapters.lora_r = 3;
  options.method = Method::kLora;  // fewer phases
  expect_refused();
  options.method = Method::kSwitch;
  state.steps.back().resize(20);  // more steps than the phase has
  expect_refused();
  state = states.back();
  state.optimizer.steps.pop_back();
  expect_refused();
  state = states.back();
  state.finished.erase(state.finished.begin());
  expect_refused();
}

TEST(Resume, AskedToStopItSavesTheLastStepOnce) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(8);
  for (const std::int64_t every : {std::int64_t{0}, std::int64_t{3}, std::int64_t{100}}) {
    TrainOptions options = run_of(Method::kLora);
    options.logging.save_steps = every;
    std::vector<std::int64_t> saved;
    int steps = 0;
    TrainHooks hooks;
    hooks.on_step = [&](const StepRecord&) { ++steps; };
    hooks.should_stop = [&] { return steps == 6; };
    hooks.on_save = [&](const Checkpoint& point) { saved.push_back(point.global_step); };
    const TrainResult result = train(base, options, examples, hooks);
    EXPECT_TRUE(result.interrupted);
    EXPECT_EQ(saved, every == 3 ? (std::vector<std::int64_t>{3, 6}) : std::vector<std::int64_t>{6});
  }
}

// Gradients of step k become NaN, once or for good.
TEST(Divergence, NanGradientsAreSkippedCountedAndNeverSaved) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(8);
  for (const bool lasting : {false, true}) {
    TrainOptions options = run_of(Method::kJoint);
    std::vector<RunState> states;
    TrainHooks hooks;
    hooks.on_gradients = [&](std::int64_t step, std::span<float> gradients) {
      if (step == 4 || (lasting && step > 4)) {
        gradients[gradients.size() / 2] = std::numeric_limits<float>::quiet_NaN();
      }
    };
    if (lasting) {
      const auto error =
          qalof::testing::error_of([&] { run_and_keep(base, options, examples, states, hooks); });
      EXPECT_EQ(error.kind, ErrorKind::kDiverged);
      EXPECT_EQ(states.back().global_step(), 7) << "steps 4 to 8 are skipped, 8 is the fifth";
    } else {
      const TrainResult result = run_and_keep(base, options, examples, states, hooks);
      EXPECT_EQ(result.phases[0].skipped_steps, 1);
      EXPECT_EQ(states.size(), 11U);
    }
    EXPECT_TRUE(same_bytes(states[2].values, states[3].values)) << "a skipped step moves nothing";
    for (const RunState& state : states) {
      for (const auto* values : {&state.values, &state.optimizer.mean, &state.optimizer.square}) {
        for (const float value : *values) ASSERT_TRUE(std::isfinite(value));
      }
    }
    // Five in a row, counted across a resume.
    if (!lasting) continue;
    hooks.resume = &states.back();
    std::vector<RunState> later;
    EXPECT_EQ(
        qalof::testing::error_of([&] { run_and_keep(base, options, examples, later, hooks); }).kind,
        ErrorKind::kDiverged);
    EXPECT_TRUE(later.empty());
  }
}

// A step that was skipped before, at or behind the checkpoint changes nothing.
TEST(Divergence, ResumedRunsWithSkippedStepsEndAlike) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(8);
  const std::string methods[] = {"joint", "curriculum", "random"};
  for (const std::string& method : methods) {
    TrainOptions options = run_of(parse_method(method));
    options.widths.curriculum = Curriculum::kLoss;
    options.widths.bit_widths = {8, 4};
    TrainHooks hooks;
    hooks.on_gradients = [](std::int64_t step, std::span<float> gradients) {
      if (step == 3 || step == 4 || step == 8)
        gradients[0] = std::numeric_limits<float>::quiet_NaN();
    };
    std::vector<RunState> states;
    const TrainResult whole = run_and_keep(base, options, examples, states, hooks);
    EXPECT_EQ(whole.phases[0].skipped_steps, 3);
    for (const std::size_t step : {2U, 3U, 4U, 7U, 8U}) {
      std::vector<RunState> later;
      hooks.resume = &states[step - 1];
      const TrainResult resumed = run_and_keep(base, options, examples, later, hooks);
      // NaN is not itself: the norms of skipped steps are compared by where they are.
      ASSERT_EQ(resumed.phases[0].steps.size(), whole.phases[0].steps.size());
      for (std::size_t i = 0; i < whole.phases[0].steps.size(); ++i) {
        const StepRecord &a = resumed.phases[0].steps[i], &b = whole.phases[0].steps[i];
        EXPECT_EQ(a.loss, b.loss);
        EXPECT_EQ(a.skipped, b.skipped);
        EXPECT_EQ(std::isnan(a.grad_norm), std::isnan(b.grad_norm));
      }
      EXPECT_EQ(resumed.train_loss, whole.train_loss);
      for (const auto& [width, adapter] : whole.weights.adapters)
        EXPECT_TRUE(same_adapter(*adapter, *resumed.weights.adapters.at(width))) << width;
    }
  }
}

TEST(Divergence, WeightsThatOverflowAreNotSaved) {
  const auto base = tiny_base();
  TrainOptions options = run_of(Method::kLora);
  options.schedule.warmup_steps = 0;
  options.schedule.learning_rate = 1e30;
  options.schedule.weight_decay =
      1e30;  // one step makes the weights infinite, loss and gradient were fine
  std::vector<RunState> states;
  const auto error =
      qalof::testing::error_of([&] { run_and_keep(base, options, tiny_examples(8), states); });
  EXPECT_EQ(error.kind, ErrorKind::kDiverged);
  EXPECT_TRUE(states.empty());
}

}  // namespace resume_test
}  // namespace qalof::train
