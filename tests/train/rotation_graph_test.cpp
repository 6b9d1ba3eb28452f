// Training in rotated schemes: the runtime's bits, and gradients of the base's own parameters that
// are those without rotation where nothing is rounded.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "runtime/decoder.h"
#include "support/error_of.h"
#include "tensor_test_util.h"
#include "train/phases.h"
#include "train/torch/graph.h"
#include "train/torch/loss.h"
#include "train/trainer.h"
#include "train_test_util.h"

namespace qalof::train {
namespace rotation_graph_test {

using qalof::testing::error_of;

// f32 against f32 through two layers in another basis, relative to a gradient's largest element.
constexpr double kTolerance = 2e-4;

class RotationGraphTest : public ::testing::TestWithParam<Family> {
 protected:
  RotationGraphTest() : base_(tiny_base(GetParam())), pool_(2) {
    at::set_num_threads(1);
    for (const Example& example : tiny_examples(5)) batch_.add(example);
    auto leaf = [&](const std::string& name, std::vector<std::int64_t> shape, float scale) {
      const auto count = static_cast<std::size_t>(c10::multiply_integers(shape));
      return to_tensor(qalof::testing::tensor_values(name, count, scale), shape)
          .set_requires_grad(true);
    };
    for (const model::LinearSpec& spec : base_->linears()) {
      const auto in = static_cast<std::int64_t>(spec.in), out = static_cast<std::int64_t>(spec.out);
      view_.lora.push_back(
          {leaf(spec.name + "a", {3, in}, 0.1F), leaf(spec.name + "b", {out, 3}, 0.1F)});
    }
    const auto hidden = static_cast<std::int64_t>(base_->config().hidden);
    view_.head = {leaf("head", {2, hidden}, 0.3F), leaf("bias", {2}, 0.3F)};
    view_.lora_scaling = 2;
  }

  quant::PrecisionPlan plan(const char* precision, const char* scheme) const {
    quant::PrecisionPlan result = plan_of(precision, *base_);
    result.scheme = quant::parse_scheme(scheme, "test");
    return result;
  }
  std::vector<std::unique_ptr<Graph>> graphs() {
    std::vector<std::unique_ptr<Graph>> result;
    result.push_back(make_kernel_graph(base_, nullptr, pool_));
    result.push_back(make_aten_graph(base_, at::kCPU, pool_));
    return result;
  }
  std::vector<float> runtime_hidden(const quant::PrecisionPlan& plan) {
    TrainOptions options;
    options.adapters.lora_r = 3;
    options.adapters.lora_alpha = 6;
    auto set = std::make_shared<weights::AdapterSet>();
    set->by_width[0] = export_adapter({view_.lora, view_.head, {}}, *base_, options);
    const auto execution = runtime::Execution::create(base_, plan, set, pool_);
    return train::runtime_hidden(*execution, batch_);
  }
  // Of the span loss, for every pair and the head.
  std::vector<at::Tensor> gradients(Graph& graph, const GraphPlan& plan) {
    LossParts parts;
    compute_span_loss(graph.head_logits(graph.hidden(batch_, plan, view_), view_.head), {}, batch_,
                      Distillation{}, 5, &parts)
        .backward();
    std::vector<at::Tensor> result;
    const auto take = [&](const at::Tensor& leaf) {
      result.push_back(leaf.grad().clone());
      leaf.mutable_grad() = at::Tensor();
    };
    for (const LoraParams& lora : view_.lora) {
      take(lora.a);
      take(lora.b);
    }
    take(view_.head.weight);
    return result;
  }

  std::shared_ptr<const weights::BaseModel> base_;
  ThreadPool pool_;
  PackedBatch batch_;
  NetworkView view_;
};

INSTANTIATE_TEST_SUITE_P(Families, RotationGraphTest,
                         ::testing::Values(Family::kGpt2, Family::kLlama), family_name);

TEST_P(RotationGraphTest, HasTheRuntimesBits) {
  const auto graph = make_kernel_graph(base_, nullptr, pool_);
  for (const char* scheme :
       {"rot", "seed", "rot-residual", "rot-heads", "rot-mlp", "g32-asym+aasym+ag32+mse+rot"}) {
    for (const char* precision : {"32", "16", "8", "4", "w4a8kv4"}) {
      SCOPED_TRACE(fmt::format("{} {}", scheme, precision));
      const quant::PrecisionPlan network = plan(precision, scheme);
      const at::Tensor hidden = graph->hidden(batch_, GraphPlan(network, 0), view_);
      EXPECT_TRUE(same_bytes(to_vector(hidden), runtime_hidden(network)));
    }
  }
}

TEST_P(RotationGraphTest, GradientsAt32BitsAreThoseWithoutRotation) {
  for (const auto& graph : graphs()) {
    const auto expected = gradients(*graph, GraphPlan(plan("32", "seed"), 0));
    for (const char* scheme : {"rot", "rot-residual", "rot-heads", "rot-mlp"}) {
      const auto found = gradients(*graph, GraphPlan(plan("32", scheme), 0));
      ASSERT_EQ(found.size(), expected.size());
      for (std::size_t i = 0; i < found.size(); ++i) {
        const double scale = expected[i].abs().max().item<double>();
        EXPECT_GT(scale, 0) << i;
        EXPECT_LE((found[i] - expected[i]).abs().max().item<double>(), kTolerance * scale)
            << scheme << " " << i;
      }
    }
  }
}

// Residuals come in the base's own basis; layer norms do not see their means.
TEST_P(RotationGraphTest, BlocksAreInTheBasesOwnBasis) {
  for (const auto& graph : graphs()) {
    std::vector<at::Tensor> expected, found;
    graph->hidden(batch_, GraphPlan(plan("32", "seed"), 0), view_, &expected);
    graph->hidden(batch_, GraphPlan(plan("32", "rot"), 0), view_, &found);
    ASSERT_EQ(found.size(), base_->config().num_layers);
    for (std::size_t i = 0; i < found.size(); ++i) {
      at::Tensor reference = expected[i];
      if (GetParam() == Family::kGpt2)
        reference = reference - reference.mean({-1}, /*keepdim=*/true);
      EXPECT_LE((found[i] - reference).abs().max().item<double>(),
                kTolerance * reference.abs().max().item<double>());
    }
  }
}

TEST_P(RotationGraphTest, QuantizedPlansAgreeWithAtenInDivergence) {
  const auto both = graphs();
  const at::NoGradGuard no_grad;
  const auto logits = [&](Graph& graph, const GraphPlan& network) {
    return graph.lm_logits(graph.hidden(batch_, network, view_), network);
  };
  const at::Tensor exact = logits(*both[0], GraphPlan(plan("32", "seed"), 0));
  for (const char* scheme : {"rot", "g32-asym+aasym+ag32+mse+rot"}) {
    for (const char* precision : {"8", "4", "w4a16"}) {
      const GraphPlan network(plan(precision, scheme), 0);
      const at::Tensor kernel = logits(*both[0], network);
      EXPECT_LE(median_divergence(kernel, logits(*both[1], network)),
                kShareOfLoss * median_divergence(exact, kernel))
          << scheme << " " << precision;
    }
  }
}

TEST_P(RotationGraphTest, CudaAgreesWithCpuInValueAndGradient) {
  if (!has_cuda()) GTEST_SKIP() << "no CUDA device";
  at::globalContext().setFloat32MatmulPrecision("highest");
  const GraphPlan network(plan("32", "rot"), 0);
  const auto expected = gradients(*make_aten_graph(base_, at::kCPU, pool_), network);
  // What is copied to the device keeps its leaves here.
  const NetworkView own = view_;
  for (LoraParams& lora : view_.lora) lora = {lora.a.to(at::kCUDA), lora.b.to(at::kCUDA)};
  view_.head = {own.head.weight.to(at::kCUDA), own.head.bias.to(at::kCUDA)};
  const auto graph = make_aten_graph(base_, at::kCUDA, pool_);
  const at::Tensor logits = graph->head_logits(graph->hidden(batch_, network, view_), view_.head);
  LossParts parts;
  compute_span_loss(logits, {}, batch_, Distillation{}, 5, &parts).backward();
  for (std::size_t i = 0; i < own.lora.size(); ++i) {
    for (const auto& [leaf, reference] :
         {std::pair(own.lora[i].a, expected[2 * i]), std::pair(own.lora[i].b, expected[2 * i + 1])})
      EXPECT_LE((leaf.grad() - reference).abs().max().item<double>(),
                1e-3 * reference.abs().max().item<double>() + 1e-7)
          << i;
  }
}

TEST_P(RotationGraphTest, TrainsAndRefusesToTrainTheBase) {
  TrainOptions options;
  options.method = Method::kLora;
  options.head_kind = weights::HeadKind::kSpan;
  options.adapters.lora_r = 3;
  options.schedule.max_steps = 12;
  options.schedule.learning_rate = 1e-2;
  options.schedule.batch_size = 4;
  options.threads = 2;
  options.plan = plan("8", "rot");
  const std::vector<Example> examples = tiny_examples(8);
  const TrainResult result = train(base_, options, examples, {});
  const auto& steps = result.phases.front().steps;
  EXPECT_LT(steps.back().loss, steps.front().loss);
  const TrainResult again = train(base_, options, examples, {});
  EXPECT_TRUE(same_adapter(*result.weights.adapters.begin()->second,
                           *again.weights.adapters.begin()->second));
  options.method = Method::kFull;
  const auto error = error_of([&] { make_phases(options, base_->target()); });
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_NE(error.message.find("--method full"), std::string::npos);
  FlatParameters flat;
  const TrainableBase trainable(*base_, flat);
  flat.build(at::kCPU);
  const BaseParams params = trainable.bind(flat);
  std::vector<std::unique_ptr<Graph>> trained;
  trained.push_back(make_kernel_graph(base_, &params, pool_));
  trained.push_back(make_aten_graph(base_->config(), params));
  for (const auto& graph : trained) {
    EXPECT_EQ(error_of([&] { graph->hidden(batch_, GraphPlan(plan("8", "rot"), 0), {}); }).kind,
              ErrorKind::kUnsupported);
  }
}

}  // namespace rotation_graph_test
}  // namespace qalof::train
