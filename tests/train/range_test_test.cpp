// The precision range test: what it compares, and that it leaves nothing behind.
#include "train/range_test.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "support/error_of.h"
#include "train/trainer.h"
#include "train_test_util.h"

namespace qalof::train {
namespace range_test_test {

TrainOptions cyclic_run() {
  TrainOptions options;
  options.method = Method::kCpt;
  options.schedule.max_steps = 10;
  options.widths.num_cyclic_period = 1;
  options.schedule.batch_size = 4;
  options.adapters.lora_r = 3;
  options.schedule.learning_rate = 1e-2;
  options.threads = 2;
  return options;
}

TEST(RangeTest, FindsTheFewestBitsThatLearnHalfAsMuchAsTheTop) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(4);
  const TrainOptions options = cyclic_run();
  const RangeTest found = find_min_bits(base, options, examples, {});
  ASSERT_GE(found.probes.size(), 2U);
  EXPECT_EQ(found.probes.front().bits, 8);
  const double top = found.probes.front().fall();
  EXPECT_GT(top, 0);
  EXPECT_EQ(found.probes.back().bits, found.min_bits);
  for (std::size_t i = 1; i < found.probes.size(); ++i) {
    EXPECT_EQ(found.probes[i].bits, static_cast<int>(i) + 1);
    EXPECT_EQ(found.probes[i].fall() >= 0.5 * top, i + 1 == found.probes.size()) << i;
  }
  const RangeTest again = find_min_bits(base, options, examples, {});
  ASSERT_EQ(again.probes.size(), found.probes.size());
  for (std::size_t i = 0; i < found.probes.size(); ++i) {
    EXPECT_EQ(again.probes[i].first_loss, found.probes[i].first_loss);
    EXPECT_EQ(again.probes[i].last_loss, found.probes[i].last_loss);
  }
}

TEST(RangeTest, AProbeIsAShortTrainingFromTheStartAtItsWidth) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(4);
  const TrainOptions options = cyclic_run();
  const RangeTest found = find_min_bits(base, options, examples, {});
  TrainOptions alone = options;
  alone.method = Method::kJoint;
  alone.widths.bit_widths = {8};
  alone.schedule.max_steps = 32;
  alone.schedule.warmup_steps = 8;
  alone.schedule.lr_scheduler_type = LrSchedule::kConstant;
  const TrainResult run = train(base, alone, examples, {});
  const auto mean = [&](std::size_t first, std::size_t count) {
    double sum = 0;
    for (std::size_t i = first; i < first + count; ++i) sum += run.phases[0].steps[i].loss;
    return sum / static_cast<double>(count);
  };
  EXPECT_NEAR(found.probes[0].first_loss, mean(0, 4), 1e-12);
  EXPECT_NEAR(found.probes[0].last_loss, mean(24, 8), 1e-12);
}

TEST(RangeTest, SaysWhyItEnds) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(4);
  TrainOptions options = cyclic_run();
  TrainHooks hooks;
  int steps = 0;
  hooks.should_stop = [&] { return ++steps > 40; };
  EXPECT_EQ(qalof::testing::error_of([&] { find_min_bits(base, options, examples, hooks); }).kind,
            ErrorKind::kInterrupted);
  options.schedule.learning_rate = 0;
  const auto error = qalof::testing::error_of([&] { find_min_bits(base, options, examples, {}); });
  EXPECT_EQ(error.kind, ErrorKind::kUsage);
  EXPECT_NE(error.message.find("--min_bits auto"), std::string::npos) << error.message;
}

}  // namespace range_test_test
}  // namespace qalof::train
