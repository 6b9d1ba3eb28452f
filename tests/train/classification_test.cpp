// Classification in training: the runtime's bits, gradients by definition, every method.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "runtime/classifier.h"
#include "tensor_test_util.h"
#include "train/torch/loss.h"
#include "train/trainer.h"
#include "train_test_util.h"

namespace qalof::train {
namespace classification_test {

constexpr std::size_t kClasses = 3;

at::Tensor random_tensor(const std::string& name, std::vector<std::int64_t> shape, float scale) {
  const auto count = static_cast<std::size_t>(c10::multiply_integers(shape));
  return to_tensor(qalof::testing::tensor_values(name, count, scale), shape);
}

TrainOptions classification(Method method) {
  TrainOptions options;
  options.head_kind = weights::HeadKind::kClass;
  options.num_labels = kClasses;
  options.method = method;
  options.schedule.max_steps = 5;
  options.schedule.warmup_steps = 1;
  options.schedule.batch_size = 3;
  options.adapters.lora_r = 3;
  options.adapters.lora_alpha = 6;
  options.threads = 2;
  options.widths.num_cyclic_period = 1;
  return options;
}

class ClassificationTest : public ::testing::TestWithParam<Family> {
 protected:
  ClassificationTest() : base_(tiny_base(GetParam())), pool_(2) {
    at::set_num_threads(1);
    for (const Example& example : tiny_examples(5)) batch_.add(example);
    head_.weight = random_tensor(
        "score",
        {static_cast<std::int64_t>(kClasses), static_cast<std::int64_t>(base_->config().hidden)},
        0.3F);
  }

  at::Tensor logits_of(Graph& graph, const GraphPlan& plan, const at::Tensor& embedded) const {
    return graph.head_logits(last_rows(graph.decode(embedded, batch_, plan, {}), batch_), head_);
  }
  at::Tensor compute_loss(Graph& graph, const GraphPlan& plan, const at::Tensor& embedded) const {
    LossParts parts;
    return compute_class_loss(logits_of(graph, plan, embedded), {}, batch_, {}, 5, &parts);
  }

  std::shared_ptr<const weights::BaseModel> base_;
  ThreadPool pool_;
  PackedBatch batch_;
  HeadParams head_;
};
INSTANTIATE_TEST_SUITE_P(Families, ClassificationTest,
                         ::testing::Values(Family::kGpt2, Family::kLlama), family_name);

TEST_P(ClassificationTest, LossIsThatOfAtenWithAndWithoutTeachers) {
  const auto rows = static_cast<std::int64_t>(batch_.windows());
  const at::Tensor logits = random_tensor("z", {rows, kClasses}, 2.0F).set_requires_grad(true);
  const std::vector<at::Tensor> teachers = {random_tensor("t", {rows, kClasses}, 2.0F),
                                            random_tensor("u", {rows, kClasses}, 2.0F)};
  const std::vector<std::int64_t> labels(batch_.labels.begin(), batch_.labels.end());
  for (const KdLoss kind : {KdLoss::kKl, KdLoss::kMse}) {
    for (std::size_t count = 0; count <= 2; ++count) {
      LossParts parts;
      const Distillation distillation{0.3, 2.5, kind, 0.7};
      const std::vector<at::Tensor> used(teachers.begin(),
                                         teachers.begin() + static_cast<std::ptrdiff_t>(count));
      compute_class_loss(logits, used, batch_, distillation, 7, &parts).backward();
      const at::Tensor found = logits.grad().clone();
      logits.mutable_grad() = at::Tensor();
      const at::Tensor z = logits.to(at::kDouble);
      const at::Tensor log_p = at::log_softmax(z, 1);
      at::Tensor hard = at::zeros({}, at::kDouble), soft = at::zeros({}, at::kDouble);
      std::uint64_t hits = 0;
      for (std::int64_t w = 0; w < rows; ++w) {
        const std::int64_t label = labels[static_cast<std::size_t>(w)];
        hard = hard - log_p[w][label];
        hits += z[w].argmax().item<std::int64_t>() == label ? 1 : 0;
        for (const at::Tensor& teacher : used) {
          const at::Tensor t = teacher[w].to(at::kDouble);
          if (kind == KdLoss::kMse) {
            soft = soft + (z[w] - t).square().mean();
            continue;
          }
          const at::Tensor log_t = at::log_softmax(t / 2.5, 0),
                           log_s = at::log_softmax(z[w] / 2.5, 0);
          soft =
              soft + 2.5 * 2.5 * (log_t.exp() * (log_t - log_s)).sum() / static_cast<double>(count);
        }
      }
      const bool is_kl = kind == KdLoss::kKl;
      const double hard_weight = count > 0 && is_kl ? 0.7 : 1.0;
      const at::Tensor total = (hard_weight * hard + (is_kl ? 0.3 : 0.7) * soft) / 7;
      // Sums of a few f32 numbers.
      EXPECT_NEAR(parts.total, total.item<double>(), 1e-5);
      EXPECT_EQ(parts.hits, hits);
      total.backward();
      EXPECT_LE(relative_error(found, logits.grad()), 1e-5);
      logits.mutable_grad() = at::Tensor();
    }
  }
}

TEST_P(ClassificationTest, LogitsAreTheRuntimesBitForBit) {
  auto set = std::make_shared<weights::AdapterSet>();
  auto adapter = std::make_shared<weights::Adapter>();
  adapter->class_head = export_head(head_);
  set->by_width[0] = adapter;
  const auto graph = make_kernel_graph(base_, nullptr, pool_);
  std::vector<runtime::Sequence> sequences;
  for (std::size_t w = 0; w < batch_.windows(); ++w) {
    sequences.push_back(
        {std::span(batch_.ids)
             .subspan(batch_.offsets[w], batch_.offsets[w + 1] - batch_.offsets[w])});
  }
  for (const char* text : {"32", "16", "8", "5", "4", "w4a8kv4"}) {
    const quant::PrecisionPlan plan = plan_of(text, *base_);
    const auto execution = runtime::Execution::create(base_, plan, set, pool_);
    runtime::ClassifierWorkspace workspace;
    std::vector<float> expected;
    runtime::class_logits(*execution, sequences, workspace, expected, pool_);
    const GraphPlan graph_plan(plan, 0);
    EXPECT_TRUE(same_bytes(
        to_vector(logits_of(*graph, graph_plan, graph->embed(batch_, graph_plan))), expected))
        << text;
  }
}

// What an attack or a perturbation of embeddings stands on.
TEST_P(ClassificationTest, GradientOfEmbeddingsIsTheDerivativeAndTheGraphsAgree) {
  const auto aten64 =
      make_aten_graph(base_->config(), load_base_params(*base_, at::kCPU, at::kDouble));
  const auto aten = make_aten_graph(base_->config(), load_base_params(*base_, at::kCPU));
  const auto kernel = make_kernel_graph(base_, nullptr, pool_);
  const GraphPlan plan(plan_of("32", *base_), 0);
  const at::Tensor start = kernel->embed(batch_, plan).detach();
  auto gradient = [&](Graph& graph, const GraphPlan& at_plan, at::ScalarType type) {
    const at::Tensor x = start.to(type).clone().set_requires_grad(true);
    compute_loss(graph, at_plan, x).backward();
    return x.grad();
  };
  HeadParams as_float = head_;
  head_.weight = as_float.weight.to(at::kDouble);
  const at::Tensor exact = gradient(*aten64, plan, at::kDouble);
  constexpr double kStep = 1e-6;
  for (const std::int64_t row : {std::int64_t{0}, start.size(0) / 2, start.size(0) - 1}) {
    for (const std::int64_t col : {std::int64_t{0}, std::int64_t{7}}) {
      double sides[2];
      for (const int side : {0, 1}) {
        at::Tensor x = start.to(at::kDouble).clone();
        x[row][col] += side == 0 ? -kStep : kStep;
        sides[side] = compute_loss(*aten64, plan, x).item<double>();
      }
      // Central differences in f64: kStep^2 and rounding / kStep.
      EXPECT_NEAR(exact[row][col].item<double>(), (sides[1] - sides[0]) / (2 * kStep), 1e-7);
    }
  }
  head_ = as_float;
  EXPECT_LE(relative_error(gradient(*aten, plan, at::kFloat), exact), 1e-4);
  EXPECT_LE(relative_error(gradient(*kernel, plan, at::kFloat), exact), 1e-4);
  // Straight through the quantizer: there is a gradient at every width, for rows that reach the
  // last token of their window: all of them.
  for (const char* text : {"8", "4"}) {
    const GraphPlan low(plan_of(text, *base_), 0);
    const at::Tensor rows = gradient(*kernel, low, at::kFloat).abs().sum(1);
    EXPECT_TRUE(at::isfinite(rows).all().item<bool>());
    EXPECT_GT(rows.min().item<double>(), 0) << text;
  }
}

TEST_P(ClassificationTest, EveryMethodTrainsHeadsOfItsOwnAndIsReproducible) {
  const auto examples = tiny_examples(8);
  for (const Method method : {Method::kFull, Method::kLora, Method::kSwitch, Method::kJoint,
                              Method::kCpt, Method::kRandom, Method::kCurriculum}) {
    SCOPED_TRACE(to_string(method));
    TrainOptions options = classification(method);
    const TrainResult first = train(base_, options, examples, {});
    options.threads = 1;
    const TrainResult again = train(base_, options, examples, {});
    EXPECT_EQ(first.train_loss, again.train_loss);
    for (const auto& [width, adapter] : first.weights.adapters) {
      ASSERT_TRUE(adapter->class_head);
      EXPECT_FALSE(adapter->qa_head);
      EXPECT_EQ(adapter->class_head->outputs, kClasses);
      EXPECT_TRUE(adapter->class_head->bias.empty());
      EXPECT_TRUE(same_adapter(*adapter, *again.weights.adapters.at(width)));
    }
    if (method == Method::kFull) {
      EXPECT_EQ(first.weights.tensors.at("score.weight").shape,
                (std::vector<std::size_t>{kClasses, base_->config().hidden}));
      EXPECT_FALSE(first.weights.tensors.contains("qa_outputs.weight"));
    }
  }
}

TEST_P(ClassificationTest, LearnsClassesThatTheTokensTell) {
  // The last token of a window is its class.
  std::vector<Example> examples = tiny_examples(24, /*shortest=*/2);
  for (Example& example : examples) example.ids.back() = example.label;
  TrainOptions options = classification(Method::kJoint);
  options.schedule.max_steps = 60;
  options.schedule.batch_size = 12;
  options.schedule.learning_rate = 5e-3;
  const TrainResult result = train(base_, options, examples, {});
  for (const PassRecord& pass : result.phases[0].steps.back().passes)
    EXPECT_GE(pass.accuracy, 0.9) << pass.network;
  EXPECT_LT(result.phases[0].steps.back().passes[0].hard_loss, 0.5);
  const auto set = make_adapter_set(result.weights);
  for (const char* text : {"8", "4"}) {
    const auto execution = runtime::Execution::create(base_, plan_of(text, *base_), set, pool_);
    int correct = 0;
    for (const Example& example : examples) {
      const runtime::Sequence sequence{example.ids};
      runtime::ClassifierWorkspace workspace;
      std::vector<float> logits;
      runtime::class_logits(*execution, {&sequence, 1}, workspace, logits, pool_);
      correct += runtime::best_class(logits) == example.label ? 1 : 0;
    }
    EXPECT_GE(correct, 22) << text;
  }
}

}  // namespace classification_test
}  // namespace qalof::train
