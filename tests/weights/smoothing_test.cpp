// Smoothing keeps the function, with and without adapters and for both families, and evens out what
// a quantizer sees.
#include "weights/smoothing.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/error_of.h"
#include "support/tiny_runtime.h"
#include "weights/packed_file.h"

namespace qalof::runtime {
namespace smoothing_test {

using qalof::testing::error_of;
using qalof::testing::TinyRuntime;

class SmoothingTest : public ::testing::TestWithParam<bool> {
 protected:
  // What linears read over some tokens.
  weights::InputRanges ranges(const weights::BaseModel& base,
                              std::shared_ptr<const weights::AdapterSet> adapters) {
    weights::InputRanges result;
    for (const model::LinearSpec& spec : base.linears()) result.emplace_back(spec.in, 0.0F);
    DecoderWorkspace workspace;
    workspace.observe_inputs = [&](std::size_t linear, const float* rows, std::size_t m) {
      std::vector<float>& range = result[linear];
      for (std::size_t i = 0; i < m * range.size(); ++i)
        range[i % range.size()] = std::max(range[i % range.size()], std::fabs(rows[i]));
    };
    const auto execution = tiny_.execution("32", std::move(adapters));
    const std::vector<std::int32_t> ids = tiny_.ids(40);
    const Sequence sequence{ids};
    std::vector<float> hidden(ids.size() * base.config().hidden);
    forward(*execution, {&sequence, 1}, workspace, hidden.data(), serial_);
    return result;
  }
  std::vector<float> logits(const std::shared_ptr<const weights::BaseModel>& base,
                            const char* precision,
                            std::shared_ptr<const weights::AdapterSet> adapters) {
    const auto execution =
        Execution::create(base, quant::resolve(quant::parse_plan(precision), base->target()),
                          std::move(adapters), serial_);
    const std::vector<float> hidden = tiny_.run(*execution, tiny_.ids(30, 23), 0, serial_);
    std::vector<float> result(30 * base->config().vocab_size);
    lm_logits(*execution, hidden.data(), 30, result.data(), serial_);
    return result;
  }

  SerialFor serial_;
  TinyRuntime tiny_{GetParam() ? qalof::testing::tiny_llama_config()
                               : qalof::testing::tiny_config()};
};

float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  float largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const float difference = std::fabs(a[i] - b[i]);
    if (!(difference <= largest)) largest = difference;  // a NaN stays
  }
  return largest;
}

TEST_P(SmoothingTest, LogitsStayAt32BitsWithAndWithoutAdapters) {
  for (const bool with_adapters : {false, true}) {
    const std::shared_ptr<const weights::AdapterSet> adapters =
        with_adapters ? qalof::testing::random_adapters(tiny_.config(), {8}) : nullptr;
    const weights::InputRanges seen = ranges(*tiny_.base(), adapters);
    for (const float alpha : {0.0F, 0.5F, 1.0F}) {
      const weights::Smoothed smoothed = weights::smooth(tiny_.base(), adapters, seen, alpha);
      EXPECT_EQ(smoothed.adapters != nullptr, with_adapters);
      EXPECT_LE(largest_difference(logits(smoothed.base, "32", smoothed.adapters),
                                   logits(tiny_.base(), "32", adapters)),
                1e-4F)
          << alpha;
      EXPECT_NE(smoothed.base->attention_norm(0).gamma, tiny_.base()->attention_norm(0).gamma);
    }
  }
}

TEST_P(SmoothingTest, RangesOfInputsAndWeightsMeetAtOneHalf) {
  const weights::InputRanges seen = ranges(*tiny_.base(), nullptr);
  const weights::Smoothed smoothed = weights::smooth(tiny_.base(), nullptr, seen, 0.5F);
  const std::size_t in = tiny_.config().hidden;
  std::vector<float> weights;  // of all that read the first norm
  const std::vector<weights::NormReaders> readers = weights::norm_readers(tiny_.config());
  for (const std::size_t linear : readers[0].linears) {
    const std::vector<float> more = smoothed.base->source().linear_f32(linear);
    weights.insert(weights.end(), more.begin(), more.end());
  }
  for (std::size_t j = 0; j < in; ++j) {
    float largest = 0;
    for (std::size_t at = j; at < weights.size(); at += in)
      largest = std::max(largest, std::fabs(weights[at]));
    const float s =
        tiny_.base()->attention_norm(0).gamma[j] / smoothed.base->attention_norm(0).gamma[j];
    // max|X_j| / s = max|W_j| * s
    EXPECT_NEAR(seen[0][j] / s, largest, 1e-4F * largest);
  }
  // Linears without a norm before them stay.
  for (std::size_t i = 0; i < tiny_.base()->linears().size(); ++i) {
    const model::LinearRole role = tiny_.base()->linears()[i].role;
    const bool stays = role == model::LinearRole::kAttentionOut || role == model::LinearRole::kDown;
    EXPECT_EQ(smoothed.base->source().linear_f32(i) == tiny_.base()->source().linear_f32(i), stays);
  }
}

TEST_P(SmoothingTest, AnAlphaBeyondItsRangeIsAUsageError) {
  const weights::InputRanges seen = ranges(*tiny_.base(), nullptr);
  for (const float alpha : {-0.1F, 1.1F, std::nanf("")}) {
    EXPECT_EQ(error_of([&] { weights::smooth(tiny_.base(), nullptr, seen, alpha); }).kind,
              ErrorKind::kUsage);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, SmoothingTest, ::testing::Bool(),
                         [](const auto& family) { return family.param ? "Llama" : "Gpt2"; });

}  // namespace smoothing_test
}  // namespace qalof::runtime
