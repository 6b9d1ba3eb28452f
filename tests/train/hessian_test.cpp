// Hutchinson's estimate against the trace itself: every diagonal element by differentiating twice,
// in double precision.
#include "train/hessian.h"

#include <ATen/Context.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <numeric>

#include "core/statistics.h"
#include "support/error_of.h"
#include "support/tiny_runtime.h"
#include "train/phases.h"
#include "train/torch/graph.h"
#include "train/torch/teacher.h"
#include "train/train_test_util.h"
#include "weights/weight_packing.h"

namespace qalof::train {
namespace hessian_test {

class HessianTest : public ::testing::TestWithParam<Family> {
 protected:
  HessianTest() : pool_(2) {
    const bool is_gpt2 = GetParam() == Family::kGpt2;
    Json config = is_gpt2 ? qalof::testing::tiny_config() : qalof::testing::tiny_llama_config();
    config[is_gpt2 ? "n_embd" : "hidden_size"] = 8;
    config[is_gpt2 ? "n_layer" : "num_hidden_layers"] = 1;
    if (!is_gpt2) {
      config["num_attention_heads"] = 2;
      config["num_key_value_heads"] = 1;
      config["intermediate_size"] = 12;
    }
    const qalof::testing::TempDir dir;
    qalof::testing::write_model(dir.path(), config);
    base_ = weights::BaseModel::load_directory(dir.path());
    inputs_.network = {"net", base_, qalof::testing::random_adapters(base_->config(), {8}),
                       uniform_plan(32, std::nullopt, base_->target())};
    inputs_.low = {4, 3};
    inputs_.in_double = true;
  }

  // Traces of the mean loss, and that loss.
  std::pair<std::vector<double>, double> exact(const std::vector<Example>& examples) {
    // Of attention only the plain form can be differentiated twice.
    at::globalContext().setSDPUseFlash(false);
    NetworkView view =
        frozen_view(inputs_.network, inputs_.head_kind, inputs_.num_labels, "test", at::kCPU);
    for (LoraParams& pair : view.lora) {
      pair.a = pair.a.to(at::kDouble);
      pair.b = pair.b.to(at::kDouble);
    }
    view.head = {view.head.weight.to(at::kDouble), view.head.bias.to(at::kDouble)};
    BaseParams params = load_base_params(*base_, at::kCPU, at::kDouble);
    const std::vector<at::Tensor> weights = params.weights;
    for (const at::Tensor& weight : weights) weight.requires_grad_();
    const auto graph = make_aten_graph(base_->config(), std::move(params));
    at::Tensor loss = at::zeros({}, at::kDouble);
    for (const Example& example : examples) {
      PackedBatch batch;
      batch.add(example);
      const at::Tensor logits = graph->head_logits(
          graph->hidden(batch, GraphPlan(inputs_.network.plan, 0), view), view.head);
      const at::Tensor log_p = at::log_softmax(logits, 0);
      loss = loss - 0.5 * (log_p[example.start][0] + log_p[example.end][1]);
    }
    loss = loss / static_cast<double>(examples.size());
    const auto gradients = torch::autograd::grad({loss}, weights, {}, true, /*create_graph=*/true);
    std::vector<double> traces;
    for (std::size_t w = 0; w < weights.size(); ++w) {
      double trace = 0;
      const at::Tensor flat = gradients[w].reshape({-1});
      for (std::int64_t i = 0; i < flat.numel(); ++i) {
        const auto row = torch::autograd::grad({flat[i]}, {weights[w]}, {}, /*retain_graph=*/true);
        trace += row[0].reshape({-1})[i].item<double>();
      }
      traces.push_back(trace);
    }
    at::globalContext().setSDPUseFlash(true);
    return {traces, loss.item<double>()};
  }

  std::shared_ptr<const weights::BaseModel> base_;
  ThreadPool pool_;
  HessianInputs inputs_;
};

TEST_P(HessianTest, TheMeanOverVectorsIsTheTrace) {
  const std::vector<Example> examples = tiny_examples(2);
  const auto [traces, loss] = exact(examples);
  constexpr int kDraws = 300;
  std::vector<std::vector<double>> draws(traces.size());
  for (int draw = 0; draw < kDraws; ++draw) {
    inputs_.seed = static_cast<std::uint64_t>(draw);
    const HessianResult found = hessian_traces(inputs_, examples, pool_);
    // Between the two points of a difference, whose distance is 1e-3 of the weights.
    EXPECT_NEAR(found.loss, loss, 1e-3);
    for (std::size_t i = 0; i < traces.size(); ++i) draws[i].push_back(found.traces[i]);
  }
  for (std::size_t i = 0; i < traces.size(); ++i) {
    const MeanAndError mean = mean_and_error(draws[i]);
    EXPECT_GT(mean.error, 0);
    // Four standard errors; chance alone would leave them once in 16,000.
    EXPECT_NEAR(mean.mean, traces[i], 4 * mean.error) << i;
    // The estimate tells the trace from nothing.
    if (std::abs(traces[i]) > 0.05) {
      EXPECT_LT(mean.error, std::abs(traces[i])) << i;
    }
  }
}

// In f32, with one vector, what f64 finds with the same.
TEST_P(HessianTest, SinglePrecisionIsEnough) {
  const std::vector<Example> examples = tiny_examples(6);
  inputs_.tokens_per_batch = 20;
  const HessianResult exact = hessian_traces(inputs_, examples, pool_);
  inputs_.in_double = false;
  const HessianResult found = hessian_traces(inputs_, examples, pool_);
  double largest = 0;
  for (const double trace : exact.traces) largest = std::max(largest, std::abs(trace));
  for (std::size_t i = 0; i < exact.traces.size(); ++i) {
    EXPECT_NEAR(found.traces[i], exact.traces[i], 0.02 * largest) << i;
    EXPECT_GT(exact.trace_errors[i], 0) << i;
  }
  EXPECT_EQ(hessian_traces(inputs_, examples, pool_).traces, found.traces);
}

TEST_P(HessianTest, MoreVectorsLeaveASmallerError) {
  const std::vector<Example> examples = tiny_examples(4);
  inputs_.tokens_per_batch = 1;
  const auto sum_of_errors = [&](int vectors) {
    inputs_.vectors = vectors;
    const HessianResult found = hessian_traces(inputs_, examples, pool_);
    return std::accumulate(found.trace_errors.begin(), found.trace_errors.end(), 0.0);
  };
  // As one over the root: a quarter, but for chance.
  const double few = sum_of_errors(4), many = sum_of_errors(64);
  EXPECT_LT(many, 0.4 * few);
  EXPECT_GT(many, 0.15 * few);
  inputs_.vectors = 0;
  EXPECT_EQ(qalof::testing::error_of([&] { hessian_traces(inputs_, examples, pool_); }).kind,
            ErrorKind::kUsage);
}

TEST_P(HessianTest, ErrorsAreThoseOfQuantizedWeights) {
  const HessianResult found = hessian_traces(inputs_, tiny_examples(1), pool_);
  for (std::size_t low = 0; low < inputs_.low.size(); ++low) {
    for (std::size_t linear = 0; linear < base_->linears().size(); ++linear) {
      const quant::BitWidth width{inputs_.low[low]};
      const std::vector<float> weights = base_->source().linear_f32(linear);
      const std::vector<float> reals =
          weights::unpack_reals(base_->packed(linear, {width, width}, {}, pool_), pool_);
      double sum = 0;
      for (std::size_t i = 0; i < weights.size(); ++i)
        sum += std::pow(double{weights[i]} - double{reals[i]}, 2);
      EXPECT_DOUBLE_EQ(found.errors[low][linear], sum);
    }
  }
  inputs_.head_kind = weights::HeadKind::kLm;
  EXPECT_EQ(
      qalof::testing::error_of([&] { hessian_traces(inputs_, tiny_examples(1), pool_); }).kind,
      ErrorKind::kUnsupported);
}

INSTANTIATE_TEST_SUITE_P(Families, HessianTest, ::testing::Values(Family::kGpt2, Family::kLlama),
                         family_name);

}  // namespace hessian_test
}  // namespace qalof::train
