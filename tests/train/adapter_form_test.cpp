// Cascaded adapters: what widths share, what a step at one width moves, and that every slice is an
// adapter like any other outside of training.
#include "train/adapter_form.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>

#include <filesystem>

#include "core/error.h"
#include "support/error_of.h"
#include "train/torch/graph.h"
#include "train/torch/loss.h"
#include "train/torch/optimizer.h"
#include "train/torch/parameters.h"
#include "train/trainer.h"
#include "train_test_util.h"

namespace qalof::train {
namespace adapter_form_test {

TrainOptions cascaded(Method method, std::size_t rank, double alpha) {
  TrainOptions options;
  options.method = method;
  options.adapters.adapter_form = AdapterForm::kCascaded;
  options.adapters.lora_r = rank;
  options.adapters.lora_alpha = alpha;
  options.threads = 2;
  return options;
}

TEST(AdapterForm, RanksFallWithBits) {
  const TrainOptions options = cascaded(Method::kJoint, 8, 16);
  const std::vector<std::pair<int, std::size_t>> expected = {
      {2, 8}, {3, 8}, {4, 8}, {5, 6}, {6, 6}, {7, 3}, {8, 3}, {16, 3}, {32, 3}};
  for (const auto& [bits, rank] : expected) {
    EXPECT_EQ(adapter_rank(options, bits), rank) << bits;
    EXPECT_EQ(adapter_rank(TrainOptions{}, bits), 8U) << bits;
  }
  EXPECT_EQ(adapter_rank(cascaded(Method::kJoint, 1, 16), 8), 1U);
}

TEST(AdapterForm, CascadedNeedsWidthsThatTrainTogether) {
  const auto base = tiny_base();
  for (const Method method : {Method::kFull, Method::kLora, Method::kSwitch}) {
    const auto error =
        qalof::testing::error_of([&] { make_phases(cascaded(method, 4, 8), base->target()); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage);
    EXPECT_NE(error.message.find("--adapter_form cascaded"), std::string::npos);
  }
}

// A phase of widths 8, 6 and 4 at ranks 3, 5 and 7, all values random.
class CascadeTest : public ::testing::TestWithParam<Family> {
 protected:
  CascadeTest()
      : base_(tiny_base(GetParam())),
        options_(with_widths()),
        phase_(make_phases(options_, base_->target()).front()),
        pool_(2),
        params_(*base_, options_, phase_, {}, at::kCPU, pool_) {
    at::set_num_threads(1);
    for (const Example& example : tiny_examples(5)) batch_.add(example);
    const auto count = static_cast<std::size_t>(params_.flat().values().numel());
    copy_values(qalof::testing::tensor_values("cascade", count, 0.2F), "cascade",
                params_.flat().values());
  }

  static TrainOptions with_widths() {
    TrainOptions options = cascaded(Method::kJoint, 7, 3.3);  // f32(3.3 / 7) * 3 is no float
    options.widths.bit_widths = {8, 6, 4};
    return options;
  }

  at::Tensor loss(Graph& graph, const Network& network, const NetworkView& view) const {
    LossParts parts;
    const at::Tensor hidden = graph.hidden(batch_, GraphPlan(network.plan, 0), view);
    return compute_span_loss(graph.head_logits(hidden, view.head), {}, batch_, Distillation{}, 5,
                             &parts);
  }

  std::shared_ptr<const weights::BaseModel> base_;
  TrainOptions options_;
  Phase phase_;
  ThreadPool pool_;
  PhaseParameters params_;
  PackedBatch batch_;
};
INSTANTIATE_TEST_SUITE_P(Families, CascadeTest, ::testing::Values(Family::kGpt2, Family::kLlama),
                         family_name);

TEST_P(CascadeTest, AWidthUsesTheFirstRanksOfOnePair) {
  const at::NoGradGuard no_grad;
  const NetworkView whole = params_.view(phase_.networks.back());
  for (const Network& network : phase_.networks) {
    const NetworkView view = params_.view(network);
    const auto rank = static_cast<std::int64_t>(adapter_rank(options_, network.head_width));
    ASSERT_EQ(view.lora.size(), base_->linears().size());
    for (std::size_t i = 0; i < view.lora.size(); ++i) {
      ASSERT_EQ(view.lora[i].a.size(0), rank);
      EXPECT_TRUE(at::equal(view.lora[i].a, whole.lora[i].a.narrow(0, 0, rank)));
      EXPECT_TRUE(at::equal(view.lora[i].b, whole.lora[i].b.narrow(1, 0, rank)));
    }
  }
  // One pair and three heads, nothing more.
  std::int64_t expected = 0;
  for (const model::LinearSpec& spec : base_->linears())
    expected += static_cast<std::int64_t>(7 * (spec.in + spec.out));
  for (const Network& network : phase_.networks) {
    const HeadParams head = params_.view(network).head;
    expected += head.weight.numel() + head.bias.numel();
  }
  EXPECT_EQ(params_.flat().values().numel(), expected);
}

TEST_P(CascadeTest, GradientsOfAllWidthsAddIntoTheSharedRanks) {
  const auto graph = make_kernel_graph(base_, nullptr, pool_);
  // By definition: every width's pairs and head as leaves of their own.
  std::map<int, NetworkView> alone;
  for (const Network& network : phase_.networks) {
    NetworkView& view = alone[network.head_width];
    view = params_.view(network);
    const auto leaf = [](const at::Tensor& tensor) {
      return tensor.detach().clone().set_requires_grad(true);
    };
    for (LoraParams& pair : view.lora) pair = {leaf(pair.a), leaf(pair.b)};
    view.head = {leaf(view.head.weight), leaf(view.head.bias)};
    loss(*graph, network, view).backward();
  }
  params_.flat().gradients().zero_();
  for (const Network& network : phase_.networks)
    loss(*graph, network, params_.view(network)).backward();
  // What the gradients of the whole pair are, read the way its values are.
  params_.flat().values().copy_(params_.flat().gradients());
  const at::NoGradGuard no_grad;
  const NetworkView found = params_.view(phase_.networks.back());
  for (std::size_t i = 0; i < found.lora.size(); ++i) {
    at::Tensor a = at::zeros_like(found.lora[i].a), b = at::zeros_like(found.lora[i].b);
    for (const Network& network : phase_.networks) {
      const LoraParams& pair = alone.at(network.head_width).lora[i];
      a.narrow(0, 0, pair.a.size(0)).add_(pair.a.grad());
      b.narrow(1, 0, pair.b.size(1)).add_(pair.b.grad());
    }
    EXPECT_GT(a.abs().max().item<double>(), 0);
    EXPECT_TRUE(at::equal(found.lora[i].a, a)) << i;  // the same sums in the same order
    EXPECT_TRUE(at::equal(found.lora[i].b, b)) << i;
  }
  for (const Network& network : phase_.networks) {
    EXPECT_TRUE(at::equal(params_.view(network).head.weight,
                          alone.at(network.head_width).head.weight.grad()));
  }
}

TEST_P(CascadeTest, AStepMovesTheRanksOfItsWidthAlone) {
  const auto graph = make_kernel_graph(base_, nullptr, pool_);
  AdamWOptions adamw;
  adamw.weight_decay = 0.1;
  AdamW optimizer(params_.flat(), adamw);
  const Network &eight = phase_.networks[0], &six = phase_.networks[1], &four = phase_.networks[2];
  const auto step = [&](const Network& network) {
    params_.flat().gradients().zero_();
    loss(*graph, network, params_.view(network)).backward();
    optimizer.step(1e-2, params_.groups(network));
  };
  step(four);  // so that every rank has moments
  const std::map<int, AdapterParams> before = [&] {
    std::map<int, AdapterParams> copies;
    for (const auto& [bits, adapter] : params_.adapters()) copies[bits] = detached(adapter);
    return copies;
  }();
  step(eight);
  const std::map<int, AdapterParams> after = params_.adapters();
  const auto rank = static_cast<std::int64_t>(adapter_rank(options_, 8));
  for (std::size_t i = 0; i < base_->linears().size(); ++i) {
    const at::Tensor &a = before.at(4).linears[i].a, &b = before.at(4).linears[i].b;
    const at::Tensor &moved_a = after.at(4).linears[i].a, &moved_b = after.at(4).linears[i].b;
    EXPECT_TRUE((moved_a != a).narrow(0, 0, rank).any().item<bool>()) << i;
    EXPECT_TRUE((moved_b != b).narrow(1, 0, rank).any().item<bool>()) << i;
    EXPECT_TRUE(at::equal(moved_a.narrow(0, rank, 7 - rank), a.narrow(0, rank, 7 - rank))) << i;
    EXPECT_TRUE(at::equal(moved_b.narrow(1, rank, 7 - rank), b.narrow(1, rank, 7 - rank))) << i;
  }
  EXPECT_FALSE(at::equal(after.at(8).head.weight, before.at(8).head.weight));
  EXPECT_TRUE(at::equal(after.at(4).head.weight, before.at(4).head.weight));
  // Every linear's own rank for a plan of several widths.
  Network mixed = eight;
  mixed.plan.linears[0] = four.plan.linears[0];
  mixed.plan.linears[1] = six.plan.linears[1];
  EXPECT_EQ(params_.groups(mixed).size(), params_.groups(eight).size() + 3);
  EXPECT_EQ(params_.view(mixed).lora[0].a.size(0), 7);
  EXPECT_EQ(params_.view(mixed).lora[1].a.size(0), 5);
  EXPECT_EQ(params_.view(mixed).lora[2].a.size(0), 3);
}

TEST_P(CascadeTest, SavedSlicesHaveTheBitsOfTrainingInTheRuntime) {
  const qalof::testing::TempDir directory;
  TrainedWeights weights;
  params_.export_to(*base_, weights);
  auto set = std::make_shared<weights::AdapterSet>();
  for (const auto& [bits, adapter] : weights.adapters) {
    const std::string path = directory.file(fmt::format("w{}", bits));
    weights::save_adapter(path, *adapter, base_->config(), weights::HeadKind::kSpan, "tiny");
    set->by_width[bits] = weights::load_adapters(path, base_->config()).by_width.at(0);
    EXPECT_EQ(set->by_width[bits]->rank, adapter_rank(options_, bits));
    EXPECT_EQ(set->by_width[bits]->linears[0]->view().scaling, static_cast<float>(3.3 / 7));
  }
  const auto graph = make_kernel_graph(base_, nullptr, pool_);
  const at::NoGradGuard no_grad;
  for (const Network& network : phase_.networks) {
    SCOPED_TRACE(network.name);
    const auto execution = runtime::Execution::create(base_, network.plan, set, pool_);
    const NetworkView view = params_.view(network);
    const at::Tensor hidden = graph->hidden(batch_, GraphPlan(network.plan, 0), view);
    const std::vector<float> expected = runtime_hidden(*execution, batch_);
    EXPECT_TRUE(same_bytes(to_vector(hidden), expected));
    std::vector<float> logits(batch_.tokens() * 2);
    runtime::apply_head(*execution->head(weights::HeadKind::kSpan), expected.data(),
                        batch_.tokens(), base_->config().hidden, logits.data(), pool_);
    EXPECT_TRUE(same_bytes(to_vector(graph->head_logits(hidden, view.head)), logits));
  }
}

TEST_P(CascadeTest, ALowerLevelOfTheCurriculumBeginsAsTheFunctionAbove) {
  const at::NoGradGuard no_grad;
  PhaseParameters fresh(*base_, options_, phase_, {}, at::kCPU, pool_);
  const Network &six = phase_.networks[1], &four = phase_.networks[2];
  AdamW optimizer(fresh.flat(), {});
  fresh.flat().gradients().fill_(1);
  optimizer.step(1e-2, fresh.groups(six));
  fresh.copy_width(6, 4);
  const NetworkView above = fresh.view(six), below = fresh.view(four);
  for (std::size_t i = 0; i < above.lora.size(); ++i) {
    EXPECT_EQ(below.lora[i].a.size(0), 7);
    EXPECT_GT(above.lora[i].b.abs().max().item<double>(), 0);
    EXPECT_TRUE(
        at::allclose(below.lora[i].b.mm(below.lora[i].a), above.lora[i].b.mm(above.lora[i].a)));
  }
  EXPECT_TRUE(at::equal(below.head.weight, above.head.weight));
}

TEST(CascadedTraining, LossFallsAndSmallerBatchesAddUp) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(6);
  for (const Method method : {Method::kJoint, Method::kCpt, Method::kRandom, Method::kCurriculum}) {
    TrainOptions options = cascaded(method, 5, 10);
    options.schedule.max_steps = method == Method::kJoint ? 40 : 200;
    options.widths.num_cyclic_period = 10;
    options.widths.random_widths = RandomWidths::kBoth;
    options.schedule.batch_size = 6;
    options.schedule.warmup_steps = 1;
    options.schedule.learning_rate = 1e-2;
    const TrainResult whole = train(base, options, examples, {});
    const std::vector<StepRecord>& steps = whole.phases[0].steps;
    const auto loss = [](const StepRecord& step) {
      return step.hard_loss / static_cast<double>(step.passes.size());
    };
    EXPECT_LT(loss(steps.back()), 0.7 * loss(steps.front())) << to_string(method);
    options.schedule.max_steps = 6;
    options.widths.num_cyclic_period = 1;
    const TrainResult one = train(base, options, examples, {});
    options.schedule.batch_size = 2;
    options.schedule.gradient_accumulation_steps = 3;
    const TrainResult parts = train(base, options, examples, {});
    // Later ones begin at weights that differ by rounding, which quantization makes large.
    for (std::size_t i = 0; i < 2; ++i) {
      const StepRecord &a = one.phases[0].steps[i], &b = parts.phases[0].steps[i];
      EXPECT_NEAR(a.loss, b.loss, 1e-4 * a.loss) << to_string(method) << i;
      EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-3 * a.grad_norm) << to_string(method) << i;
    }
  }
}

}  // namespace adapter_form_test
}  // namespace qalof::train
