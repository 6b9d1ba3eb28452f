// Training on tiny models: determinism, phases and adapters, the trained network equals the
// deployed one, losses fall, divergence stops, hooks are called.
#include "train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "runtime/decoder.h"
#include "train/memory.h"
#include "train_test_util.h"

namespace qalof::train {
namespace trainer_test {

constexpr Method kEveryMethod[] = {Method::kFull,      Method::kLora, Method::kSwitch,
                                   Method::kJoint,     Method::kCpt,  Method::kRandom,
                                   Method::kCurriculum};

TrainOptions short_run(Method method) {
  TrainOptions options;
  options.method = method;
  options.schedule.max_steps = 4;
  options.schedule.warmup_steps = 1;
  options.schedule.batch_size = 3;
  options.adapters.lora_r = 3;
  options.adapters.lora_alpha = 6;
  options.threads = 2;
  if (method == Method::kCpt) {
    options.widths.num_cyclic_period = 1;
    options.schedule.max_steps = 5;  // as many as a cycle needs
  }
  if (method == Method::kRandom) options.widths.random_widths = RandomWidths::kBoth;
  return options;
}

class TrainFamilies : public ::testing::TestWithParam<Family> {};
INSTANTIATE_TEST_SUITE_P(, TrainFamilies, ::testing::Values(Family::kGpt2, Family::kLlama),
                         family_name);

TEST_P(TrainFamilies, SameSeedSameBytesWhateverTheNumberOfThreads) {
  const auto base = tiny_base(GetParam());
  const auto examples = tiny_examples(8);
  for (const Method method : kEveryMethod) {
    TrainOptions options = short_run(method);
    const TrainResult first = train(base, options, examples, {});
    for (const int threads : {2, 1, 3}) {
      options.threads = threads;
      const TrainResult again = train(base, options, examples, {});
      ASSERT_EQ(first.weights.adapters.size(), again.weights.adapters.size());
      for (const auto& [width, adapter] : first.weights.adapters) {
        EXPECT_TRUE(same_adapter(*adapter, *again.weights.adapters.at(width))) << width;
      }
      for (const auto& [name, tensor] : first.weights.tensors) {
        EXPECT_TRUE(same_bytes(tensor.values, again.weights.tensors.at(name).values)) << name;
      }
    }
    options.seed = 43;
    EXPECT_NE(first.train_loss, train(base, options, examples, {}).train_loss);
  }
}

TEST(Train, EightBitAdapterAndHeadStayAsTheyAreInTheFourBitPhase) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(8);
  std::map<std::string, TrainedWeights> after;
  TrainHooks hooks;
  hooks.on_phase_end = [&](const Checkpoint& point) { after[point.phase] = point.weights(); };
  const TrainResult result = train(base, short_run(Method::kSwitch), examples, hooks);
  ASSERT_EQ(after.size(), 2U);
  EXPECT_EQ(after.at("w8").adapters.size(), 1U);
  EXPECT_TRUE(same_adapter(*after.at("w8").adapters.at(8), *result.weights.adapters.at(8)));
  EXPECT_FALSE(same_adapter(*result.weights.adapters.at(4), *result.weights.adapters.at(8)));
  EXPECT_EQ(result.steps, 8);
  EXPECT_EQ(result.phases[0].steps.back().distillation, 0);
  EXPECT_GT(result.phases[1].steps.back().distillation, 0);
}

TEST(Train, FourBitPhaseStartsFromAFreshAdapterAndTheEightBitHead) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(8);
  TrainOptions options = short_run(Method::kSwitch);
  options.schedule.max_steps = 1;  // the first step of a warm-up has rate 0: nothing moves
  const TrainResult result = train(base, options, examples, {});
  const weights::Adapter &eight = *result.weights.adapters.at(8),
                         &four = *result.weights.adapters.at(4);
  EXPECT_TRUE(same_bytes(eight.qa_head->weight, four.qa_head->weight));
  EXPECT_FALSE(same_bytes(eight.linears[0]->a(), four.linears[0]->a()));
  for (const float b : four.linears[0]->b()) EXPECT_EQ(b, 0.0F);
  const float bound = 1.0F / std::sqrt(32.0F);
  for (const float a : four.linears[0]->a()) EXPECT_LE(std::abs(a), bound);
}

TEST_P(TrainFamilies, TrainedNetworkIsTheDeployedOne) {
  const auto base = tiny_base(GetParam());
  const auto examples = tiny_examples(3);
  TrainOptions options = short_run(Method::kSwitch);
  options.widths.bit_widths = {8};
  options.schedule.learning_rate = 1e-2;
  options.schedule.lr_scheduler_type =
      LrSchedule::kConstant;  // so that a longer run starts the same
  const TrainResult trained = train(base, options, examples, {});
  // The loss that the runtime measures on the exported adapter is that of one more step with rate
  // 0.
  ThreadPool pool(2);
  quant::PrecisionPlan plan = plan_of("8", *base);
  const auto execution =
      runtime::Execution::create(base, plan, make_adapter_set(trained.weights), pool);
  const std::size_t width = base->config().hidden;
  double loss = 0;
  for (const Example& example : examples) {
    const runtime::Sequence sequence{example.ids};
    runtime::DecoderWorkspace workspace;
    std::vector<float> hidden(example.ids.size() * width), logits(example.ids.size() * 2);
    runtime::forward(*execution, {&sequence, 1}, workspace, hidden.data(), pool);
    runtime::apply_head(*execution->head(weights::HeadKind::kSpan), hidden.data(),
                        example.ids.size(), width, logits.data(), pool);
    for (std::size_t column = 0; column < 2; ++column) {
      double sum = 0;
      for (std::size_t t = 0; t < example.ids.size(); ++t)
        sum += std::exp(static_cast<double>(logits[2 * t + column]));
      const auto label = static_cast<std::size_t>(column == 0 ? example.start : example.end);
      loss += 0.5 * (std::log(sum) - static_cast<double>(logits[2 * label + column]));
    }
  }
  loss /= 3;
  // One more step, whose loss is that of the weights above.
  TrainOptions longer = options;
  longer.schedule.max_steps = 5;
  EXPECT_NEAR(train(base, longer, examples, {}).phases[0].steps.back().loss, loss, 1e-9);
}

TEST(Train, AccumulationEqualsOneLargeBatch) {
  const auto base = tiny_base();
  for (const weights::HeadKind head_kind : {weights::HeadKind::kSpan, weights::HeadKind::kLm}) {
    const auto examples = tiny_examples(6, /*shortest=*/2);
    TrainOptions options = short_run(Method::kLora);
    options.head_kind = head_kind;
    options.schedule.batch_size = 6;
    TeacherModel teacher;  // where the run starts
    teacher.base = base;
    teacher.plan = plan_of("32", *base);
    options.teacher = std::make_shared<TeacherModel>(teacher);
    options.distillation.hidden_kd = 1;
    const TrainResult whole = train(base, options, examples, {});
    options.schedule.batch_size = 2;
    options.schedule.gradient_accumulation_steps = 3;
    const TrainResult parts = train(base, options, examples, {});
    for (std::size_t i = 0; i < 4; ++i) {
      const StepRecord &a = whole.phases[0].steps[i], &b = parts.phases[0].steps[i];
      EXPECT_NEAR(a.loss, b.loss, 1e-4 * a.loss) << i;
      EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-3 * a.grad_norm) << i;
      EXPECT_NEAR(a.hidden_loss, b.hidden_loss, 1e-3 * a.hidden_loss) << i;
      EXPECT_EQ(a.tokens, b.tokens);
    }
  }
}

TEST_P(TrainFamilies, LossFallsForEveryMethodAndTask) {
  const auto base = tiny_base(GetParam());
  const auto examples = tiny_examples(4, /*shortest=*/2);
  for (const weights::HeadKind head_kind : {weights::HeadKind::kSpan, weights::HeadKind::kLm}) {
    for (const Method method : kEveryMethod) {
      TrainOptions options = short_run(method);
      options.head_kind = head_kind;
      options.schedule.max_steps = 40;
      // As many for each of five widths.
      if (method == Method::kCpt || method == Method::kRandom || method == Method::kCurriculum)
        options.schedule.max_steps = 200;
      options.widths.num_cyclic_period = 20;
      options.schedule.lr_scheduler_type = LrSchedule::kConstant;
      options.schedule.batch_size = 4;
      options.schedule.learning_rate = 1e-2;
      const TrainResult result = train(base, options, examples, {});
      for (const PhaseHistory& phase : result.phases) {
        // A step's sum of cross entropies, per network.
        auto loss = [](const StepRecord& step) {
          return step.hard_loss / static_cast<double>(step.passes.size());
        };
        EXPECT_LT(loss(phase.steps.back()), 0.7 * loss(result.phases[0].steps.front()))
            << to_string(method) << " " << weights::to_string(head_kind) << " " << phase.name;
        EXPECT_EQ(phase.skipped_steps, 0);
      }
      EXPECT_GT(result.tokens_per_second, 0);
    }
  }
}

TEST(Train, MixedPlanTrainsEveryWidthItUses) {
  const auto base = tiny_base();
  TrainOptions options = short_run(Method::kLora);
  options.plan = mixed_plan(*base);
  const TrainResult result = train(base, options, tiny_examples(6), {});
  ASSERT_EQ(result.weights.adapters.size(), 2U);
  // Linear 0 runs at 4 bits, linear 1 at 8: each adapter has learned where it serves.
  auto is_zero = [&](int width, std::size_t linear) {
    for (const float b : result.weights.adapters.at(width)->linears[linear]->b()) {
      if (b != 0) return false;
    }
    return true;
  };
  EXPECT_FALSE(is_zero(4, 0));
  EXPECT_TRUE(is_zero(8, 0));
  EXPECT_TRUE(is_zero(4, 1));
  EXPECT_FALSE(is_zero(8, 1));
}

// A plan of 8 and 4 bits in every method: what is deployed in it has learned.
TEST_P(TrainFamilies, EveryMethodOfSeveralWidthsTrainsAroundAPlan) {
  const auto base = tiny_base(GetParam());
  const auto examples = tiny_examples(4);
  for (const Method method :
       {Method::kSwitch, Method::kJoint, Method::kCpt, Method::kRandom, Method::kCurriculum}) {
    TrainOptions options = short_run(method);
    options.plan = mixed_plan(*base);
    options.schedule.max_steps = 60;
    options.widths.num_cyclic_period = 4;
    options.widths.random_widths = RandomWidths::kBoth;
    options.schedule.lr_scheduler_type = LrSchedule::kConstant;
    options.schedule.batch_size = 4;
    options.schedule.learning_rate = 1e-2;
    const TrainResult result = train(base, options, examples, {});
    // One head, whatever the width.
    EXPECT_EQ(result.weights.adapters.at(4)->qa_head->weight,
              result.weights.adapters.at(8)->qa_head->weight)
        << to_string(method);
    const auto compute_loss = [](const StepRecord& step) {
      return step.hard_loss / static_cast<double>(step.passes.size());
    };
    const PhaseHistory& last = result.phases.back();
    EXPECT_LT(compute_loss(last.steps.back()), 0.8 * compute_loss(result.phases[0].steps.front()))
        << to_string(method);
    EXPECT_EQ(last.name, method == Method::kSwitch ? "plan" : to_string(method));
  }
}

TEST_P(TrainFamilies, FullHandsBackEveryTensorInTheFilesLayout) {
  const auto base = tiny_base(GetParam());
  TrainOptions options = short_run(Method::kFull);
  options.schedule.max_steps = 1;  // rate 0
  const TrainResult result = train(base, options, tiny_examples(4), {});
  for (const model::TensorSpec& spec : model::expected_tensors(base->config())) {
    const NamedTensor& tensor = result.weights.tensors.at(spec.name);
    EXPECT_EQ(tensor.shape, spec.shape) << spec.name;
    EXPECT_TRUE(same_bytes(tensor.values, *base->source().tensor_f32(spec.name))) << spec.name;
  }
  EXPECT_TRUE(result.weights.tensors.contains("qa_outputs.weight"));
  EXPECT_TRUE(result.weights.adapters.empty());
  options.schedule.max_steps = 3;
  const TrainResult moved = train(base, options, tiny_examples(4), {});
  for (const auto& [name, tensor] : moved.weights.tensors) {
    EXPECT_FALSE(same_bytes(tensor.values, result.weights.tensors.at(name).values)) << name;
  }
}

TEST(Train, DivergenceStopsWithASentence) {
  const auto base = tiny_base();
  TrainOptions options = short_run(Method::kFull);
  options.schedule.max_steps = 40;
  options.schedule.warmup_steps = 0;
  options.schedule.learning_rate = 1e30;
  int skipped = 0;
  TrainHooks hooks;
  hooks.on_step = [&](const StepRecord& record) { skipped += record.skipped ? 1 : 0; };
  try {
    train(base, options, tiny_examples(6), hooks);
    FAIL() << "a run at rate 1e30 must diverge";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kDiverged);
    EXPECT_NE(std::string(error.what()).find("not finite for 5 steps in a row"), std::string::npos)
        << error.what();
  }
  EXPECT_GE(skipped, 5);
}

TEST(Train, HooksSeeStepsEvaluationsAndMayStop) {
  const auto base = tiny_base();
  TrainOptions options = short_run(Method::kSwitch);
  options.logging.eval_steps = 2;
  std::vector<std::int64_t> evaluated;
  int steps = 0;
  TrainHooks hooks;
  hooks.on_step = [&](const StepRecord&) { ++steps; };
  hooks.on_eval = [&](const Checkpoint& point) {
    evaluated.push_back(point.global_step);
    EXPECT_EQ(point.weights().adapters.size(), point.phase == "w8" ? 1U : 2U);
  };
  hooks.should_stop = [&] { return steps == 7; };
  const TrainResult result = train(base, options, tiny_examples(6), hooks);
  EXPECT_TRUE(result.interrupted);
  EXPECT_EQ(result.steps, 7);
  EXPECT_EQ(evaluated, (std::vector<std::int64_t>{2, 4, 6}));
  EXPECT_EQ(result.weights.adapters.size(), 2U);
}

TEST(Train, CudaIsRefusedWhereThereIsNone) {
  const auto base = tiny_base();
  TrainOptions options = short_run(Method::kLora);
  options.device = Device::kCuda;
  try {
    train(base, options, tiny_examples(4), {});
    GTEST_SKIP() << "a CUDA device is here";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("--device cuda"), std::string::npos);
  }
}

TEST(MemoryEstimate, GrowsWithBatchRankAndMethod) {
  const auto base = tiny_base();
  TrainOptions options;
  const std::uint64_t lora = estimate_training_bytes(base->config(), options, 40);
  options.schedule.batch_size *= 2;
  EXPECT_GT(estimate_training_bytes(base->config(), options, 40), lora);
  options.schedule.batch_size /= 2;
  options.adapters.lora_r *= 4;
  EXPECT_GT(estimate_training_bytes(base->config(), options, 40), lora);
  options.method = Method::kFull;
  EXPECT_GT(estimate_training_bytes(base->config(), options, 40), lora);
}

}  // namespace trainer_test
}  // namespace qalof::train
