// Every family in both graphs: gradients of all tensors are those of transformers' autograd, the
// kernel graph gives the runtime's bits at integer widths with adapters, in rotated schemes too,
// and the gradients of adapters agree between the graphs.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/error.h"
#include "support/error_of.h"
#include "support/family_model.h"
#include "tensor_test_util.h"
#include "train/torch/graph.h"
#include "train/torch/loss.h"
#include "train_test_util.h"

namespace qalof::train {
namespace family_graph_test {

using qalof::testing::family_base;
using qalof::testing::family_cases;
using qalof::testing::family_signs;
using qalof::testing::family_tokens;

// f32 through three layers in another order of sums.
constexpr double kTolerance = 1e-4;

Example example_of(std::size_t length) {
  Example example;
  example.ids = family_tokens(length);
  return example;
}

// The gradients in place of the tensors.
BaseParams gradients_of(const BaseParams& params) {
  BaseParams result = params;
  const auto take = [](at::Tensor& tensor) {
    if (tensor.numel() > 0) tensor = tensor.grad();
  };
  for (at::Tensor* tensor : {&result.wte, &result.wpe, &result.lm_head}) take(*tensor);
  const auto take_norm = [&](NormParams& norm) {
    take(norm.gamma);
    take(norm.beta);
  };
  for (auto* norms : {&result.attention_norms, &result.mlp_norms, &result.attention_out_norms,
                      &result.mlp_out_norms, &result.q_norms, &result.k_norms})
    for (NormParams& norm : *norms) take_norm(norm);
  take_norm(result.final_norm);
  for (auto* tensors : {&result.weights, &result.biases})
    for (at::Tensor& tensor : *tensors) take(tensor);
  return result;
}

class FamilyGraph : public ::testing::TestWithParam<std::string> {
 protected:
  FamilyGraph() : base_(family_base(GetParam())), pool_(2) {
    at::set_num_threads(1);
    for (const std::size_t length : {45, 2, 23, 30}) batch_.add(example_of(length));
  }

  // Random pairs with B not zero.
  std::vector<LoraParams> pairs() const {
    std::vector<LoraParams> pairs;
    const auto leaf = [](const std::string& name, std::int64_t rows, std::int64_t cols) {
      std::vector<float> values = family_signs(name, static_cast<std::size_t>(rows * cols));
      for (float& value : values) value *= 0.2F;
      return to_tensor(values, {rows, cols}).set_requires_grad(true);
    };
    for (const model::LinearSpec& spec : base_->linears()) {
      pairs.push_back({leaf(spec.name + "a", 3, static_cast<std::int64_t>(spec.in)),
                       leaf(spec.name + "b", static_cast<std::int64_t>(spec.out), 3)});
    }
    return pairs;
  }
  static NetworkView view_of(const std::vector<LoraParams>& pairs) {
    NetworkView view;
    view.lora = pairs;
    view.lora_scaling = 2;
    return view;
  }
  std::shared_ptr<const weights::AdapterSet> exported(const std::vector<LoraParams>& pairs) const {
    TrainOptions options;
    options.adapters.lora_r = 3;
    options.adapters.lora_alpha = 6;
    AdapterParams params;
    params.linears = pairs;
    auto set = std::make_shared<weights::AdapterSet>();
    set->by_width[0] = export_adapter(params, *base_, options);
    return set;
  }
  at::Tensor loss_on(Graph& graph, const GraphPlan& plan, const NetworkView& view,
                     const PackedBatch& batch) const {
    LmLossInputs inputs;
    inputs.graph = &graph;
    inputs.plan = &plan;
    inputs.batch = &batch;
    inputs.normalizer = static_cast<double>(batch.tokens() - batch.windows());
    LossParts parts;
    return compute_lm_loss(graph.hidden(batch, plan, view), inputs, &parts);
  }
  // Without rotations first.
  std::vector<quant::Rotations> rotations() const {
    std::vector<quant::Rotations> result = qalof::testing::possible_rotations(base_->config());
    result.insert(result.begin(), quant::Rotations{});
    return result;
  }

  std::shared_ptr<const weights::BaseModel> base_;
  ThreadPool pool_;
  PackedBatch batch_;
};

TEST_P(FamilyGraph, GradientsOfAllTensorsAreThoseOfTransformers) {
  FlatParameters flat;
  const TrainableBase trainable(*base_, flat);
  flat.build(at::kCPU);
  const BaseParams params = trainable.bind(flat);
  PackedBatch batch;
  batch.add(example_of(45));
  const GraphPlan plan(plan_of("32", *base_), 0);
  const auto kernel = make_kernel_graph(base_, &params, pool_);
  const auto aten = make_aten_graph(base_->config(), params);
  model::ModelConfig plain = base_->config();
  plain.norm_offset = 0;  // gradients have none
  const Json& expected = family_cases().at(GetParam())["gradients"];
  for (Graph* graph : {kernel.get(), aten.get()}) {
    SCOPED_TRACE(graph == kernel.get() ? "kernels" : "ATen");
    flat.gradients().zero_();
    loss_on(*graph, plan, {}, batch).backward();
    const auto found = export_base(gradients_of(params), {}, plain, weights::HeadKind::kLm);
    EXPECT_EQ(found.size(), expected.size());
    for (const auto& [name, numbers] : expected.items()) {
      SCOPED_TRACE(name);
      ASSERT_TRUE(found.contains(name));
      const std::vector<float>& values = found.at(name).values;
      const std::vector<float> signs = family_signs("gradient", values.size());
      double squares = 0, product = 0;
      for (std::size_t i = 0; i < values.size(); ++i) {
        const auto value = static_cast<double>(values[i]);
        squares += value * value;
        product += value * static_cast<double>(signs[i]);
      }
      const double norm = numbers[0];
      // Without positions, biases of keys move all scores of a query alike: their gradient is 0,
      // and what is found is rounding.
      const double allowed = kTolerance * std::max(norm, 2e-3);
      EXPECT_LE(std::abs(std::sqrt(squares) - norm), allowed);
      EXPECT_LE(std::abs(product - numbers[1].get<double>()), allowed);
    }
  }
}

TEST_P(FamilyGraph, KernelGraphHasTheRuntimesBits) {
  const std::vector<LoraParams> adapter = pairs();
  const auto set = exported(adapter);
  for (const char* text : {"32", "w8a8kv8", "w4a8kv4", "16"}) {
    for (const quant::Rotations& rotated : rotations()) {
      if (rotated.any() && *text != 'w') continue;
      SCOPED_TRACE(text);
      quant::PrecisionPlan plan = plan_of(text, *base_);
      plan.scheme.rotations = rotated;
      const auto execution = runtime::Execution::create(base_, plan, set, pool_);
      const auto graph = make_kernel_graph(base_, nullptr, pool_);
      const at::Tensor hidden = graph->hidden(batch_, GraphPlan(plan, 0), view_of(adapter));
      EXPECT_TRUE(same_bytes(to_vector(hidden), runtime_hidden(*execution, batch_)))
          << quant::to_string(rotated);
    }
  }
}

TEST_P(FamilyGraph, GradientsOfAdaptersAgreeBetweenTheGraphs) {
  for (const quant::Rotations& rotated : rotations()) {
    quant::PrecisionPlan precision = plan_of("32", *base_);
    precision.scheme.rotations = rotated;
    const GraphPlan plan(precision, 0);
    std::vector<std::vector<at::Tensor>> gradients;
    for (const auto& graph :
         {make_kernel_graph(base_, nullptr, pool_), make_aten_graph(base_, at::kCPU, pool_)}) {
      const std::vector<LoraParams> adapter = pairs();
      loss_on(*graph, plan, view_of(adapter), batch_).backward();
      std::vector<at::Tensor>& all = gradients.emplace_back();
      for (const LoraParams& pair : adapter) {
        all.push_back(pair.a.grad());
        all.push_back(pair.b.grad());
      }
    }
    for (std::size_t i = 0; i < gradients[0].size(); ++i)
      EXPECT_LE(relative_error(gradients[0][i], gradients[1][i]), kTolerance)
          << base_->linears()[i / 2].name << " " << quant::to_string(rotated);
  }
}

TEST_P(FamilyGraph, CheckpointedBlocksGiveTheSameBits) {
  for (const quant::Rotations& rotated : rotations()) {
    quant::PrecisionPlan precision = plan_of("w8a8kv8", *base_);
    precision.scheme.rotations = rotated;
    const GraphPlan plan(precision, 0);
    for (const bool is_aten : {false, true}) {
      const auto graph = is_aten ? make_aten_graph(base_, at::kCPU, pool_)
                                 : make_kernel_graph(base_, nullptr, pool_);
      std::vector<std::vector<at::Tensor>> results;
      for (const bool checkpoints : {false, true}) {
        graph->checkpoint_blocks(checkpoints);
        const std::vector<LoraParams> adapter = pairs();
        const at::Tensor embedded = graph->embed(batch_, plan).detach().set_requires_grad(true);
        std::vector<at::Tensor> blocks;
        const at::Tensor hidden = graph->decode(embedded, batch_, plan, view_of(adapter), &blocks);
        std::vector<at::Tensor>& all = results.emplace_back();
        // Of the embeddings alone, which must leave the adapter without a gradient, and of all.
        all.push_back(torch::autograd::grad({hidden.square().sum()}, {embedded}, {},
                                            /*retain_graph=*/true)[0]);
        EXPECT_FALSE(adapter.front().a.grad().defined());
        (hidden.square().sum() + blocks.front().abs().sum()).backward();
        all.insert(all.end(), {hidden.detach(), embedded.grad()});
        for (const LoraParams& pair : adapter)
          all.insert(all.end(), {pair.a.grad(), pair.b.grad()});
      }
      // ATen sums the three gradients of a residual that is read as a block's output, too, in
      // another order.
      for (std::size_t i = 0; i < results[0].size(); ++i)
        EXPECT_TRUE(is_aten ? relative_error(results[0][i], results[1][i]) <= kTolerance
                            : at::equal(results[0][i], results[1][i]))
            << i << " " << quant::to_string(rotated) << " " << is_aten;
    }
  }
}

TEST_P(FamilyGraph, RotationIsExactOrRefusedByName) {
  const auto set = exported(pairs());
  const auto hidden = [&](const quant::Rotations& rotated) {
    quant::PrecisionPlan plan = plan_of("32", *base_);
    plan.scheme.rotations = rotated;
    const std::vector<float> values =
        runtime_hidden(*runtime::Execution::create(base_, plan, set, pool_), batch_);
    return to_tensor(values, {static_cast<std::int64_t>(values.size())});
  };
  const at::Tensor plain = hidden({});
  bool has_all = false;
  for (const quant::Rotations& rotated : rotations()) {
    has_all = has_all || rotated == quant::kAllRotations;
    EXPECT_LE(relative_error(hidden(rotated), plain), kTolerance) << quant::to_string(rotated);
  }
  if (has_all) return;
  const auto error = qalof::testing::error_of([&] { hidden(quant::kAllRotations); });
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_NE(error.message.find("scheme rot: "), std::string::npos) << error.message;
}

INSTANTIATE_TEST_SUITE_P(, FamilyGraph, ::testing::ValuesIn(qalof::testing::family_case_names()),
                         [](const auto& test) { return test.param; });

}  // namespace family_graph_test
}  // namespace qalof::train
