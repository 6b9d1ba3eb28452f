// The ATen graph on a CUDA device against the same graph on CPU, and training there. Skipped where
// there is no device.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tensor_test_util.h"
#include "train/torch/graph.h"
#include "train/torch/loss.h"
#include "train/trainer.h"
#include "train_test_util.h"

namespace qalof::train {
namespace cuda_test {

class CudaTest : public ::testing::TestWithParam<Family> {
 protected:
  CudaTest() : base_(tiny_base(GetParam())), pool_(2) {}
  void SetUp() override {
    if (!has_cuda()) GTEST_SKIP() << "no CUDA device";
    at::globalContext().setFloat32MatmulPrecision("highest");
    for (const Example& example : tiny_examples(5)) batch_.add(example);
  }

  struct Outcome {
    double loss = 0;
    at::Tensor logits;
    std::vector<at::Tensor> gradients;
  };
  // The span loss of a plan with random pairs, and its gradients, on CPU in the end.
  Outcome run(const quant::PrecisionPlan& plan, at::Device device) {
    const auto graph = make_aten_graph(base_, device, pool_);
    std::vector<at::Tensor> leaves;
    auto leaf = [&](const std::string& name, std::vector<std::int64_t> shape, float scale) {
      const auto count = static_cast<std::size_t>(c10::multiply_integers(shape));
      leaves.push_back(to_tensor(qalof::testing::tensor_values(name, count, scale), shape)
                           .to(device)
                           .set_requires_grad(true));
      return leaves.back();
    };
    NetworkView view;
    view.lora_scaling = 2;
    for (const model::LinearSpec& spec : base_->linears()) {
      const auto in = static_cast<std::int64_t>(spec.in), out = static_cast<std::int64_t>(spec.out);
      at::Tensor a = leaf(spec.name + "a", {3, in}, 0.1F);
      view.lora.push_back({a, leaf(spec.name + "b", {out, 3}, 0.1F)});
    }
    const auto hidden = static_cast<std::int64_t>(base_->config().hidden);
    view.head.weight = leaf("head", {2, hidden}, 0.3F);
    view.head.bias = leaf("bias", {2}, 0.3F);
    const GraphPlan graph_plan(plan, 0);
    const at::Tensor logits =
        graph->head_logits(graph->hidden(batch_, graph_plan, view), view.head);
    LossParts parts;
    const at::Tensor loss =
        compute_span_loss(logits, {}, batch_, {}, static_cast<double>(batch_.windows()), &parts);
    loss.backward();
    Outcome outcome{loss.item<double>(), logits.detach().to(at::kCPU), {}};
    for (const at::Tensor& tensor : leaves) outcome.gradients.push_back(tensor.grad().to(at::kCPU));
    return outcome;
  }

  std::shared_ptr<const weights::BaseModel> base_;
  ThreadPool pool_;
  PackedBatch batch_;
};
INSTANTIATE_TEST_SUITE_P(Families, CudaTest, ::testing::Values(Family::kGpt2, Family::kLlama),
                         family_name);

TEST_P(CudaTest, AgreesWithCpuAt32BitsInValueAndGradient) {
  const quant::PrecisionPlan plan = plan_of("32", *base_);
  const Outcome cpu = run(plan, at::kCPU), cuda = run(plan, at::kCUDA);
  // f32 in another order of sums.
  EXPECT_NEAR(cuda.loss, cpu.loss, 1e-4 * std::abs(cpu.loss));
  for (std::size_t i = 0; i < cpu.gradients.size(); ++i) {
    const double scale = cpu.gradients[i].abs().max().item<double>();
    const double error = (cpu.gradients[i] - cuda.gradients[i]).abs().max().item<double>();
    EXPECT_LE(error, 1e-3 * scale + 1e-7) << i;
  }
}

TEST_P(CudaTest, QuantizedPlansAgreeWithCpuInDivergence) {
  for (const char* scheme : {"seed", "g32-asym+aasym+ag32+mse"}) {
    for (const char* text : {"16", "8", "4"}) {
      quant::PrecisionPlan plan = plan_of(text, *base_);
      plan.scheme = quant::parse_scheme(scheme, "test");
      const double found = divergence(run(plan, at::kCPU).logits, run(plan, at::kCUDA).logits);
      // A rounding boundary crossed here and there.
      EXPECT_LE(found, text[0] == '4' ? 5e-2 : 1e-3) << scheme << " " << text;
    }
  }
}

TEST_P(CudaTest, LossFallsForEveryMethodAndTask) {
  const auto examples = tiny_examples(4, /*shortest=*/2);
  for (const weights::HeadKind head_kind :
       {weights::HeadKind::kSpan, weights::HeadKind::kLm, weights::HeadKind::kClass}) {
    for (const Method method : {Method::kFull, Method::kLora, Method::kSwitch, Method::kJoint,
                                Method::kCpt, Method::kRandom}) {
      TrainOptions options;
      options.device = Device::kCuda;
      options.method = method;
      options.head_kind = head_kind;
      options.num_labels = 3;
      options.schedule.max_steps = 40;
      if (method == Method::kCpt || method == Method::kRandom) options.schedule.max_steps = 200;
      options.widths.num_cyclic_period = 20;
      options.schedule.warmup_steps = 1;
      options.schedule.lr_scheduler_type = LrSchedule::kConstant;
      options.schedule.batch_size = 4;
      options.adapters.lora_r = 3;
      options.adapters.lora_alpha = 6;
      options.schedule.learning_rate = 1e-2;
      options.threads = 2;
      const TrainResult result = train(base_, options, examples, {});
      auto loss = [](const StepRecord& step) {
        return step.hard_loss / static_cast<double>(step.passes.size());
      };
      for (const PhaseHistory& phase : result.phases) {
        EXPECT_LT(loss(phase.steps.back()), 0.7 * loss(result.phases[0].steps.front()))
            << to_string(method) << " " << weights::to_string(head_kind) << " " << phase.name;
        EXPECT_EQ(phase.skipped_steps, 0);
      }
    }
  }
}

}  // namespace cuda_test
}  // namespace qalof::train
