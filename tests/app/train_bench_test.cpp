// bench train on the shipped nano model: what it counts, and what it refuses.
#include "app/train/bench.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace qalof::app {
namespace train_bench_test {

TrainBenchOptions small_run() {
  TrainBenchOptions options;
  options.model.model = QALOF_SOURCE_DIR "/assets/nano/model";
  options.model.precision = std::string(1, '4');
  options.model.threads = 2;
  options.batch = 3;
  options.tokens = 20;
  options.repeats = 2;
  return options;
}

TEST(TrainBench, MeasuresItsRepeatsAndNotTheWarmUp) {
  Observer silent;
  const TrainBenchResult result = run_train_bench(small_run(), silent);
  EXPECT_EQ(result.precision, "w4a4kv4");
  ASSERT_EQ(result.steps.size(), 2U);
  EXPECT_EQ(result.tokens, 2U * 3 * 20);
  for (const train::StepRecord& step : result.steps) {
    EXPECT_GT(step.times.forward, 0);
    EXPECT_GT(step.times.backward, 0);
    EXPECT_FALSE(step.skipped);
  }
  const double a = result.steps[0].times.total(), b = result.steps[1].times.total();
  EXPECT_DOUBLE_EQ(result.seconds, (a + b) / 2);
}

TEST(TrainBench, TakesWindowsOfAFile) {
  TrainBenchOptions options = small_run();
  options.train_file = QALOF_SOURCE_DIR "/assets/nano/data/validation.json";
  options.tokens = 256;
  Observer silent;
  const TrainBenchResult result = run_train_bench(options, silent);
  EXPECT_GT(result.tokens, 2U * 3 * 20);
  EXPECT_LT(result.tokens, 2U * 3 * 200);
}

TEST(TrainBench, RefusesNumbersOutOfRange) {
  Observer silent;
  for (const auto change :
       {+[](TrainBenchOptions& o) { o.batch = 0; }, +[](TrainBenchOptions& o) { o.tokens = 257; },
        +[](TrainBenchOptions& o) { o.repeats = 0; }}) {
    TrainBenchOptions options = small_run();
    change(options);
    try {
      run_train_bench(options, silent);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    }
  }
}

}  // namespace train_bench_test
}  // namespace qalof::app
