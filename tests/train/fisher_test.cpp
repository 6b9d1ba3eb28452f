// Fisher estimates against sums in double over single windows, and independence of threads.
#include "train/fisher.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/error_of.h"
#include "support/tiny_runtime.h"
#include "train/torch/graph.h"
#include "train/torch/kernel_functions.h"
#include "train/torch/loss.h"
#include "train/torch/teacher.h"
#include "train/train_test_util.h"
#include "weights/adapter_weights.h"
#include "weights/weight_packing.h"

namespace qalof::train {
namespace fisher_test {

class FisherTest : public ::testing::TestWithParam<Family> {
 protected:
  FisherTest() : base_(tiny_base(GetParam())), pool_(2) {
    inputs_.network = {"net", base_, qalof::testing::random_adapters(base_->config(), {8, 4}),
                       plan_of("8", *base_)};
    inputs_.low = {4, 3};
    inputs_.tokens_per_batch = 30;
  }

  // The change of a linear's weights, adapters in it, in double precision.
  std::vector<double> weight_change(std::size_t linear, int bits) {
    const model::LinearSpec& spec = base_->linears()[linear];
    std::vector<double> change(spec.in * spec.out);
    for (const int width : {bits, 8}) {
      const double sign = width == 8 ? -1 : 1;
      const std::vector<float> reals =
          weights::unpack_reals(base_->packed(linear, {{width}, {8}}, {}, pool_), pool_);
      const int serving = width <= 4 ? 4 : 8;
      const weights::LoraLinear& pair =
          *inputs_.network.adapters->by_width.at(serving)->linears[linear];
      for (std::size_t o = 0; o < spec.out; ++o) {
        for (std::size_t i = 0; i < spec.in; ++i) {
          double sum = 0;
          for (std::size_t r = 0; r < pair.rank(); ++r)
            sum += double{pair.b()[o * pair.rank() + r]} * double{pair.a()[r * spec.in + i]};
          change[o * spec.in + i] +=
              sign * (double{reals[o * spec.in + i]} + double{pair.view().scaling} * sum);
        }
      }
    }
    return change;
  }

  std::shared_ptr<const weights::BaseModel> base_;
  ThreadPool pool_;
  FisherInputs inputs_;
};

TEST_P(FisherTest, AgreesWithSumsInDoubleOfEachWindowAlone) {
  const std::vector<Example> examples = tiny_examples(5);
  const FisherResult found = fisher_estimates(inputs_, examples, pool_);

  const std::size_t linears = base_->linears().size();
  std::vector<FisherEstimate> weights(linears), activations(linears);
  double loss = 0;
  for (const Example& example : examples) {
    PackedBatch batch;
    batch.add(example);
    KernelResources resources(base_->config(), pool_);
    const auto graph = make_kernel_graph(
        base_, nullptr, pool_, {},
        [&](std::size_t linear, const at::Tensor& x, const at::Tensor& dy,
            const at::Tensor& dinput) {
          const auto input = [&](int bits) {
            weights::LinearCall call;
            call.precision.activation = {bits};
            return quantized_input(x, call, resources).to(at::kDouble);
          };
          const at::Tensor dw = dy.to(at::kDouble).t().mm(input(8)).contiguous();
          const std::vector<double> change = weight_change(linear, 4);
          double first = 0, second = 0;
          for (std::size_t i = 0; i < change.size(); ++i) {
            const double product = dw.const_data_ptr<double>()[i] * change[i];
            first += product;
            second += product * product;
          }
          weights[linear].first += first / 5;
          weights[linear].second += second / 10;
          const at::Tensor product = dinput.to(at::kDouble) * (input(4) - input(8));
          activations[linear].first += product.sum().item<double>() / 5;
          activations[linear].second += product.square().sum().item<double>() / 10;
        });
    const GraphPlan plan(inputs_.network.plan, 0);
    const NetworkView view =
        frozen_view(inputs_.network, weights::HeadKind::kSpan, 0, "net", at::kCPU);
    const at::Tensor hidden =
        graph->decode(graph->embed(batch, plan).requires_grad_(), batch, plan, view);
    LossParts parts;
    compute_span_loss(graph->head_logits(hidden, view.head), {}, batch, {}, 1, &parts).backward();
    loss += parts.hard / 5;
  }
  EXPECT_NEAR(found.loss, loss, 1e-12);
  // Gradients of weights are f32 sums over at most 22 rows.
  constexpr double kF32Sums = 1e-4;
  for (std::size_t i = 0; i < linears; ++i) {
    EXPECT_GT(weights[i].second, 0);
    EXPECT_NEAR(found.weights[0][i].second, weights[i].second, kF32Sums * weights[i].second);
    EXPECT_NEAR(found.weights[0][i].first, weights[i].first,
                kF32Sums * std::sqrt(weights[i].second * 1000));
    EXPECT_NEAR(found.activations[0][i].second, activations[i].second,
                kF32Sums * activations[i].second);
    EXPECT_NEAR(found.activations[0][i].first, activations[i].first,
                kF32Sums * std::sqrt(activations[i].second * 1000));
    EXPECT_GT(found.activations[1][i].second, found.activations[0][i].second);
  }
}

TEST_P(FisherTest, ThreadsDoNotMatter) {
  const std::vector<Example> examples = tiny_examples(5);
  const FisherResult two = fisher_estimates(inputs_, examples, pool_);
  SerialFor serial;
  const FisherResult one = fisher_estimates(inputs_, examples, serial);
  for (std::size_t i = 0; i < base_->linears().size(); ++i) {
    EXPECT_EQ(one.weights[1][i].first, two.weights[1][i].first);
    EXPECT_EQ(one.activations[1][i].second, two.activations[1][i].second);
  }
}

TEST_P(FisherTest, LanguageModelsAreRefused) {
  inputs_.head_kind = weights::HeadKind::kLm;
  EXPECT_EQ(
      qalof::testing::error_of([&] { fisher_estimates(inputs_, tiny_examples(2), pool_); }).kind,
      ErrorKind::kUnsupported);
}

INSTANTIATE_TEST_SUITE_P(Families, FisherTest, ::testing::Values(Family::kGpt2, Family::kLlama),
                         family_name);

}  // namespace fisher_test
}  // namespace qalof::train
