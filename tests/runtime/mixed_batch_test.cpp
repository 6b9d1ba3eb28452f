// Sequences with adapters and precisions of their own in one call.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "support/error_of.h"
#include "support/tiny_runtime.h"

namespace qalof::runtime {
namespace mixed_batch_test {

using qalof::testing::random_adapters;
using qalof::testing::same_bytes;
using qalof::testing::TinyRuntime;

class MixedBatchTest : public ::testing::Test {
 protected:
  MixedBatchTest() {
    const auto first = random_adapters(tiny_.config(), {8, 4}, 1);
    const auto second = random_adapters(tiny_.config(), {8}, 2);
    executions_ = {tiny_.execution("8", first), tiny_.execution("4", first),
                   tiny_.execution("w4a8kv4", second, {.kv_scheme = KvScheme::kHead}),
                   tiny_.execution("32"), tiny_.execution("16", second)};
  }

  struct Prompt {
    std::size_t execution;
    std::vector<std::int32_t> ids;
    std::vector<float> alone;
  };
  Prompt prompt(std::size_t execution, std::size_t length, std::size_t step) {
    Prompt result{execution, tiny_.ids(length, step), {}};
    result.alone = tiny_.run(*executions_[execution], result.ids, 0, serial_);
    return result;
  }

  TinyRuntime tiny_;
  SerialFor serial_;
  std::vector<std::shared_ptr<const Execution>> executions_;
};

TEST_F(MixedBatchTest, FourPairsInOneBatchAreAsAlone) {
  ThreadPool two(2);
  const std::vector<Prompt> prompts = {prompt(0, 9, 37), prompt(1, 1, 5), prompt(2, 17, 11),
                                       prompt(3, 4, 3),  prompt(1, 6, 7), prompt(0, 2, 13)};
  std::vector<Sequence> sequences;
  std::vector<float> expected;
  for (const Prompt& p : prompts) {
    sequences.push_back({p.ids, nullptr, executions_[p.execution].get()});
    expected.insert(expected.end(), p.alone.begin(), p.alone.end());
  }
  DecoderWorkspace workspace;
  std::vector<float> hidden(expected.size());
  forward(*executions_[4], sequences, workspace, hidden.data(), two);
  EXPECT_TRUE(same_bytes(expected, hidden));
  for (const std::size_t a : {0, 2, 3}) {
    EXPECT_FALSE(same_bytes(tiny_.run(*executions_[a], prompts[2].ids, 0, serial_),
                            tiny_.run(*executions_[1], prompts[2].ids, 0, serial_)));
  }
}

TEST_F(MixedBatchTest, ExecutionOfAnotherBaseIsRefused) {
  const TinyRuntime other;
  const auto foreign = other.execution("8");
  const std::vector<std::int32_t> ids = tiny_.ids(2);
  const Sequence sequence{ids, nullptr, foreign.get()};
  DecoderWorkspace workspace;
  std::vector<float> hidden(2 * tiny_.config().hidden);
  EXPECT_EQ(qalof::testing::error_of([&] {
              forward(*executions_[0], {&sequence, 1}, workspace, hidden.data(), serial_);
            }).message,
            "sequence 0: its execution is of another base model");
}

// Requests come and go as in a server: each step batches a random choice of the open ones, each
// with a random number of its next tokens.
TEST_F(MixedBatchTest, ThousandRandomInterleavingsOnFourThreadsGiveTheBitsOfEachAlone) {
  constexpr std::size_t kThreads = 4, kInterleavings = 250;
  std::vector<Prompt> prompts;
  for (std::size_t i = 0; i < 20; ++i) prompts.push_back(prompt(i % 5, 3 + i % 7, 2 * i + 3));
  std::atomic<int> mismatches{0}, compared{0};
  const std::size_t width = tiny_.config().hidden;
  const auto work = [&](std::size_t thread) {
    const RandomStream random(thread, "interleavings");
    SerialFor serial;
    DecoderWorkspace workspace;
    std::uint64_t draw = 0;
    const auto below = [&](std::uint64_t bound) { return random.below(bound, 0, draw++); };
    struct Open {
      const Prompt* prompt;
      KvCache cache;
      std::vector<float> hidden;
    };
    for (std::size_t round = 0; round < kInterleavings; ++round) {
      std::vector<Open> open;
      for (std::size_t i = 0; i < 4; ++i) {
        const Prompt& p = prompts[below(prompts.size())];
        open.push_back({&p, KvCache(tiny_.config(), executions_[p.execution]->kv(), p.ids.size()),
                        std::vector<float>(p.alone.size())});
      }
      std::vector<std::size_t> chosen;
      std::vector<float> hidden;
      while (true) {
        std::vector<Sequence> batch;
        std::size_t tokens = 0;
        chosen.clear();
        bool any_left = false;
        for (std::size_t i = 0; i < open.size(); ++i) {
          const std::size_t done = open[i].cache.length(), left = open[i].prompt->ids.size() - done;
          any_left = any_left || left > 0;
          if (left == 0 || below(3) == 0) continue;
          const std::size_t count = 1 + below(left);
          batch.push_back({std::span(open[i].prompt->ids).subspan(done, count), &open[i].cache,
                           executions_[open[i].prompt->execution].get()});
          chosen.push_back(i);
          tokens += count;
        }
        if (!any_left) break;
        if (batch.empty()) continue;
        hidden.resize(tokens * width);
        forward(*batch.front().execution, batch, workspace, hidden.data(), serial);
        std::size_t row = 0;
        for (std::size_t b = 0; b < batch.size(); ++b) {
          Open& one = open[chosen[b]];
          const std::size_t count = batch[b].ids.size();
          std::copy_n(hidden.data() + row * width, count * width,
                      one.hidden.data() + (one.cache.length() - count) * width);
          row += count;
        }
      }
      for (const Open& one : open) {
        ++compared;
        if (!same_bytes(one.hidden, one.prompt->alone)) ++mismatches;
      }
    }
  };
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) threads.emplace_back(work, t);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(compared, 4000);
  EXPECT_EQ(mismatches, 0);
}

}  // namespace mixed_batch_test
}  // namespace qalof::runtime
