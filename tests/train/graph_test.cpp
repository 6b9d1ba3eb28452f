// The kernel graph against the runtime (bits), against ATen's autograd (gradients), and the ATen
// graph against numeric derivatives.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "runtime/decoder.h"
#include "tensor_test_util.h"
#include "train/torch/loss.h"
#include "train/torch/optimizer.h"
#include "train_test_util.h"

namespace qalof::train {
namespace graph_test {

// f32 against f32 through two layers in another order of sums, relative to the largest element.
constexpr double kFloatTolerance = 1e-4;

struct Network {
  std::map<int, AdapterParams> adapters;
  HeadParams head;

  NetworkView view(const quant::PrecisionPlan& plan) const {
    NetworkView result;
    result.lora_scaling = 2;
    result.head = head;
    if (adapters.empty()) return result;
    for (const quant::Precision& precision : plan.linears) {
      result.lora.push_back(adapters.at(precision.weight.bits).linears[result.lora.size()]);
    }
    return result;
  }
  std::vector<at::Tensor> leaves() const {
    std::vector<at::Tensor> all = {head.weight, head.bias};
    for (const auto& [width, adapter] : adapters) {
      for (const LoraParams& lora : adapter.linears) {
        all.push_back(lora.a);
        all.push_back(lora.b);
      }
    }
    return all;
  }
};

std::shared_ptr<const weights::BaseModel> exact_gelu_base() {
  const qalof::testing::TempDir dir;
  Json config = qalof::testing::tiny_config();
  config["activation_function"] = "gelu";
  qalof::testing::write_model(dir.path(), config);
  return weights::BaseModel::load_directory(dir.path());
}

struct Kind {
  const char* name;
  std::shared_ptr<const weights::BaseModel> (*base)();
};
constexpr Kind kKinds[] = {{"Gpt2", [] { return tiny_base(Family::kGpt2); }},
                           {"Gpt2WithTheExactGelu", exact_gelu_base},
                           {"Llama", [] { return tiny_base(Family::kLlama); }}};

// Each test runs for both families and every activation.
class GraphTest : public ::testing::TestWithParam<Kind> {
 protected:
  GraphTest() : base_(GetParam().base()), pool_(2) {
    at::set_num_threads(1);
    for (const Example& example : tiny_examples(5)) batch_.add(example);
  }

  // Random pairs (B not zero) and a head, requiring gradients.
  Network network(const std::vector<int>& widths, at::ScalarType dtype = at::kFloat) const {
    Network net;
    auto leaf = [&](const std::string& name, std::vector<std::int64_t> shape, float scale) {
      const auto count = static_cast<std::size_t>(c10::multiply_integers(shape));
      return to_tensor(qalof::testing::tensor_values(name, count, scale), shape)
          .to(dtype)
          .set_requires_grad(true);
    };
    for (const int width : widths) {
      for (const model::LinearSpec& spec : base_->linears()) {
        const auto in = static_cast<std::int64_t>(spec.in),
                   out = static_cast<std::int64_t>(spec.out);
        const std::string name = fmt::format("{}.{}", spec.name, width);
        net.adapters[width].linears.push_back(
            {leaf(name + "a", {3, in}, 0.1F), leaf(name + "b", {out, 3}, 0.1F)});
      }
    }
    const auto hidden = static_cast<std::int64_t>(base_->config().hidden);
    net.head = {leaf("head", {2, hidden}, 0.3F), leaf("bias", {2}, 0.3F)};
    return net;
  }

  std::shared_ptr<const weights::AdapterSet> exported(const Network& net) const {
    TrainOptions options;
    options.adapters.lora_r = 3;
    options.adapters.lora_alpha = 6;
    auto set = std::make_shared<weights::AdapterSet>();
    for (const auto& [width, adapter] : net.adapters) {
      AdapterParams params = adapter;
      params.head = net.head;
      set->by_width[width] = export_adapter(params, *base_, options);
    }
    return set;
  }

  std::vector<float> runtime_hidden(const runtime::Execution& execution) const {
    return train::runtime_hidden(execution, batch_);
  }

  at::Tensor span_loss_on(Graph& graph, const GraphPlan& plan, const NetworkView& view) const {
    LossParts parts;
    return compute_span_loss(graph.head_logits(graph.hidden(batch_, plan, view), view.head), {},
                             batch_, Distillation{}, 5, &parts);
  }

  std::shared_ptr<const weights::BaseModel> base_;
  ThreadPool pool_;
  PackedBatch batch_;
};

INSTANTIATE_TEST_SUITE_P(Families, GraphTest, ::testing::ValuesIn(kKinds),
                         [](const auto& test) { return std::string(test.param.name); });

std::vector<at::Tensor> take_gradients(const std::vector<at::Tensor>& leaves) {
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& leaf : leaves) {
    gradients.push_back(leaf.grad().defined() ? leaf.grad().clone() : at::zeros_like(leaf));
    leaf.mutable_grad() = at::Tensor();
  }
  return gradients;
}

TEST_P(GraphTest, KernelGraphHasTheRuntimesBitsAtEveryPlan) {
  const Network net = network({32, 16, 8, 4});
  const auto set = exported(net);
  const auto graph = make_kernel_graph(base_, nullptr, pool_);
  std::vector<quant::PrecisionPlan> plans = {mixed_plan(*base_)};
  for (const char* text : {"32", "16", "8", "4", "w4a8kv4", "w8a16kv16", "w4a32kv32"}) {
    plans.push_back(plan_of(text, *base_));
  }
  for (const char* text : {"8", "w4a8kv4", "w4a32kv32"}) {
    for (const bool asymmetric : {false, true}) {
      plans.push_back(plan_of(text, *base_));
      plans.back().scheme = {32, asymmetric};
    }
  }
  for (const char* scheme : {"aasym", "mse", "g32+ag32", "g32-asym+aasym+ag32+mse"}) {
    for (const char* text : {"8", "4", "w4a8kv4", "w4a32kv32"}) {
      plans.push_back(plan_of(text, *base_));
      plans.back().scheme = quant::parse_scheme(scheme, "test");
    }
  }
  for (const quant::PrecisionPlan& plan : plans) {
    SCOPED_TRACE(quant::describe(plan, base_->target()));
    const auto execution = runtime::Execution::create(base_, plan, set, pool_);
    const std::vector<float> expected = runtime_hidden(*execution);
    const GraphPlan graph_plan(plan, /*clip=*/0);
    const at::Tensor hidden = graph->hidden(batch_, graph_plan, net.view(plan));
    EXPECT_TRUE(same_bytes(to_vector(hidden), expected));
    const std::size_t rows = batch_.tokens();
    std::vector<float> logits(rows * 2);
    runtime::apply_head(*execution->head(weights::HeadKind::kSpan), expected.data(), rows,
                        base_->config().hidden, logits.data(), pool_);
    EXPECT_TRUE(same_bytes(to_vector(graph->head_logits(hidden, net.head)), logits));
    std::vector<float> lm(rows * 97);
    runtime::lm_logits(*execution, expected.data(), rows, lm.data(), pool_);
    EXPECT_TRUE(same_bytes(to_vector(graph->lm_logits(hidden.detach(), graph_plan)), lm));
  }
}

TEST_P(GraphTest, TrainableBaseHasTheRuntimesBits) {
  FlatParameters flat;
  const TrainableBase trainable(*base_, flat);
  flat.build(at::kCPU);
  const BaseParams params = trainable.bind(flat);
  const auto graph = make_kernel_graph(base_, &params, pool_);
  const auto copy =
      make_base(*base_, export_base(params, {}, base_->config(), weights::HeadKind::kSpan));
  for (const char* text : {"32", "16", "8"}) {
    const quant::PrecisionPlan plan = plan_of(text, *base_);
    const at::Tensor hidden = graph->hidden(batch_, GraphPlan(plan, 0), {});
    for (const auto& base : {base_, copy}) {
      const auto execution = runtime::Execution::create(base, plan, nullptr, pool_);
      EXPECT_TRUE(same_bytes(to_vector(hidden), runtime_hidden(*execution))) << text;
    }
  }
}

TEST_P(GraphTest, FreshAdaptersChangeNothing) {
  const auto graph = make_kernel_graph(base_, nullptr, pool_);
  Network net = network({32});
  for (LoraParams& lora : net.adapters[32].linears) lora.b = at::zeros_like(lora.b);
  const quant::PrecisionPlan plan = plan_of("32", *base_);
  const GraphPlan graph_plan(plan, 0);
  EXPECT_TRUE(same_bytes(to_vector(graph->hidden(batch_, graph_plan, net.view(plan))),
                         to_vector(graph->hidden(batch_, graph_plan, {}))));
}

TEST_P(GraphTest, AtenGraphAgreesAt32BitsInValueAndGradient) {
  const auto kernel = make_kernel_graph(base_, nullptr, pool_);
  const auto aten = make_aten_graph(base_->config(), load_base_params(*base_, at::kCPU));
  const Network net = network({32});
  const quant::PrecisionPlan plan = plan_of("32", *base_);
  const GraphPlan graph_plan(plan, 0);
  EXPECT_LE(relative_error(kernel->hidden(batch_, graph_plan, net.view(plan)),
                           aten->hidden(batch_, graph_plan, net.view(plan))),
            kFloatTolerance);
  const std::vector<at::Tensor> leaves = net.leaves();
  span_loss_on(*kernel, graph_plan, net.view(plan)).backward();
  const auto found = take_gradients(leaves);
  span_loss_on(*aten, graph_plan, net.view(plan)).backward();
  const auto expected = take_gradients(leaves);
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    if (leaves[i].is_same(net.head.bias)) {
      // A softmax does not see a shift: the sum over a window is 0 but for rounding.
      EXPECT_LE(found[i].abs().max().item<double>(), 1e-6);
      continue;
    }
    EXPECT_GT(expected[i].abs().max().item<double>(), 0) << i;
    EXPECT_LE(relative_error(found[i], expected[i]), kFloatTolerance) << i;
  }
}

TEST_P(GraphTest, GradientsOfFewerBitsAreThoseOfF32UpToTheirRounding) {
  for (const char* text : {"8", "4"}) {
    const quant::PrecisionPlan plan = plan_of(text, *base_);
    const Network net = network({plan.default_width.bits});
    const GraphPlan graph_plan(plan, 0);
    const std::vector<at::Tensor> leaves = net.leaves();
    const auto gradients = [&](GradientPrecision precision) {
      const auto graph = make_kernel_graph(base_, nullptr, pool_, precision);
      span_loss_on(*graph, graph_plan, net.view(plan)).backward();
      return take_gradients(leaves);
    };
    const auto exact = gradients({32, 0}), half = gradients({16, 0}), eight = gradients({8, 1}),
               again = gradients({8, 1}), other = gradients({8, 2});
    bool some_differ = false;
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      if (leaves[i].is_same(net.head.bias)) continue;
      // bf16 keeps 8 bits of every dy, 8 bits keep one 127th of a row's largest.
      EXPECT_LE(relative_error(half[i], exact[i]), 0.02) << text << " " << i;
      EXPECT_LE(relative_error(eight[i], exact[i]), 0.25) << text << " " << i;
      EXPECT_TRUE(at::equal(eight[i], again[i])) << text << " " << i;
      some_differ = some_differ || !at::equal(eight[i], other[i]);
    }
    EXPECT_TRUE(some_differ) << text;
  }
}

TEST_P(GraphTest, GradientsOfEveryBaseTensorAgreeWithAten) {
  FlatParameters flat;
  const TrainableBase trainable(*base_, flat);
  flat.build(at::kCPU);
  const BaseParams params = trainable.bind(flat);
  PackedBatch batch;
  for (const Example& example : tiny_examples(5, /*shortest=*/2)) batch.add(example);
  const auto kernel = make_kernel_graph(base_, &params, pool_);
  const auto aten = make_aten_graph(base_->config(), params);
  const GraphPlan plan(plan_of("32", *base_), 0);
  std::vector<at::Tensor> gradients;
  std::vector<double> losses;
  for (Graph* graph : {kernel.get(), aten.get()}) {
    flat.gradients().zero_();
    LmLossInputs inputs;
    inputs.graph = graph;
    inputs.plan = &plan;
    inputs.batch = &batch;
    inputs.normalizer = static_cast<double>(batch.tokens() - batch.windows());
    LossParts parts;
    compute_lm_loss(graph->hidden(batch, plan, {}), inputs, &parts).backward();
    losses.push_back(parts.total);
    gradients.push_back(flat.gradients().clone());
  }
  EXPECT_NEAR(losses[0], losses[1], 1e-5 * losses[1]);
  EXPECT_LE(relative_error(gradients[0], gradients[1]), kFloatTolerance);
  // Tensor by tensor too: a small one must not hide behind a large one.
  auto slices = [&](const at::Tensor& all) {
    std::vector<at::Tensor> parts;
    std::int64_t first = 0;
    const auto add = [&](std::size_t count) {
      const auto size = static_cast<std::int64_t>(count);
      parts.push_back(all.narrow(0, first, size));
      first += size;
    };
    for (const model::TensorSpec& spec : model::embedding_tensors(base_->config()))
      add(spec.shape[0] * spec.shape[1]);
    for (const model::LinearSpec& spec : base_->linears()) add(spec.in * spec.out);
    EXPECT_EQ(first, flat.num_decayed());
    parts.push_back(all.narrow(0, flat.num_decayed(), all.numel() - flat.num_decayed()));
    return parts;
  };
  const auto found = slices(gradients[0]), expected = slices(gradients[1]);
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_LE(relative_error(found[i], expected[i]), kFloatTolerance) << i;
  }
}

TEST_P(GraphTest, AtenGradientsAreThoseOfNumericDifferencesInFloat64) {
  const auto graph =
      make_aten_graph(base_->config(), load_base_params(*base_, at::kCPU, at::kDouble));
  const Network net = network({32}, at::kDouble);
  const quant::PrecisionPlan plan = plan_of("32", *base_);
  const GraphPlan graph_plan(plan, 0);
  // Cross entropy in float64 of ATen itself: the project's span loss reads f32 logits.
  auto loss = [&] {
    const at::Tensor logits =
        graph->head_logits(graph->hidden(batch_, graph_plan, net.view(plan)), net.head);
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (std::size_t w = 0; w < batch_.windows(); ++w) {
      const auto first = static_cast<std::int64_t>(batch_.offsets[w]);
      const auto last = static_cast<std::int64_t>(batch_.offsets[w + 1]);
      const at::Tensor log_p = at::log_softmax(logits.narrow(0, first, last - first), 0);
      sum = sum - log_p[batch_.starts[w]][0] - log_p[batch_.ends[w]][1];
    }
    return sum;
  };
  loss().backward();
  const std::vector<at::Tensor> leaves = net.leaves();
  const auto gradients = take_gradients(leaves);
  const at::NoGradGuard no_grad;
  constexpr double kStep = 1e-5;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    double* values = leaves[i].mutable_data_ptr<double>();
    for (std::int64_t j = 0; j < leaves[i].numel(); j += 1 + leaves[i].numel() / 3) {
      const double kept = values[j];
      values[j] = kept + kStep;
      const double above = loss().item<double>();
      values[j] = kept - kStep;
      const double below = loss().item<double>();
      values[j] = kept;
      const double numeric = (above - below) / (2 * kStep);
      const double found = gradients[i].const_data_ptr<double>()[j];
      EXPECT_NEAR(found, numeric, 1e-6 * std::max(1.0, std::abs(numeric))) << i << " " << j;
    }
  }
}

// One linear alone, where the rule can be written down: dx = m * (dy W_q) + c (dy B) A.
TEST_P(GraphTest, StraightThroughIsItsDefinition) {
  PackedBatch one;  // a single token: attention is the identity on its own V
  one.add({{5}, 0, 0});
  for (const char* text : {"8", "4"}) {
    for (const double clip : {0.0, 2.0}) {
      SCOPED_TRACE(fmt::format("plan {}, clip {}", text, clip));
      const quant::PrecisionPlan plan = plan_of(text, *base_);
      const GraphPlan graph_plan(plan, clip);
      const int width = plan.default_width.bits;
      const Network net = network({width});
      const auto kernel = make_kernel_graph(base_, nullptr, pool_);
      const auto aten = make_aten_graph(base_->config(), load_base_params(*base_, at::kCPU));
      const std::vector<at::Tensor> leaves = net.leaves();
      std::vector<std::vector<at::Tensor>> gradients;
      for (Graph* graph : {kernel.get(), aten.get()}) {
        graph->head_logits(graph->hidden(one, graph_plan, net.view(plan)), net.head)
            .select(1, 0)
            .sum()
            .backward();
        gradients.push_back(take_gradients(leaves));
      }
      // The last linear's A and B do not depend on any straight-through step, the first ones on
      // all. A single token attends to itself whatever its q and k are: where they are linears of
      // their own, their gradients are 0 but for rounding, which may differ.
      double largest = 0;
      for (const at::Tensor& gradient : gradients[1])
        largest = std::max(largest, gradient.abs().max().item<double>());
      for (std::size_t i = 0; i < leaves.size(); ++i) {
        const double scale = gradients[1][i].abs().max().item<double>();
        if (scale < 1e-6 * largest) {
          EXPECT_LE(gradients[0][i].abs().max().item<double>(), 1e-6 * largest) << i;
          continue;
        }
        EXPECT_LE(relative_error(gradients[0][i], gradients[1][i]), 1e-3) << i;
      }
    }
  }
}

TEST_P(GraphTest, ClipStopsTheGradientOfLargeInputs) {
  const quant::PrecisionPlan plan = plan_of("8", *base_);
  const Network net = network({8});
  const auto graph = make_kernel_graph(base_, nullptr, pool_);
  std::vector<std::vector<at::Tensor>> gradients;
  for (const double clip : {0.0, 2.0}) {
    span_loss_on(*graph, GraphPlan(plan, clip), net.view(plan)).backward();
    gradients.push_back(take_gradients(net.leaves()));
  }
  double difference = 0;
  for (std::size_t i = 0; i < gradients[0].size(); ++i) {
    difference += (gradients[0][i] - gradients[1][i]).abs().sum().item<double>();
  }
  EXPECT_GT(difference, 1e-4);
}

TEST_P(GraphTest, QuantizedPlansAgreeWithAtenInDivergence) {
  const auto kernel = make_kernel_graph(base_, nullptr, pool_);
  const auto aten = make_aten_graph(base_, at::kCPU, pool_);
  const Network net = network({8, 4});
  const GraphPlan unrounded(plan_of("32", *base_), 0);
  const at::NoGradGuard no_grad;
  for (const char* scheme : {"seed", "g32", "g32-asym+mse", "aasym", "g32-asym+aasym+ag32+mse"}) {
    for (const char* text : {"8", "4", "w4a16"}) {
      quant::PrecisionPlan plan = plan_of(text, *base_);
      plan.scheme = quant::parse_scheme(scheme, "test");
      const auto logits = [&](Graph& graph, const GraphPlan& graph_plan) {
        return graph.lm_logits(graph.hidden(batch_, graph_plan, net.view(plan)), graph_plan);
      };
      const GraphPlan graph_plan(plan, 0);
      const at::Tensor found = logits(*kernel, graph_plan);
      EXPECT_LE(median_divergence(found, logits(*aten, graph_plan)),
                kShareOfLoss * median_divergence(logits(*kernel, unrounded), found))
          << scheme << " " << text;
    }
  }
}

TEST_P(GraphTest, AtenNeedsTheRuntimesCodesForGroups) {
  const auto aten = make_aten_graph(base_->config(), load_base_params(*base_, at::kCPU));
  quant::PrecisionPlan plan = plan_of("4", *base_);
  plan.scheme = quant::parse_scheme("g32", "test");
  EXPECT_THROW(aten->hidden(batch_, GraphPlan(plan, 0), network({4}).view(plan)), Error);
}

TEST_P(GraphTest, FrozenBaseHasNoGradient) {
  const Network net = network({8});
  const BaseParams frozen = load_base_params(*base_, at::kCPU);
  const auto aten = make_aten_graph(base_->config(), frozen);
  const auto kernel = make_kernel_graph(base_, nullptr, pool_);
  const quant::PrecisionPlan plan = plan_of("8", *base_);
  const std::vector<float> before = base_->source().linear_f32(0);
  span_loss_on(*aten, GraphPlan(plan, 0), net.view(plan)).backward();
  span_loss_on(*kernel, GraphPlan(plan, 0), net.view(plan)).backward();
  for (const at::Tensor& weight : frozen.weights) EXPECT_FALSE(weight.grad().defined());
  EXPECT_FALSE(frozen.wte.grad().defined());
  EXPECT_FALSE(kernel->lm_head_parameter().defined());
  EXPECT_TRUE(same_bytes(before, base_->source().linear_f32(0)));
}

TEST_P(GraphTest, SpanLossIsThatOfAtenWithAndWithoutATeacher) {
  for (const bool with_teacher : {false, true}) {
    const auto rows = static_cast<std::int64_t>(batch_.tokens());
    at::Tensor logits =
        to_tensor(qalof::testing::tensor_values("z", batch_.tokens() * 2, 2.0F), {rows, 2})
            .set_requires_grad(true);
    const at::Tensor teacher =
        to_tensor(qalof::testing::tensor_values("t", batch_.tokens() * 2, 2.0F), {rows, 2});
    const double alpha = with_teacher ? 0.3 : 0.0, temperature = 2.5;
    LossParts parts;
    const std::vector<at::Tensor> teachers(with_teacher ? 1 : 0, teacher);
    compute_span_loss(logits, teachers, batch_, {0.3, temperature}, 7, &parts).backward();
    const at::Tensor found = logits.grad().clone();
    logits.mutable_grad() = at::Tensor();
    at::Tensor total = at::zeros({}, at::kDouble);
    for (std::size_t w = 0; w < batch_.windows(); ++w) {
      const auto first = static_cast<std::int64_t>(batch_.offsets[w]);
      const auto length = static_cast<std::int64_t>(batch_.offsets[w + 1]) - first;
      const at::Tensor z = logits.narrow(0, first, length).to(at::kDouble);
      const at::Tensor log_p = at::log_softmax(z, 0);
      total = total - (1 - alpha) * 0.5 * (log_p[batch_.starts[w]][0] + log_p[batch_.ends[w]][1]);
      if (!with_teacher) continue;
      const at::Tensor log_t =
          at::log_softmax(teacher.narrow(0, first, length).to(at::kDouble) / temperature, 0);
      const at::Tensor log_s = at::log_softmax(z / temperature, 0);
      total =
          total + alpha * 0.5 * temperature * temperature * (log_t.exp() * (log_t - log_s)).sum();
    }
    total = total / 7;
    EXPECT_NEAR(parts.total, total.item<double>(), 1e-9);
    total.backward();
    EXPECT_LE(relative_error(found, logits.grad()), 1e-6);
  }
}

TEST_P(GraphTest, LmDistillationIsThatOfAten) {
  const auto graph = make_aten_graph(base_->config(), load_base_params(*base_, at::kCPU));
  PackedBatch batch;
  for (const Example& example : tiny_examples(5, /*shortest=*/2)) batch.add(example);
  const std::size_t width = base_->config().hidden;
  const auto rows = static_cast<std::int64_t>(batch.tokens()),
             cols = static_cast<std::int64_t>(width);
  at::Tensor hidden =
      to_tensor(qalof::testing::tensor_values("h", batch.tokens() * width, 1.0F), {rows, cols})
          .set_requires_grad(true);
  const at::Tensor teacher =
      to_tensor(qalof::testing::tensor_values("t", batch.tokens() * width, 1.0F), {rows, cols});
  const GraphPlan plan(plan_of("32", *base_), 0);
  LmLossInputs inputs;
  inputs.graph = graph.get();
  inputs.plan = &plan;
  inputs.batch = &batch;
  inputs.teachers = {{teacher, graph.get(), &plan}};
  inputs.distillation = {0.4, 2.0};
  inputs.normalizer = 11;
  LossParts parts;
  compute_lm_loss(hidden, inputs, &parts).backward();
  const at::Tensor found = hidden.grad().clone();
  hidden.mutable_grad() = at::Tensor();
  const at::Tensor wte = load_base_params(*base_, at::kCPU).wte.to(at::kDouble);
  const at::Tensor z = hidden.to(at::kDouble).mm(wte.t()), zt = teacher.to(at::kDouble).mm(wte.t());
  at::Tensor total = at::zeros({}, at::kDouble);
  for (std::size_t w = 0; w < batch.windows(); ++w) {
    for (std::size_t row = batch.offsets[w]; row + 1 < batch.offsets[w + 1]; ++row) {
      const auto r = static_cast<std::int64_t>(row);
      const at::Tensor log_t = at::log_softmax(zt[r] / 2.0, 0),
                       log_s = at::log_softmax(z[r] / 2.0, 0);
      total = total - 0.6 * at::log_softmax(z[r], 0)[batch.ids[row + 1]] +
              0.4 * 4.0 * (log_t.exp() * (log_t - log_s)).sum();
    }
  }
  total = total / 11;
  EXPECT_NEAR(parts.total, total.item<double>(), 1e-5 * parts.total);
  total.backward();
  EXPECT_LE(relative_error(found, hidden.grad()), 1e-5);
}

TEST(AdamW, FollowsHandComputedValues) {
  FlatParameters flat;
  flat.add({1}, {1.0F});     // a bias: no decay
  flat.add({1, 1}, {2.0F});  // a matrix
  flat.build(at::kCPU);
  AdamWOptions options;
  options.weight_decay = 0.1;
  AdamW optimizer(flat, options);
  const std::vector<std::size_t> groups = {0};
  // Step 1 with gradient g moves by lr * g / (|g| + eps): lr, whatever the size of g.
  flat.gradients().copy_(at::tensor({4.0F, 0.5F}));  // matrix first
  optimizer.step(0.1, groups);
  EXPECT_NEAR(flat.parameter(1).item<float>(), 2.0 * (1 - 0.1 * 0.1) - 0.1, 1e-6);
  EXPECT_NEAR(flat.parameter(0).item<float>(), 1.0 - 0.1, 1e-6);
  // Step 2, by hand for the bias: m = 0.9*0.05 + 0.1*(-1), v = 0.999*0.00025 + 0.001*1.
  flat.gradients().copy_(at::tensor({0.0F, -1.0F}));
  optimizer.step(0.1, groups);
  const double m = (0.9 * 0.05 - 0.1) / (1 - 0.81), v = (0.999 * 0.00025 + 0.001) / (1 - 0.998001);
  EXPECT_NEAR(flat.parameter(0).item<float>(), 0.9 - 0.1 * m / (std::sqrt(v) + 1e-8), 1e-6);
}

TEST(ClipGradients, ScalesToTheNormAndLeavesWhatIsSmallOrNotFinite) {
  at::Tensor gradients = at::tensor({3.0F, 4.0F});
  EXPECT_NEAR(clip_gradients(gradients, 1.0), 5.0, 1e-12);
  EXPECT_NEAR(gradients[1].item<float>(), 0.8, 1e-6);
  EXPECT_NEAR(clip_gradients(gradients, 2.0), 1.0, 1e-6);
  EXPECT_NEAR(gradients[1].item<float>(), 0.8, 1e-6);
  EXPECT_NEAR(clip_gradients(gradients, 0.0), 1.0, 1e-6);
  gradients[0] = NAN;
  EXPECT_FALSE(std::isfinite(clip_gradients(gradients, 1.0)));
  EXPECT_NEAR(gradients[1].item<float>(), 0.8, 1e-6);
}

}  // namespace graph_test
}  // namespace qalof::train
