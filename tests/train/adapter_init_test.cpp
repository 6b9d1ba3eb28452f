// Initial values of adapters: the truncated SVD against the exact one, and what is left of the
// quantization error.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "support/error_of.h"
#include "train/adapter_form.h"
#include "train/torch/graph.h"
#include "train/torch/parameters.h"
#include "train/trainer.h"
#include "train_test_util.h"
#include "weights/weight_packing.h"

namespace qalof::train {
namespace adapter_init_test {

at::Tensor random_matrix(const std::string& name, std::int64_t rows, std::int64_t cols) {
  return to_tensor(qalof::testing::tensor_values(name, static_cast<std::size_t>(rows * cols), 1.0F),
                   {rows, cols});
}

double energy(const at::Tensor& x) { return x.to(at::kDouble).square().sum().item<double>(); }

TEST(TruncatedSvd, HoldsWhatTheExactOneHolds) {
  at::set_num_threads(1);
  const RandomStream stream(7, "svd");
  for (const auto& [rows, cols] : {std::pair{200, 90}, {90, 200}, {33, 33}}) {
    for (const double decay : {1.0, 0.7}) {  // of singular values: as noise has them, and steep
      SCOPED_TRACE(fmt::format("{} x {}, decay {}", rows, cols, decay));
      at::Tensor x = random_matrix("x", rows, cols);
      const std::int64_t most = std::min(rows, cols);
      const auto [u, s, vh] = at::linalg_svd(x, /*full_matrices=*/false);
      at::Tensor sizes = s.clone();
      if (decay < 1) {
        for (std::int64_t i = 0; i < most; ++i)
          sizes[i] = 10 * std::pow(decay, static_cast<double>(i));
        x = (u * sizes).mm(vh);
      }
      for (const std::int64_t rank : {1, 5, 12}) {
        const LowRank found = truncated_svd(x, rank, stream);
        ASSERT_EQ(found.s.size(0), rank);
        // Its error is that of the best, or a little more where neighbours are close.
        const double best = energy(x) - energy(sizes.narrow(0, 0, rank));
        const double left = energy(x - (found.u * found.s).mm(found.v.t()));
        EXPECT_GE(left, best * (1 - 1e-4) - 1e-3) << rank;
        EXPECT_LE(left, best + 0.02 * energy(sizes.narrow(0, 0, rank))) << rank;
        if (decay < 1) {
          EXPECT_TRUE(at::allclose(found.s, sizes.narrow(0, 0, rank), 1e-4, 1e-4)) << rank;
        }
        for (const at::Tensor& vectors : {found.u, found.v}) {
          EXPECT_TRUE(at::allclose(vectors.t().mm(vectors), at::eye(rank), 1e-4, 1e-4)) << rank;
        }
        EXPECT_TRUE(at::equal(truncated_svd(x, rank, stream).v, found.v)) << rank;
      }
    }
  }
  EXPECT_EQ(truncated_svd(random_matrix("small", 3, 40), 8, stream).s.size(0), 3);
}

TrainOptions residual(AdapterForm form) {
  TrainOptions options;
  options.method = Method::kJoint;
  options.adapters.adapter_form = form;
  options.adapters.init_lora = InitLora::kResidualSvd;
  options.widths.bit_widths = {8, 6, 4};
  options.adapters.lora_r = 6;
  options.adapters.lora_alpha = 9;
  options.threads = 2;
  return options;
}

class ResidualInit : public ::testing::TestWithParam<Family> {
 protected:
  ResidualInit() : base_(tiny_base(GetParam())), pool_(2) { at::set_num_threads(1); }

  at::Tensor weights(std::size_t linear) const {
    const model::LinearSpec& spec = base_->linears()[linear];
    return to_tensor(base_->source().linear_f32(linear),
                     {static_cast<std::int64_t>(spec.out), static_cast<std::int64_t>(spec.in)});
  }
  // W - q(W), from the quantizer itself.
  at::Tensor lost(std::size_t linear, int bits, quant::QuantScheme scheme) {
    const at::Tensor w = weights(linear);
    const model::LinearSpec& spec = base_->linears()[linear];
    return w - to_tensor(weights::dequantize_codes(
                             weights::quantize_weights(to_vector(w), spec.out, spec.in, bits,
                                                       scheme, pool_),
                             pool_),
                         w.sizes().vec());
  }

  std::shared_ptr<const weights::BaseModel> base_;
  ThreadPool pool_;
};
INSTANTIATE_TEST_SUITE_P(Families, ResidualInit, ::testing::Values(Family::kGpt2, Family::kLlama),
                         family_name);

TEST_P(ResidualInit, StandsForTheLargestPartOfWhatQuantizationLoses) {
  const at::NoGradGuard no_grad;
  for (const char* scheme : {"seed", "g32-asym+mse"}) {
    TrainOptions options = residual(AdapterForm::kSeparate);
    options.scheme = quant::parse_scheme(scheme, "test");
    const Phase phase = make_phases(options, base_->target()).front();
    const PhaseParameters params(*base_, options, phase, {}, at::kCPU, pool_);
    for (const auto& [bits, adapter] : params.adapters()) {
      for (std::size_t i = 0; i < adapter.linears.size(); ++i) {
        SCOPED_TRACE(fmt::format("{}, {} bits, linear {}", scheme, bits, i));
        const at::Tensor error = lost(i, bits, options.scheme);
        const LoraParams& pair = adapter.linears[i];
        const at::Tensor s = std::get<1>(at::linalg_svd(error, false)).narrow(0, 0, 6);
        const double best = energy(error) - energy(s);
        const double left = energy(error - lora_scaling(options) * pair.b.mm(pair.a));
        EXPECT_LE(left, best + 0.02 * energy(s));
        EXPECT_LT(left, 0.9 * energy(error));
        // The two halves share the size of each rank.
        EXPECT_TRUE(at::allclose(at::norm(pair.a, 2, 1), at::norm(pair.b, 2, 0), 1e-3));
      }
    }
  }
}

TEST_P(ResidualInit, LaterRanksOfACascadeStandForWhatTheFirstLeave) {
  const at::NoGradGuard no_grad;
  const TrainOptions options = residual(AdapterForm::kCascaded);
  const Phase phase = make_phases(options, base_->target()).front();
  const PhaseParameters params(*base_, options, phase, {}, at::kCPU, pool_);
  std::map<int, AdapterParams> adapters = params.adapters();
  for (std::size_t i = 0; i < base_->linears().size(); ++i) {
    std::int64_t before = 0;
    for (const int bits : {8, 6, 4}) {
      SCOPED_TRACE(fmt::format("{} bits, linear {}", bits, i));
      const LoraParams& pair = adapters.at(bits).linears[i];
      const at::Tensor error = lost(i, bits, options.scheme);
      const auto left = [&](std::int64_t ranks) {
        return energy(error - lora_scaling(options) *
                                  pair.b.narrow(1, 0, ranks).mm(pair.a.narrow(0, 0, ranks)));
      };
      const std::int64_t ranks = pair.a.size(0);
      EXPECT_LT(left(ranks), left(before));
      EXPECT_LT(left(ranks), energy(error));
      before = ranks;
    }
  }
}

TEST_P(ResidualInit, IsFreshWhereNothingIsLostAndRefusedWhereNothingCanStandForIt) {
  const at::NoGradGuard no_grad;
  TrainOptions options = residual(AdapterForm::kSeparate);
  options.widths.bit_widths = {32};
  const Phase phase = make_phases(options, base_->target()).front();
  const PhaseParameters found(*base_, options, phase, {}, at::kCPU, pool_);
  TrainOptions plain = options;
  plain.adapters.init_lora = InitLora::kDefault;
  const PhaseParameters fresh(*base_, plain, phase, {}, at::kCPU, pool_);
  for (std::size_t i = 0; i < base_->linears().size(); ++i) {
    EXPECT_TRUE(
        at::equal(found.adapters().at(32).linears[i].a, fresh.adapters().at(32).linears[i].a));
    EXPECT_EQ(energy(found.adapters().at(32).linears[i].b), 0);
  }
  options.adapters.lora_alpha = 0;
  const auto refused = [&] {
    const auto error = qalof::testing::error_of([&] { make_phases(options, base_->target()); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage);
    EXPECT_NE(error.message.find("--init_lora"), std::string::npos) << error.message;
  };
  refused();
  options.adapters.lora_alpha = 9;
  options.method = Method::kFull;
  refused();
}

TEST_P(ResidualInit, BringsTheQuantizedNetworkNearerToTheFloatOne) {
  const at::NoGradGuard no_grad;
  PackedBatch batch;
  for (const Example& example : tiny_examples(5)) batch.add(example);
  const auto graph = make_kernel_graph(base_, nullptr, pool_);
  const at::Tensor exact = graph->hidden(batch, GraphPlan(plan_of("32", *base_), 0), {});
  const auto distance = [&](InitLora init) {
    TrainOptions options = residual(AdapterForm::kSeparate);
    options.adapters.init_lora = init;
    options.method = Method::kLora;
    options.widths.bit_widths = {};
    options.plan = plan_of("w4a32kv32", *base_);
    const Phase phase = make_phases(options, base_->target()).front();
    const PhaseParameters params(*base_, options, phase, {}, at::kCPU, pool_);
    const Network& network = phase.networks.front();
    return energy(graph->hidden(batch, GraphPlan(network.plan, 0), params.view(network)) - exact);
  };
  EXPECT_LT(distance(InitLora::kResidualSvd), 0.9 * distance(InitLora::kDefault));
}

}  // namespace adapter_init_test
}  // namespace qalof::train
