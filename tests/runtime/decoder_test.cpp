// The forward pass on a tiny model: the same bytes alone, batched or in chunks; plans, adapters and
// heads take effect; LM losses; refusals.
#include "runtime/decoder.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "core/error.h"
#include "support/tiny_runtime.h"

namespace qalof::runtime {
namespace decoder_test {

using qalof::testing::random_adapters;
using qalof::testing::same_bytes;
using qalof::testing::TempDir;
using qalof::testing::tensor_values;
using qalof::testing::write_model;

class DecoderTest : public ::testing::Test {
 protected:
  DecoderTest() {
    write_model(dir_.path());
    base_ = weights::BaseModel::load_directory(dir_.path());
    for (std::size_t i = 0; i < 40; ++i)
      ids_.push_back(static_cast<std::int32_t>((i * 37 + 11) % 97));
  }
  std::shared_ptr<const Execution> execution(
      const std::string& plan, std::shared_ptr<const weights::AdapterSet> adapters = nullptr) {
    return Execution::create(base_, quant::resolve(quant::parse_plan(plan), base_->target()),
                             std::move(adapters), serial_);
  }
  std::vector<float> run(const Execution& run,
                         const std::vector<std::span<const std::int32_t>>& prompts,
                         ParallelFor& parallel) {
    std::vector<Sequence> sequences;
    std::size_t tokens = 0;
    for (const auto& prompt : prompts) {
      sequences.push_back({prompt});
      tokens += prompt.size();
    }
    DecoderWorkspace workspace;
    std::vector<float> hidden(tokens * base_->config().hidden);
    forward(run, sequences, workspace, hidden.data(), parallel);
    return hidden;
  }

  TempDir dir_;
  SerialFor serial_;
  std::shared_ptr<const weights::BaseModel> base_;
  std::vector<std::int32_t> ids_;
};

TEST_F(DecoderTest, SequenceGivesTheSameBytesAloneInABatchInChunksAndWithThreads) {
  const auto adapters = random_adapters(base_->config(), {8, 4});
  ThreadPool two(2), three(3);
  const std::span<const std::int32_t> all(ids_);
  const std::size_t hidden = base_->config().hidden;
  for (const char* plan : {"32", "16", "8", "4", "w4a8kv4", "w4a16kv8", "w8a32kv32", "3"}) {
    const auto exec = execution(plan, adapters);
    const std::vector<float> alone = run(*exec, {all.subspan(5, 23)}, serial_);
    for (ParallelFor* parallel : std::initializer_list<ParallelFor*>{&serial_, &two, &three}) {
      const std::vector<float> batch =
          run(*exec, {all.first(5), all.subspan(5, 23), all}, *parallel);
      EXPECT_TRUE(same_bytes(alone, std::span(batch).subspan(5 * hidden, 23 * hidden))) << plan;
    }
    for (const std::size_t chunk : {1, 3, 7, 16}) {
      KvCache cache(base_->config(), exec->kv(), 40);
      DecoderWorkspace workspace;
      std::vector<float> chunked(23 * hidden);
      for (std::size_t first = 0; first < 23; first += chunk) {
        const Sequence sequence{all.subspan(5 + first, std::min<std::size_t>(chunk, 23 - first)),
                                &cache};
        forward(*exec, {&sequence, 1}, workspace, chunked.data() + first * hidden, two);
      }
      EXPECT_EQ(cache.length(), 23U);
      EXPECT_TRUE(same_bytes(alone, chunked)) << plan << " in chunks of " << chunk;
    }
  }
}

TEST_F(DecoderTest, EveryPartOfAPlanChangesTheResult) {
  const auto adapters = random_adapters(base_->config(), {8, 4});
  const std::vector<float> reference = run(*execution("8", adapters), {ids_}, serial_);
  for (const char* plan :
       {"32", "16", "4", "w8a8k8v4", "w8a8k4v8", "w8a4kv8", "w4a8kv8", "w8a16kv8"}) {
    EXPECT_FALSE(same_bytes(reference, run(*execution(plan, adapters), {ids_}, serial_))) << plan;
  }
}

TEST_F(DecoderTest, AdapterAndHeadFollowTheWidth) {
  const auto both = random_adapters(base_->config(), {8, 4});
  const auto only8 = random_adapters(base_->config(), {8});
  const auto four = execution("4", both), four_by_8 = execution("4", only8),
             two = execution("2", both), sixteen = execution("16", both);
  EXPECT_EQ(four->head(weights::HeadKind::kSpan), &*both->by_width.at(4)->qa_head);
  EXPECT_EQ(four_by_8->head(weights::HeadKind::kSpan), &*only8->by_width.at(8)->qa_head);
  EXPECT_NE(four_by_8->description().find("adapter w8 serves w4"), std::string::npos);
  EXPECT_EQ(two->head(weights::HeadKind::kSpan), &*both->by_width.at(4)->qa_head);
  EXPECT_EQ(sixteen->head(weights::HeadKind::kSpan), &*both->by_width.at(8)->qa_head);
  EXPECT_EQ(execution("8")->head(weights::HeadKind::kSpan), &*base_->qa_head());
  EXPECT_FALSE(same_bytes(run(*four, {ids_}, serial_), run(*four_by_8, {ids_}, serial_)));
}

TEST_F(DecoderTest, ExplicitHeadWidthWins) {
  const auto adapters = random_adapters(base_->config(), {8, 4});
  quant::PlanSpec spec = quant::parse_plan("4");
  spec.head = 8;
  const auto exec =
      Execution::create(base_, quant::resolve(spec, base_->target()), adapters, serial_);
  EXPECT_EQ(exec->head(weights::HeadKind::kSpan), &*adapters->by_width.at(8)->qa_head);
}

TEST_F(DecoderTest, AdaptersWithZeroBEqualNoAdapters) {
  auto set = std::make_shared<weights::AdapterSet>();
  auto adapter = std::make_shared<weights::Adapter>();
  for (const model::LinearSpec& spec : base_->linears()) {
    adapter->linears.push_back(std::make_unique<weights::LoraLinear>(
        4, 2.0F, tensor_values(spec.name, 4 * spec.in, 0.1F),
        std::vector<float>(4 * spec.out, 0.0F), spec.in, spec.out));
  }
  set->by_width[8] = adapter;
  for (const char* plan : {"32", "8", "4"}) {
    EXPECT_TRUE(same_bytes(run(*execution(plan), {ids_}, serial_),
                           run(*execution(plan, set), {ids_}, serial_)))
        << plan;
  }
}

TEST_F(DecoderTest, ThreadsShareAnExecution) {
  const auto eight = execution("8"), four = execution("4");
  const std::vector<float> expected8 = run(*eight, {ids_}, serial_),
                           expected4 = run(*four, {ids_}, serial_);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      SerialFor serial;
      for (int i = 0; i < 8; ++i) {
        const bool use8 = (i + static_cast<int>(t)) % 2 == 0;
        if (!same_bytes(run(use8 ? *eight : *four, {ids_}, serial), use8 ? expected8 : expected4))
          ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST_F(DecoderTest, LmLossIsThatOfTheLogits) {
  for (const char* plan : {"32", "8"}) {
    const auto exec = execution(plan);
    const std::vector<float> hidden = run(*exec, {ids_}, serial_);
    const std::vector<std::int32_t> targets(ids_.begin() + 1, ids_.end());
    const std::vector<float> losses = lm_token_losses(*exec, hidden.data(), targets, serial_);
    std::vector<float> logits(97 * ids_.size());
    lm_logits(*exec, hidden.data(), ids_.size(), logits.data(), serial_);
    for (std::size_t t = 0; t < targets.size(); ++t) {
      double sum = 0;
      for (std::size_t i = 0; i < 97; ++i) sum += std::exp(static_cast<double>(logits[t * 97 + i]));
      const double expected =
          std::log(sum) -
          static_cast<double>(logits[t * 97 + static_cast<std::size_t>(targets[t])]);
      EXPECT_NEAR(losses[t], expected, 1e-5 * std::max(1.0, expected)) << plan << " " << t;
    }
  }
}

TEST_F(DecoderTest, LmHeadOfFewBitsStaysNearTheFloats) {
  const std::vector<float> hidden = run(*execution("32"), {ids_}, serial_);
  const auto logits = [&](int bits) {
    const auto exec = Execution::create(
        base_, quant::resolve(quant::parse_plan("32"), base_->target()), nullptr, serial_,
        {.kv_scheme = KvScheme::kToken, .lm_head = quant::BitWidth{bits}});
    std::vector<float> result(97 * ids_.size());
    lm_logits(*exec, hidden.data(), ids_.size(), result.data(), serial_);
    return result;
  };
  const std::vector<float> exact = logits(32);
  double norm = 0;
  for (const float z : exact) norm += double{z} * double{z};
  const auto error = [&](int bits) {
    const std::vector<float> found = logits(bits);
    double sum = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const double difference = double{found[i]} - double{exact[i]};
      sum += difference * difference;
    }
    return std::sqrt(sum / norm);
  };
  const double error16 = error(16), error8 = error(8), error4 = error(4);
  EXPECT_GT(error16, 0);
  EXPECT_LE(error16, 0.005);
  EXPECT_GT(error8, error16);
  EXPECT_LE(error8, 0.02);
  EXPECT_GT(error4, error8);
  EXPECT_LE(error4, 0.2);
  EXPECT_THROW(logits(7), Error);
}

TEST_F(DecoderTest, BadInputIsRefusedBySentence) {
  const auto exec = execution("32");
  auto message = [&](std::vector<std::int32_t> ids, KvCache* cache) {
    DecoderWorkspace workspace;
    std::vector<float> hidden(ids.size() * 32 + 1);
    const Sequence sequence{ids, cache};
    try {
      forward(*exec, {&sequence, 1}, workspace, hidden.data(), serial_);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(message({}, nullptr), "sequence 0 is empty");
  EXPECT_EQ(message({1, 97}, nullptr), "sequence 0: token id 97 at 1, expected 0..96");
  EXPECT_EQ(message({-1}, nullptr), "sequence 0: token id -1 at 0, expected 0..96");
  EXPECT_EQ(message(std::vector<std::int32_t>(65, 1), nullptr),
            "sequence 0 has 65 tokens, the model has 64 positions");
  KvCache small(base_->config(), exec->kv(), 2);
  EXPECT_EQ(message({1, 2, 3}, &small),
            "sequence 0: the KV cache holds 0 of 2 positions, 3 more do not fit");
}

}  // namespace decoder_test
}  // namespace qalof::runtime
