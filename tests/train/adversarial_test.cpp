// Projected gradient ascent in embedding space, against its definition.
#include "train/torch/adversarial.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/error_of.h"
#include "tensor_test_util.h"
#include "train/phases.h"
#include "train/torch/graph.h"
#include "train/torch/loss.h"
#include "train/trainer.h"
#include "train_test_util.h"

namespace qalof::train {
namespace adversarial_test {

// A few f32 roundings of numbers below 1.
constexpr double kRounding = 1e-6;

at::Tensor values_of(const std::string& name, std::int64_t rows, std::int64_t width, float scale) {
  return to_tensor(
      qalof::testing::tensor_values(name, static_cast<std::size_t>(rows * width), scale),
      {rows, width});
}

double length_of(const at::Tensor& row) {
  double sum = 0;
  for (const float value : to_vector(row)) sum += double{value} * double{value};
  return std::sqrt(sum);
}

TEST(Ascend, LinfIsTheClippedSign) {
  const AdversarialOptions options{
      .steps = 1, .epsilon = 0.3, .step_size = 0.2, .norm = PerturbationNorm::kLinf};
  const at::Tensor before = values_of("p", 3, 5, 0.2F).clamp(-0.3, 0.3);
  at::Tensor gradient = values_of("g", 3, 5, 1.0F);
  gradient[1][2] = 0;
  const std::vector<float> found = to_vector(ascend(before, gradient, options));
  const std::vector<float> p = to_vector(before), g = to_vector(gradient);
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double sign = g[i] > 0 ? 1 : g[i] < 0 ? -1 : 0;
    EXPECT_NEAR(found[i], std::clamp(double{p[i]} + 0.2 * sign, -0.3, 0.3), kRounding) << i;
  }
}

TEST(Ascend, L2IsTheUnitStepProjectedRowByRow) {
  const AdversarialOptions options{.steps = 1, .epsilon = 0.5, .step_size = 0.2};
  const at::Tensor before = values_of("p", 4, 6, 0.18F), gradient = values_of("g", 4, 6, 3.0F);
  gradient[2].zero_();
  const at::Tensor after = ascend(before, gradient, options);
  int projected = 0;
  for (std::int64_t row = 0; row < 4; ++row) {
    const std::vector<float> p = to_vector(before[row]), g = to_vector(gradient[row]);
    const double norm = length_of(gradient[row]);
    std::vector<double> moved(6);
    double square = 0;
    for (std::size_t i = 0; i < 6; ++i) {
      moved[i] = double{p[i]} + (norm > 0 ? 0.2 * double{g[i]} / norm : 0);
      square += moved[i] * moved[i];
    }
    const double shrink = std::min(1.0, 0.5 / std::sqrt(square));
    projected += shrink < 1 ? 1 : 0;
    const std::vector<float> found = to_vector(after[row]);
    for (std::size_t i = 0; i < 6; ++i) EXPECT_NEAR(found[i], moved[i] * shrink, kRounding);
  }
  EXPECT_GE(projected, 1);
  EXPECT_LE(projected, 3);
}

TEST(Perturbation, StartsUniformlyInTheBallAsAFunctionOfItsCounters) {
  const RandomStream stream(9, "adversarial");
  constexpr std::int64_t kTokens = 400, kHidden = 3;
  AdversarialOptions options{.steps = 1, .epsilon = 0.7};
  auto start = [&](std::int64_t step, std::size_t pass, std::size_t first, std::int64_t tokens) {
    return start_of_perturbation(stream, options, step, pass, first, tokens, kHidden);
  };
  const at::Tensor whole = start(4, 1, 0, kTokens);
  EXPECT_TRUE(at::equal(whole.narrow(0, 100, 20), start(4, 1, 100, 20)))
      << "how a step is cut into batches changes nothing";
  EXPECT_FALSE(at::equal(whole, start(5, 1, 0, kTokens)));
  EXPECT_FALSE(at::equal(whole, start(4, 0, 0, kTokens)));
  double mean_cube = 0;
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const double radius = length_of(whole[t]) / 0.7;
    EXPECT_LE(radius, 1 + kRounding);
    mean_cube += radius * radius * radius / kTokens;
  }
  // (r / epsilon)^d is uniform; four standard errors.
  EXPECT_NEAR(mean_cube, 0.5, 4 * std::sqrt(1.0 / 12 / kTokens));
  options.norm = PerturbationNorm::kLinf;
  const at::Tensor cube = start(0, 0, 0, kTokens);
  EXPECT_LE(cube.abs().max().item<double>(), 0.7);
  EXPECT_NEAR(cube.square().mean().item<double>(), 0.49 / 3, 0.02);
}

class PerturbationTest : public ::testing::TestWithParam<const char*> {};

// By hand: forward, backward and a step, as often as asked, at the width of the network.
TEST_P(PerturbationTest, IsThatOfStepsByHandAndRaisesTheLoss) {
  at::set_num_threads(1);
  const auto base = tiny_base();
  ThreadPool pool(2);
  const auto graph = make_kernel_graph(base, nullptr, pool);
  const GraphPlan plan(plan_of(GetParam(), *base), 0);
  PackedBatch batch;
  for (const Example& example : tiny_examples(5)) batch.add(example);
  HeadParams head;
  head.weight = values_of("score", 3, static_cast<std::int64_t>(base->config().hidden), 0.3F);
  head.weight.set_requires_grad(true);
  auto loss = [&](const at::Tensor& x) {
    LossParts parts;
    return compute_class_loss(
        graph->head_logits(last_rows(graph->decode(x, batch, plan, {}), batch), head), {}, batch,
        {}, 5, &parts);
  };
  const at::Tensor embedded = graph->embed(batch, plan).detach();
  for (const PerturbationNorm norm : {PerturbationNorm::kL2, PerturbationNorm::kLinf}) {
    const AdversarialOptions options{
        .steps = 3, .epsilon = norm == PerturbationNorm::kL2 ? 0.5 : 0.1, .norm = norm};
    EXPECT_DOUBLE_EQ(options.step_length(), 2.5 * options.epsilon / 3);
    const at::Tensor start = start_of_perturbation(RandomStream(1, "s"), options, 0, 0, 0,
                                                   embedded.size(0), embedded.size(1));
    const at::Tensor found = compute_perturbation(embedded, start.clone(), options, loss);
    EXPECT_FALSE(head.weight.grad().defined()) << "parameters learn nothing from the search";
    at::Tensor expected = start;
    for (int i = 0; i < 3; ++i) {
      const at::Tensor x = (embedded + expected).detach().set_requires_grad(true);
      loss(x).backward();
      expected = ascend(expected, x.grad(), options);
    }
    head.weight.mutable_grad() = at::Tensor();
    EXPECT_TRUE(at::equal(found, expected));
    EXPECT_GT(loss(embedded + found).item<double>(), loss(embedded + start).item<double>());
    EXPECT_GT(loss(embedded + found).item<double>(), loss(embedded).item<double>());
  }
}

INSTANTIATE_TEST_SUITE_P(Widths, PerturbationTest, ::testing::Values("32", "8", "4"),
                         [](const auto& test) { return fmt::format("W{}", test.param); });

TrainOptions adversarial_run() {
  TrainOptions options;
  options.head_kind = weights::HeadKind::kClass;
  options.num_labels = 3;
  options.method = Method::kRandom;
  options.widths.bit_widths = {8, 4};
  options.schedule.max_steps = 6;
  options.schedule.warmup_steps = 1;
  options.schedule.batch_size = 4;
  options.adapters.lora_r = 3;
  options.threads = 1;
  options.adversarial = {.steps = 2, .epsilon = 0.3};
  return options;
}

TEST(AdversarialTraining, IsAFunctionOfTheSeedAndOfNothingThatMustNotMatter) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(8);
  TrainOptions options = adversarial_run();
  const TrainResult one = train(base, options, examples, {});
  options.threads = 2;
  const TrainResult again = train(base, options, examples, {});
  for (const auto& [width, adapter] : one.weights.adapters)
    EXPECT_TRUE(same_adapter(*adapter, *again.weights.adapters.at(width))) << width;
  options.adversarial.steps = 0;
  options.adversarial.epsilon = 0;
  const TrainResult clean = train(base, options, examples, {});
  EXPECT_FALSE(same_adapter(*one.weights.adapters.at(8), *clean.weights.adapters.at(8)));
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(one.phases[0].steps[i].passes[0].network, clean.phases[0].steps[i].passes[0].network)
        << "the widths drawn are those of random";
  }
  EXPECT_GT(one.phases[0].steps[0].loss, clean.phases[0].steps[0].loss);
}

TEST(AdversarialTraining, FullAndTeachersTakeIt) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(8);
  TrainOptions options = adversarial_run();
  options.widths.bit_widths = {};
  options.method = Method::kFull;
  EXPECT_EQ(train(base, options, examples, {}).phases[0].skipped_steps, 0);
  options = adversarial_run();
  options.method = Method::kJoint;  // the lower width learns from the higher one's adversarial pass
  EXPECT_GT(train(base, options, examples, {}).phases[0].steps[5].distillation, 0);
}

TEST(AdversarialTraining, BadNumbersAreRefused) {
  const auto base = tiny_base();
  struct Case {
    AdversarialOptions adversarial;
    const char* message;
  };
  for (const Case& bad :
       {Case{{.steps = -1}, "--adversarial_steps: found -1, expected at least 0"},
        {{.steps = 2}, "--adversarial_steps 2: needs a positive --adversarial_epsilon"},
        {{.epsilon = 1},
         "--adversarial_epsilon and --adversarial_step_size: nothing is perturbed without "
         "--adversarial_steps"},
        {{.steps = 1, .epsilon = NAN},
         "--adversarial_epsilon: found nan, expected a finite number of at least 0"}}) {
    TrainOptions options = adversarial_run();
    options.adversarial = bad.adversarial;
    const auto error = qalof::testing::error_of([&] { check_options(options, base->target()); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage);
    EXPECT_EQ(error.message, bad.message);
  }
  TrainOptions options = adversarial_run();
  options.head_kind = weights::HeadKind::kLm;
  EXPECT_EQ(qalof::testing::error_of([&] { check_options(options, base->target()); }).kind,
            ErrorKind::kUnsupported);
}

}  // namespace adversarial_test
}  // namespace qalof::train
