// The portable and the fastest instruction set on the shipped nano model: the same integers in
// every operation, and texts that both continue alike.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>

#include "core/threads.h"
#include "kernels/gemm.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/quantize.h"
#include "runtime/decoder.h"
#include "text/bpe_tokenizer.h"

namespace qalof::runtime {
namespace isa_agreement_test {

constexpr std::size_t kTokens = 2000;
constexpr std::size_t kWindow = 250;  // the model has 256 positions

class IsaAgreementTest : public ::testing::Test {
 protected:
  void SetUp() override {
    before_ = kernels::active_isa();
    if (kernels::available_isas().size() == 1) GTEST_SKIP() << "this CPU has the portable set only";
    const std::string nano = std::string(QALOF_SOURCE_DIR) + "/assets/nano/";
    base_ = weights::BaseModel::load_directory(nano + "model");
    std::ifstream file(nano + "data/text.txt");
    std::ostringstream text;
    text << file.rdbuf();
    ids_ = text::BpeTokenizer::load(nano + "model").encode(text.str()).ids;
    ASSERT_GT(ids_.size(), kTokens);
    ids_.resize(kTokens);
  }
  void TearDown() override { kernels::force_isa(before_); }

  static kernels::Isa fastest() { return kernels::available_isas().back(); }
  std::shared_ptr<const Execution> execution(const std::string& plan) {
    return Execution::create(base_, quant::resolve(quant::parse_plan(plan), base_->target()),
                             nullptr, serial_);
  }
  // Logits [tokens, vocab] of the text in windows.
  std::vector<float> logits(const Execution& run) {
    const model::ModelConfig& config = base_->config();
    std::vector<float> hidden(ids_.size() * config.hidden), result(ids_.size() * config.vocab_size);
    DecoderWorkspace workspace;
    for (std::size_t first = 0; first < ids_.size(); first += kWindow) {
      const std::size_t count = std::min(kWindow, ids_.size() - first);
      const Sequence window{std::span(ids_).subspan(first, count)};
      forward(run, {&window, 1}, workspace, hidden.data() + first * config.hidden, serial_);
    }
    lm_logits(run, hidden.data(), ids_.size(), result.data(), serial_);
    return result;
  }

  SerialFor serial_;
  std::shared_ptr<const weights::BaseModel> base_;
  std::vector<std::int32_t> ids_;

 private:
  kernels::Isa before_ = kernels::Isa::kPortable;
};

std::vector<double> softmax(std::span<const float> z) {
  const double top = *std::max_element(z.begin(), z.end());
  std::vector<double> p(z.begin(), z.end());
  double sum = 0;
  for (double& value : p) sum += value = std::exp(value - top);
  for (double& value : p) value /= sum;
  return p;
}

TEST_F(IsaAgreementTest, TopTokenAgreesAndDistributionsAreCloseOverTwoThousandTokens) {
  const std::size_t vocab = base_->config().vocab_size;
  // The two sum floats in different orders, which moves a code now and then; one of four bits is
  // worth sixteen of eight, so their limits are their own.
  struct Limit {
    std::string plan;
    double agreement, kl;
  };
  for (const auto& [plan, agreement, most_kl] :
       {Limit{"w8a8kv8", 0.995, 1e-4}, Limit{"16", 0.995, 1e-4}, Limit{"32", 0.995, 1e-4},
        Limit{"w4a8kv8", 0.995, 1e-3}, Limit{"w4a4kv4", 0.98, 1e-2}}) {
    const auto run = execution(plan);
    kernels::force_isa(kernels::Isa::kPortable);
    const std::vector<float> portable = logits(*run);
    kernels::force_isa(fastest());
    const std::vector<float> fast = logits(*run);
    std::size_t agree = 0;
    double kl = 0;
    for (std::size_t t = 0; t < kTokens; ++t) {
      const auto a = std::span(portable).subspan(t * vocab, vocab);
      const auto b = std::span(fast).subspan(t * vocab, vocab);
      agree += std::max_element(a.begin(), a.end()) - a.begin() ==
               std::max_element(b.begin(), b.end()) - b.begin();
      const std::vector<double> p = softmax(a), q = softmax(b);
      for (std::size_t i = 0; i < vocab; ++i) kl += p[i] > 0 ? p[i] * std::log(p[i] / q[i]) : 0;
    }
    kl /= kTokens;
    RecordProperty("kl_" + plan, std::to_string(kl));
    RecordProperty("agree_" + plan, std::to_string(agree));
    EXPECT_GE(static_cast<double>(agree), agreement * kTokens) << plan;
    EXPECT_LE(kl, most_kl) << plan;
    EXPECT_GE(kl, -1e-9) << plan;
  }
}

// What one operation gives on both sets.
template <typename T, typename Operation>
std::vector<T> on_both(std::size_t count, const std::string& what, const Operation& operation) {
  std::vector<T> portable(count), fast(count);
  kernels::force_isa(kernels::Isa::kPortable);
  operation(portable.data());
  kernels::force_isa(kernels::available_isas().back());
  operation(fast.data());
  EXPECT_EQ(std::memcmp(portable.data(), fast.data(), count * sizeof(T)), 0) << what;
  kernels::force_isa(kernels::Isa::kPortable);
  return portable;
}

TEST_F(IsaAgreementTest, IntegersOfEveryOperationAreEqual) {
  const model::ModelConfig& config = base_->config();
  const std::size_t rows = 200, hidden = config.hidden;
  std::vector<std::int32_t> positions(rows);
  for (std::size_t i = 0; i < rows; ++i) positions[i] = static_cast<std::int32_t>(i);
  for (const std::string plan : {"w8a8kv8", "w4a4kv4"}) {
    const auto run = execution(plan);
    const int kv_bits = run->kv().k_bits[0][0];
    std::vector<float> residual(rows * hidden);
    base_->embed(std::span(ids_).first(rows), positions, {16}, residual.data());
    // The network on the portable set; each quantizer and integer product is done on both.
    const auto linear = [&](std::size_t index, const std::vector<float>& x) {
      const weights::LinearCall& call = run->linear(index);
      const std::size_t k = call.weight.k, n = call.weight.n;
      const std::string what = plan + " linear " + std::to_string(index);
      std::vector<float> scales(rows);
      const auto codes = on_both<std::int8_t>(rows * k, what + " codes", [&](std::int8_t* dst) {
        kernels::quantize_rows(x.data(), rows, k, call.precision.activation.bits, dst,
                               scales.data(), serial_);
      });
      on_both<std::int32_t>(rows * n, what + " sums", [&](std::int32_t* dst) {
        kernels::gemm_int_acc(codes.data(), rows, call.weight, dst, serial_);
      });
      return on_both<float>(rows * n, what + " outputs", [&](float* dst) {
        kernels::gemm_int(codes.data(), scales.data(), rows, call.weight, call.bias, dst, serial_);
      });
    };
    const auto norm = [&](const weights::BaseModel::Norm& weights) {
      std::vector<float> y(rows * hidden);
      kernels::layer_norm(residual.data(), rows, hidden, weights.gamma.data(), weights.beta.data(),
                          config.norm_epsilon, y.data(), nullptr, serial_);
      return y;
    };
    const auto add = [&](const std::vector<float>& y) {
      kernels::add_in_place(y.data(), y.size(), residual.data(), serial_);
    };
    kernels::force_isa(kernels::Isa::kPortable);
    for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
      std::vector<float> qkv = linear(4 * layer, norm(base_->attention_norm(layer)));
      // K and V: three rows of hidden each in qkv, so every second and third is one of them.
      const std::vector<int> bits(config.num_heads, kv_bits);
      on_both<std::int8_t>(3 * rows * hidden, plan + " K and V", [&](std::int8_t* dst) {
        std::vector<float> real(3 * rows * hidden), scales(3 * rows * config.num_heads);
        kernels::fake_quantize_kv(qkv.data(), 3 * rows, config.num_heads, config.head_dim(),
                                  bits.data(), real.data(), dst, scales.data(), serial_);
      });
      std::vector<float> attended(rows * hidden);
      const kernels::AttentionShape shape{config.num_heads,
                                          config.num_heads,
                                          config.head_dim(),
                                          3 * hidden,
                                          3 * hidden,
                                          3 * hidden,
                                          hidden,
                                          1.0F / std::sqrt(static_cast<float>(config.head_dim()))};
      const kernels::AttentionSequence sequence{
          qkv.data(), qkv.data() + hidden, qkv.data() + 2 * hidden, attended.data(), nullptr, rows,
          0};
      kernels::attention(shape, &sequence, 1, serial_);
      add(linear(4 * layer + 1, attended));
      std::vector<float> inner = linear(4 * layer + 2, norm(base_->mlp_norm(layer)));
      kernels::gelu_new(inner.data(), inner.size(), inner.data(), serial_);
      add(linear(4 * layer + 3, inner));
      if (HasFailure()) return;
    }
  }
}

}  // namespace isa_agreement_test
}  // namespace qalof::runtime
