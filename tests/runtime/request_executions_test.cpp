// Random precision inference: a request runs as it would at the width drawn for it.
#include "runtime/request_executions.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "support/tiny_runtime.h"

namespace qalof::runtime {
namespace request_executions_test {

using qalof::testing::random_adapters;
using qalof::testing::same_bytes;
using qalof::testing::TinyRuntime;

class RequestExecutionsTest : public ::testing::Test {
 protected:
  RequestExecutionsTest() {
    const auto adapters = random_adapters(tiny_.config(), {8, 6, 4});
    for (const char* text : {"4", "6", "8"}) set_.push_back(tiny_.execution(text, adapters));
  }
  RequestExecutions requests(quant::DrawnWidths drawn = quant::DrawnWidths::kRequest,
                             std::uint64_t seed = 5) const {
    return {set_, drawn, seed, "random:4,6,8"};
  }
  std::vector<float> alone(const Execution& execution, const std::vector<std::int32_t>& ids) {
    return tiny_.run(execution, ids, 0, serial_);
  }

  TinyRuntime tiny_;
  SerialFor serial_;
  std::vector<std::shared_ptr<const Execution>> set_;
};

TEST_F(RequestExecutionsTest, OneExecutionServesEveryRequest) {
  const RequestExecutions fixed(*set_[1]);
  EXPECT_FALSE(fixed.is_random());
  EXPECT_EQ(fixed.of_request(17).get(), set_[1].get());
  EXPECT_EQ(fixed.description(), set_[1]->description());
  EXPECT_EQ(fixed.draws(9), std::vector<std::uint64_t>{9});
}

TEST_F(RequestExecutionsTest, ADrawIsAPointerAndItsCountsAreTold) {
  const RequestExecutions random = requests();
  const quant::PrecisionDraws draws(5, 3);
  std::vector<std::uint64_t> counts(3);
  for (std::uint64_t i = 0; i < 60; ++i) {
    EXPECT_EQ(random.of_request(i).get(), set_[draws.of_request(i)].get());
    ++counts[draws.of_request(i)];
  }
  EXPECT_EQ(random.draws(60), counts);
  EXPECT_EQ(random.description().substr(0, 21), "random:4,6,8, seed 5;");
}

// In batches of any size and order, on any number of threads.
TEST_F(RequestExecutionsTest, ARequestHasTheBitsOfItsWidthAloneHoweverItIsServed) {
  constexpr std::size_t kRequests = 24, kThreads = 4;
  const RequestExecutions random = requests();
  std::vector<std::vector<std::int32_t>> ids;
  std::vector<std::vector<float>> expected;
  for (std::size_t i = 0; i < kRequests; ++i) {
    ids.push_back(tiny_.ids(1 + i % 9, 3 + 2 * i));
    expected.push_back(alone(*set_[quant::PrecisionDraws(5, 3).of_request(i)], ids[i]));
  }
  ASSERT_FALSE(same_bytes(alone(*set_[0], ids[8]), alone(*set_[2], ids[8])));
  std::atomic<int> mismatches{0};
  const auto work = [&](std::size_t thread) {
    SerialFor serial;
    GroupedWorkspace workspace;
    const std::size_t batch = 1 + 7 * thread;
    for (std::size_t first = 0; first < kRequests; first += batch) {
      std::vector<Sequence> sequences;
      std::vector<std::shared_ptr<const Execution>> served;
      std::vector<float> together;
      for (std::size_t n = std::min(first + batch, kRequests); n-- > first;) {
        const std::size_t i = thread % 2 == 0 ? n : kRequests - 1 - n;
        served.push_back(random.of_request(i));
        sequences.push_back({ids[i], nullptr, served.back().get()});
        together.insert(together.end(), expected[i].begin(), expected[i].end());
      }
      std::vector<float> hidden(together.size());
      forward_by_execution(random.front(), sequences, workspace, hidden.data(), serial);
      mismatches += same_bytes(hidden, together) ? 0 : 1;
    }
  };
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) threads.emplace_back(work, t);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(mismatches, 0);
}

TEST_F(RequestExecutionsTest, DrawnByLayerEachLayerIsThatOfItsWidth) {
  const RequestExecutions random = requests(quant::DrawnWidths::kLayer);
  const quant::PrecisionDraws draws(5, 3);
  const std::size_t per_layer = tiny_.base()->linears().size() / 2;
  bool has_mixed = false;
  for (std::uint64_t i = 0; i < 20; ++i) {
    const auto execution = random.of_request(i);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      const Execution& by = *set_[draws.of_layer(i, layer)];
      for (std::size_t l = layer * per_layer; l < (layer + 1) * per_layer; ++l) {
        EXPECT_EQ(execution->linear(l).weight.panels, by.linear(l).weight.panels);
        EXPECT_EQ(execution->linear(l).lora, by.linear(l).lora);
        EXPECT_EQ(execution->plan().linears[l], by.plan().linears[l]);
      }
      EXPECT_EQ(execution->k_bits(layer), by.k_bits(layer));
    }
    EXPECT_EQ(execution->head(weights::HeadKind::kSpan),
              set_[draws.of_request(i)]->head(weights::HeadKind::kSpan));
    has_mixed = has_mixed || draws.of_layer(i, 0) != draws.of_layer(i, 1);
  }
  EXPECT_TRUE(has_mixed);
  const auto counts = random.draws(20);
  EXPECT_EQ(counts[0] + counts[1] + counts[2], 40U);
}

TEST_F(RequestExecutionsTest, ErrorsOfForwardComeThrough) {
  const std::vector<std::int32_t> good = tiny_.ids(3), bad = {5000};
  const Sequence sequences[] = {{good, nullptr, set_[0].get()}, {bad, nullptr, set_[1].get()}};
  GroupedWorkspace workspace;
  std::vector<float> hidden(4 * tiny_.config().hidden);
  EXPECT_THROW(forward_by_execution(*set_[0], sequences, workspace, hidden.data(), serial_), Error);
}

}  // namespace request_executions_test
}  // namespace qalof::runtime
