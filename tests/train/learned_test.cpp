// Learned quantizer values and merged adapters: the graph against the runtime (bits), gradients
// against autograd of the definitions in float64, and what training leaves behind.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "runtime/decoder.h"
#include "support/error_of.h"
#include "tensor_test_util.h"
#include "train/torch/kernel_functions.h"
#include "train/torch/parameters.h"
#include "train/trainer.h"
#include "train_test_util.h"
#include "weights/packed_file.h"

namespace qalof::train {
namespace learned_test {

using qalof::testing::tensor_values;

struct Case {
  const char* scheme;
  int bits;
  bool merged, steps, clip;
};
const Case kCases[] = {{"seed", 4, false, true, true},
                       {"seed", 2, false, true, false},
                       {"mse", 4, false, false, true},
                       {"seed", 4, true, false, false},
                       {"seed", 4, true, true, true},
                       {"g32", 4, true, true, false},
                       {"g32-asym+aasym+ag32+mse", 4, false, true, true},
                       {"g32-asym+aasym+ag32", 8, true, true, true}};
std::string name_of(const Case& test) {
  return fmt::format("{} at {}{}{}{}", test.scheme, test.bits, test.merged ? ", merged" : "",
                     test.steps ? ", steps" : "", test.clip ? ", clip" : "");
}

// One linear [out, in] = [24, 70] over 9 rows with the learned values of a case.
struct OneLinear {
  static constexpr std::int64_t kOut = 24, kIn = 70, kRank = 3, kRows = 9;
  static constexpr float kScaling = 2, kRate = 0.5F;

  explicit OneLinear(const Case& given) : test(given) {
    scheme = quant::parse_scheme(test.scheme, "test");
    weights = tensor_values("w", kOut * kIn, 0.5F);
    const weights::RowCodes codes =
        weights::quantize_weights(weights, kOut, kIn, test.bits, scheme.weights(), serial);
    auto begin = std::make_shared<QuantizerStart>();
    begin->bits = test.bits;
    begin->scheme = scheme;
    begin->rate = kRate;
    if (test.steps) {
      begin->values.steps = codes.scales;
      begin->values.zeros = codes.zeros;
    }
    start = begin;
    auto leaf = [](const char* name, std::vector<std::int64_t> shape, float scale) {
      const auto count = static_cast<std::size_t>(c10::multiply_integers(shape));
      return to_tensor(tensor_values(name, count, scale), shape).set_requires_grad(true);
    };
    x = leaf("x", {kRows, kIn}, 1.0F);
    a = leaf("a", {kRank, kIn}, 0.1F);
    b = leaf("b", {kOut, kRank}, 0.2F);
    const auto count = static_cast<std::int64_t>(codes.scales.size());
    // Smaller steps and clips, so that some elements lie outside.
    steps = (leaf("s", {count}, 0.5F).detach().abs().neg() - 0.2).set_requires_grad(true);
    clip = at::full({1}, -0.7F).set_requires_grad(true);
  }

  at::Tensor run() {
    const QuantizerParams quantizer{test.steps ? steps : at::Tensor(),
                                    test.clip ? clip : at::Tensor(), start};
    linear.own.values = quantizer.values();
    linear.own.start = start;
    linear.own.base = &weights;
    std::vector<float> floats = weights;
    if (test.merged) {
      weights::add_low_rank(a.const_data_ptr<float>(), b.const_data_ptr<float>(), kRank, kScaling,
                            kOut, kIn, floats.data(), serial);
    }
    const quant::Precision precision{{test.bits}, {test.bits}};
    owned =
        test.steps
            ? weights::pack_codes(weights::quantize_with_steps(floats, kOut, kIn, test.bits, scheme,
                                                               linear.own.values, serial),
                                  precision, serial)
            : weights::pack_weights(floats, kOut, kIn, precision, scheme.weights(), serial);
    linear.call.precision = precision;
    linear.call.weight = owned->view;
    linear.call.range = weights::activation_range(scheme);
    linear.call.range.clip = linear.own.values.clip;
    const std::vector<float> reals = weights::unpack_reals(owned->view, serial);
    backward.matrix = pack_right({reals.data(), kOut, kIn}, panels, serial);
    linear.backward = &backward;
    LinearArguments arguments;
    arguments.linear = &linear;
    arguments.lora_scaling = kScaling;
    arguments.merged = test.merged;
    arguments.resources = &resources;
    return LinearFunction::apply(x, a, b, no_tensor(), no_tensor(),
                                 test.steps ? steps : no_tensor(), test.clip ? clip : no_tensor(),
                                 arguments);
  }

  // The same in float64 by autograd alone.
  at::Tensor definition(const std::vector<at::Tensor>& leaves) const {
    const at::Tensor &x64 = leaves[0], &a64 = leaves[1], &b64 = leaves[2];
    const double levels = (1 << (test.bits - 1)) - 1;
    auto round = [](const at::Tensor& v) { return v + (v.round() - v).detach(); };
    // LSQ's gradient scale: the value stays, its gradient is g times.
    auto scaled = [](const at::Tensor& value, const at::Tensor& g) {
      return value * g + (value * (1 - g)).detach();
    };
    std::vector<at::Tensor> inputs;
    const std::int64_t x_group =
        scheme.activation_group == 0 ? kIn : static_cast<std::int64_t>(scheme.activation_group);
    const bool asymmetric = scheme.activation_asymmetric && test.bits < 8;
    for (std::int64_t first = 0; first < kIn; first += x_group) {
      const at::Tensor part = x64.slice(1, first, std::min(kIn, first + x_group));
      const at::Tensor g =
          at::full({1}, 1 / std::sqrt(static_cast<double>(part.size(1)) * levels), at::kDouble);
      const at::Tensor c =
          test.clip ? scaled(1 + kRate * leaves[4], g) : at::ones({1}, at::kDouble);
      const at::Tensor fixed = part.detach();
      at::Tensor low = fixed.amin(1, true).clamp_max(0), high = fixed.amax(1, true).clamp_min(0);
      if (!asymmetric) {
        high = fixed.abs().amax(1, true);
        low = -high;
      }
      const at::Tensor scale = asymmetric
                                   ? c * (high - low) / static_cast<double>((1 << test.bits) - 1)
                                   : c * high / levels;
      // The clamp stands at the bounds of x, codes at their rounding.
      const at::Tensor v = part / scale;
      const at::Tensor bottom = (c * low / scale).detach();
      const at::Tensor inside =
          fixed.ge((c * low).detach()).logical_and(fixed.le((c * high).detach()));
      const at::Tensor last = bottom.round() + (asymmetric ? (1 << test.bits) - 1 : 2 * levels);
      const at::Tensor code = v.detach().round().maximum(bottom.round()).minimum(last);
      inputs.push_back(at::where(inside, v + (code - v).detach(), code) * scale);
    }
    const at::Tensor xq = at::cat(inputs, 1);
    const at::Tensor w = to_tensor(weights, {kOut, kIn}).to(at::kDouble);
    const at::Tensor sum = test.merged ? w + kScaling * at::matmul(b64, a64) : w;
    at::Tensor wq;
    if (!test.steps) {
      // The codes are the quantizer's; the gradient passes everywhere.
      const at::Tensor reals =
          to_tensor(weights::unpack_reals(owned->view, serial), {kOut, kIn}).to(at::kDouble);
      wq = sum + (reals - sum).detach();
    } else {
      const std::int64_t group = scheme.group == 0 ? kIn : static_cast<std::int64_t>(scheme.group);
      const std::int64_t groups = (kIn + group - 1) / group;
      const at::Tensor begin = to_tensor(start->values.steps, {kOut, groups}).to(at::kDouble);
      const at::Tensor factor = 1 + kRate * leaves[3].view({kOut, groups});
      // Steps as they were rounded on the way to the codes.
      const at::Tensor rounded = to_tensor(linear.own.values.steps, {kOut, groups}).to(at::kDouble);
      at::Tensor zeros = at::zeros({kOut, groups}, at::kDouble);
      for (std::size_t i = 0; i < start->values.zeros.size(); ++i)
        zeros.view({-1})[static_cast<std::int64_t>(i)] = start->values.zeros[i];
      std::vector<at::Tensor> parts;
      for (std::int64_t g = 0; g < groups; ++g) {
        const at::Tensor part = sum.slice(1, g * group, std::min(kIn, (g + 1) * group));
        const at::Tensor scale =
            at::full({1}, 1 / std::sqrt(static_cast<double>(part.size(1)) * levels), at::kDouble);
        at::Tensor s = begin.slice(1, g, g + 1) * factor.slice(1, g, g + 1);
        s = scaled(s + (rounded.slice(1, g, g + 1) - s).detach(), scale);
        const at::Tensor zero = zeros.slice(1, g, g + 1);
        const double bottom = scheme.asymmetric ? std::max(-levels - 1, -127.0) : -levels;
        const at::Tensor v = part / s;
        parts.push_back(round(v.maximum(bottom - zero).minimum(levels - zero)) * s);
      }
      wq = at::cat(parts, 1);
    }
    at::Tensor y = at::matmul(xq, wq.t());
    if (!test.merged) y = y + kScaling * at::matmul(at::matmul(x64, a64.t()), b64.t());
    return y;
  }

  Case test;
  quant::QuantScheme scheme;
  mutable SerialFor serial;
  model::ModelConfig config;
  KernelResources resources{config, serial};
  std::vector<float> weights, panels;
  std::shared_ptr<const QuantizerStart> start;
  KernelLinear linear;
  BackwardWeights backward;
  std::unique_ptr<weights::OwnedMatrix> owned;
  at::Tensor x, a, b, steps, clip;
};

TEST(LearnedLinear, GradientsEqualAutogradOfTheDefinition) {
  at::set_num_threads(1);
  for (const Case& test : kCases) {
    SCOPED_TRACE(name_of(test));
    OneLinear one(test);
    const at::Tensor direction =
        to_tensor(tensor_values("dy", OneLinear::kRows * OneLinear::kOut, 1.0F),
                  {OneLinear::kRows, OneLinear::kOut});
    const at::Tensor y = one.run();
    (y * direction).sum().backward();
    const std::vector<at::Tensor> leaves = {one.x, one.a, one.b, one.steps, one.clip};
    std::vector<at::Tensor> doubles;
    for (const at::Tensor& leaf : leaves)
      doubles.push_back(leaf.detach().to(at::kDouble).set_requires_grad(true));
    const at::Tensor expected = one.definition(doubles);
    // Sums of 70 products in f32, and the 1e-6 of scheme seed.
    EXPECT_LT(relative_error(y, expected), 1e-5);
    (expected * direction).sum().backward();
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      const bool is_used = i < 3 || (i == 3 && test.steps) || (i == 4 && test.clip);
      ASSERT_EQ(leaves[i].grad().defined(), is_used) << i;
      if (!is_used) continue;
      EXPECT_GT(doubles[i].grad().abs().max().item<double>(), 0) << i;
      EXPECT_LT(relative_error(leaves[i].grad(), doubles[i].grad()), 3e-5) << i;
    }
  }
}

class LearnedTraining : public ::testing::TestWithParam<Family> {
 protected:
  LearnedTraining() : base_(tiny_base(GetParam())) {}

  static TrainOptions options_of(Method method, const char* scheme, bool merged, LearnSteps learn) {
    TrainOptions options;
    options.method = method;
    options.scheme = quant::parse_scheme(scheme, "test");
    options.schedule.max_steps = 4;
    options.schedule.warmup_steps = 0;
    options.schedule.batch_size = 4;
    options.adapters.lora_r = 3;
    options.schedule.learning_rate = 2e-2;
    options.threads = 2;
    options.quantizers.learn_steps = learn;
    options.quantizers.learn_steps_rate = 0.5;
    if (merged) options.adapters.adapter_form = AdapterForm::kMerged;
    return options;
  }

  std::shared_ptr<const weights::BaseModel> base_;
};

INSTANTIATE_TEST_SUITE_P(Families, LearnedTraining,
                         ::testing::Values(Family::kGpt2, Family::kLlama), family_name);

// What a run hands out, put into the graph again and into the runtime, gives the same bits.
TEST_P(LearnedTraining, GraphRuntimeAndPackedFileHaveTheSameBits) {
  const qalof::testing::TempDir dir;
  ThreadPool pool(2);
  PackedBatch batch;
  for (const Example& example : tiny_examples(5)) batch.add(example);
  for (const bool merged : {false, true}) {
    for (const char* scheme :
         {"seed", "g32-asym+aasym+ag32+mse", "g32-asym+aasym+ag32+mse+rot", "rot-heads"}) {
      if (merged && quant::parse_scheme(scheme, "test").is_rotated()) continue;  // refused
      SCOPED_TRACE(fmt::format("{} {}", scheme, merged));
      TrainOptions options = options_of(Method::kJoint, scheme, merged, LearnSteps::kAll);
      options.widths.bit_widths = {16, 8, 4};
      // The parameters of the last step, and what is handed out after it.
      const Phase phase = make_phases(options, base_->target()).front();
      PhaseParameters params(*base_, options, phase, {}, at::kCPU, pool);
      at::NoGradGuard no_grad;
      params.flat().values().add_(
          0.1 *
          to_tensor(tensor_values("moved", static_cast<std::size_t>(params.flat().values().numel()),
                                  1.0F),
                    {params.flat().values().numel()}));
      params.project();
      TrainedWeights weights;
      params.export_to(*base_, weights);
      const auto adapters = make_adapter_set(weights);
      const auto graph = make_kernel_graph(base_, nullptr, pool);
      weights::write_packed_file(
          dir.file("packed"), {base_, adapters, {8, 4}, std::nullopt, "", options.scheme, {}, ""},
          pool);
      const weights::PackedModel packed = weights::open_packed_file(dir.file("packed"));
      for (const Network& network : phase.networks) {
        const at::Tensor found =
            graph->hidden(batch, GraphPlan(network.plan, 0), params.view(network));
        const auto expected =
            runtime_hidden(*runtime::Execution::create(base_, network.plan, adapters, pool), batch);
        EXPECT_TRUE(same_bytes(to_vector(found), expected)) << network.name;
        if (network.head_width > 8) continue;
        EXPECT_EQ(weights.adapters.at(network.head_width)->learned.has_value(), true);
        const auto mapped = runtime_hidden(
            *runtime::Execution::create(packed.base, network.plan, packed.adapters, pool), batch);
        EXPECT_TRUE(same_bytes(mapped, expected)) << network.name;
      }
      EXPECT_FALSE(weights.adapters.at(16)->learned);
    }
  }
}

TEST_P(LearnedTraining, LossFallsAndValuesMoveWithinTheirBounds) {
  for (const Method method : {Method::kSwitch, Method::kJoint, Method::kRandom}) {
    for (const char* form : {"separate", "merged", "rotated"}) {
      SCOPED_TRACE(fmt::format("{} {}", to_string(method), form));
      const bool merged = std::string(form) == "merged";
      const char* scheme = std::string(form) == "rotated" ? "rot" : "seed";
      TrainOptions options = options_of(method, scheme, merged, LearnSteps::kAll);
      options.widths.bit_widths = {8, 4};
      options.schedule.max_steps = 30;
      const auto examples = tiny_examples(4);
      const TrainResult result = train(base_, options, examples, {});
      const auto& steps = result.phases.front().steps;
      EXPECT_LT(steps.back().loss, 0.8 * steps.front().loss);
      for (const auto& [width, adapter] : result.weights.adapters) {
        ASSERT_TRUE(adapter->learned);
        std::size_t moved = 0, clipped = 0;
        for (std::size_t i = 0; i < adapter->learned->linears.size(); ++i) {
          ThreadPool pool(1);
          const weights::LearnedLinear& values = adapter->learned->linears[i];
          const auto start = quantizer_start(*base_, i, width, options, pool);
          for (std::size_t j = 0; j < values.steps.size(); ++j) {
            const float factor = values.steps[j] / start->values.steps[j];
            EXPECT_TRUE(factor >= 0.249F && factor <= 4.01F) << factor;
            moved += factor == 1.0F ? 0 : 1;
          }
          EXPECT_TRUE(values.clip > 0.06F && values.clip <= 1.0F) << values.clip;
          clipped += values.clip < 1.0F ? 1 : 0;
        }
        EXPECT_GT(moved, 0U);
        EXPECT_GT(clipped, 0U);
      }
    }
  }
}

// A width that the adapter of another serves trains that adapter's pairs, not its quantizer values.
TEST_P(LearnedTraining, WidthsWithoutValuesTrainNone) {
  TrainOptions options = options_of(Method::kCpt, "seed", false, LearnSteps::kWeights);
  options.widths.bit_widths = {8};
  options.widths.num_cyclic_period = 1;
  const Phase phase = make_phases(options, base_->target()).front();
  ThreadPool pool(1);
  const PhaseParameters params(*base_, options, phase, {}, at::kCPU, pool);
  const auto groups_at = [&](int bits) {
    for (const Network& network : phase.networks) {
      if (network.head_width == bits) return params.groups(network).size();
    }
    return std::size_t{0};
  };
  const std::size_t linears = base_->linears().size();
  EXPECT_EQ(groups_at(8), 2 * linears + 1);
  EXPECT_EQ(groups_at(4), linears + 1);  // the pairs of 8 bits alone
}

TEST(LearnedOptions, ContradictionsAreRefused) {
  const auto base = tiny_base();
  const auto message_of = [&](const auto& change) {
    TrainOptions options;
    options.method = Method::kSwitch;
    options.quantizers.learn_steps = LearnSteps::kAll;
    change(options);
    return qalof::testing::error_of([&] { check_options(options, base->target()); }).message;
  };
  EXPECT_NE(message_of([](auto& o) { o.method = Method::kLora; }).find("--learn_steps"),
            std::string::npos);
  EXPECT_NE(message_of([](auto& o) { o.quantizers.ste_clip = 2; }).find("--ste_clip 2"),
            std::string::npos);
  EXPECT_NE(message_of([](auto& o) { o.device = Device::kCuda; }).find("cpu alone"),
            std::string::npos);
  EXPECT_NE(
      message_of([](auto& o) { o.quantizers.learn_steps_rate = 0; }).find("--learn_steps_rate"),
      std::string::npos);
  EXPECT_NE(message_of([](auto& o) {
              o.method = Method::kFull;
              o.quantizers.learn_steps = LearnSteps::kNone;
              o.adapters.adapter_form = AdapterForm::kMerged;
            }).find("--adapter_form merged"),
            std::string::npos);
}

}  // namespace learned_test
}  // namespace qalof::train
