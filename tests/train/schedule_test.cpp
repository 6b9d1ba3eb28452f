// Learning rates, steps of a phase, the order of windows, phases of methods, and refused options.
#include "train/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <set>

#include "core/error.h"
#include "support/error_of.h"
#include "train/batch.h"
#include "train/phases.h"
#include "train_test_util.h"

namespace qalof::train {
namespace schedule_test {

constexpr double kExact = 1e-15;  // a few roundings of doubles

TEST(LearningRate, FollowsHandComputedValues) {
  TrainOptions options;
  options.schedule.learning_rate = 2e-3;
  options.schedule.warmup_steps = 4;
  EXPECT_EQ(learning_rate_at(options, 0, 12), 0.0);
  EXPECT_NEAR(learning_rate_at(options, 1, 12), 0.5e-3, kExact);
  EXPECT_NEAR(learning_rate_at(options, 4, 12), 2e-3, kExact);
  EXPECT_NEAR(learning_rate_at(options, 6, 12), 2e-3 * 0.5 * (1 + std::sqrt(0.5)), kExact);
  EXPECT_NEAR(learning_rate_at(options, 8, 12), 1e-3, kExact);
  EXPECT_NEAR(learning_rate_at(options, 12, 12), 0, kExact);
  options.schedule.lr_scheduler_type = LrSchedule::kLinear;
  EXPECT_NEAR(learning_rate_at(options, 6, 12), 1.5e-3, kExact);
  options.schedule.lr_scheduler_type = LrSchedule::kConstant;
  EXPECT_NEAR(learning_rate_at(options, 2, 12), 1e-3, kExact);
  EXPECT_NEAR(learning_rate_at(options, 11, 12), 2e-3, kExact);
  options.schedule.warmup_steps = 20;  // longer than the phase
  EXPECT_NEAR(learning_rate_at(options, 10, 12), 1e-3, kExact);
}

std::vector<Example> windows_of(const std::vector<std::size_t>& lengths) {
  std::vector<Example> examples(lengths.size());
  for (std::size_t i = 0; i < lengths.size(); ++i) examples[i].ids.assign(lengths[i], 1);
  return examples;
}

TEST(StepsOfPhase, CountsPartStepsOfAnEpoch) {
  TrainOptions options;
  options.schedule.batch_size = 3;
  options.schedule.gradient_accumulation_steps = 2;
  options.schedule.num_train_epochs = 2;
  EXPECT_EQ(steps_of_phase(options, {}, windows_of(std::vector<std::size_t>(12, 5))), 4);
  EXPECT_EQ(steps_of_phase(options, {}, windows_of(std::vector<std::size_t>(13, 5))), 6);
  options.schedule.num_train_epochs = 0.5;
  EXPECT_EQ(steps_of_phase(options, {}, windows_of(std::vector<std::size_t>(13, 5))), 2);
  options.schedule.max_steps = 7;
  EXPECT_EQ(steps_of_phase(options, {}, windows_of(std::vector<std::size_t>(13, 5))), 7);
}

TEST(StepsOfPhase, OfTokensIsTheNearestToTheBudgetThatThePhaseReads) {
  std::vector<std::size_t> lengths;
  for (std::size_t i = 0; i < 40; ++i) lengths.push_back(10 + 7 * i % 50);
  const std::vector<Example> examples = windows_of(lengths);
  for (const bool by_length : {false, true}) {
    TrainOptions options;
    options.schedule.batch_size = 8;
    options.schedule.group_by_length = by_length;
    for (const std::size_t networks : {1U, 2U}) {
      Phase phase;
      phase.name = "joint";
      phase.networks.resize(networks);
      DataOrder order = data_order(options, phase.name, examples);
      std::vector<std::int64_t> read = {0};  // after so many steps, over several epochs
      for (std::int64_t step = 0; step < 12; ++step) {
        std::size_t tokens = 0;
        for (const std::uint32_t w : order.step(step)) tokens += lengths[w];
        read.push_back(read.back() + static_cast<std::int64_t>(networks * tokens));
      }
      for (std::size_t steps = 1; steps < read.size(); ++steps) {
        const std::int64_t last = read[steps] - read[steps - 1];
        for (const std::int64_t off : {-last / 3, std::int64_t{0}}) {
          options.schedule.max_tokens = read[steps] + off;
          EXPECT_EQ(steps_of_phase(options, phase, examples), static_cast<std::int64_t>(steps));
        }
      }
      options.schedule.max_tokens = 1;
      EXPECT_EQ(steps_of_phase(options, phase, examples), 1);
      // A walk runs one network in a step, of however many.
      phase.walk = Walk::kCyclic;
      options.schedule.max_tokens = read[6] / static_cast<std::int64_t>(networks);
      EXPECT_EQ(steps_of_phase(options, phase, examples), 6);
    }
  }
}

TEST(StepsOfPhase, ARunIsGivenItsLengthOnce) {
  TrainOptions options;
  options.schedule.max_steps = 3;
  EXPECT_NO_THROW(make_phases(options, tiny_base()->target()));
  options.schedule.max_tokens = 100;
  EXPECT_THROW(make_phases(options, tiny_base()->target()), Error);
}

TEST(DataOrder, EveryWindowOncePerEpochInANewOrder) {
  DataOrder order(1, "w8", 10, 4), same(1, "w8", 10, 4), other(2, "w8", 10, 4);
  std::vector<std::vector<std::uint32_t>> epochs;
  bool differs = false;
  for (std::int64_t epoch = 0; epoch < 2; ++epoch) {
    std::vector<std::uint32_t> all;
    for (std::int64_t s = 0; s < 3; ++s) {
      const auto step = order.step(epoch * 3 + s);
      EXPECT_EQ(step.size(), s == 2 ? 2U : 4U);
      EXPECT_EQ(step, same.step(epoch * 3 + s));
      differs = differs || step != other.step(epoch * 3 + s);
      all.insert(all.end(), step.begin(), step.end());
    }
    EXPECT_EQ(std::set<std::uint32_t>(all.begin(), all.end()).size(), 10U);
    epochs.push_back(all);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_TRUE(differs);
  // A step does not depend on those before it.
  DataOrder resumed(1, "w8", 10, 4);
  EXPECT_EQ(resumed.step(4), same.step(4));
}

TEST(DataOrder, ByLengthAStepHoldsWindowsOfLikeLengthAndStepsComeInAnyOrder) {
  const RandomStream stream(7, "lengths");
  std::vector<std::size_t> lengths;
  for (std::uint64_t i = 0; i < 203; ++i) lengths.push_back(1 + stream.below(400, i, 0));
  const auto length = [&](std::uint32_t window) { return lengths[window]; };
  DataOrder by_length(1, "w8", lengths.size(), 8, length), plain(1, "w8", lengths.size(), 8);
  auto spread = [&](DataOrder& order, std::int64_t epoch) {
    std::size_t sum = 0;
    for (std::int64_t s = 0; s < 25; ++s) {
      const auto step = order.step(epoch * 26 + s);
      EXPECT_EQ(step.size(), 8U);
      std::size_t least = 400, most = 0;
      for (const std::uint32_t window : step) {
        least = std::min(least, lengths[window]);
        most = std::max(most, lengths[window]);
      }
      sum += most - least;
    }
    return sum;
  };
  for (const std::int64_t epoch : {0, 1})
    EXPECT_LT(10 * spread(by_length, epoch), spread(plain, epoch));
  std::set<std::uint32_t> seen;
  std::vector<std::size_t> first_lengths;
  for (std::int64_t s = 26; s < 52; ++s) {
    const auto step = by_length.step(s);
    EXPECT_EQ(step.size(), s == 51 ? 3U : 8U);
    seen.insert(step.begin(), step.end());
    first_lengths.push_back(lengths[step[0]]);
  }
  EXPECT_EQ(seen.size(), lengths.size());
  EXPECT_FALSE(std::is_sorted(first_lengths.begin(), first_lengths.end(), std::greater<>()));
  // A step does not depend on those before it, and differs by epoch.
  DataOrder resumed(1, "w8", lengths.size(), 8, length);
  EXPECT_EQ(resumed.step(30), by_length.step(30));
  EXPECT_NE(resumed.step(4), by_length.step(30));
  // Fewer windows than a step.
  DataOrder few(1, "w8", 3, 8, length);
  EXPECT_EQ(few.step(0).size(), 3U);
}

// The order of checkpoints that were written before orders could be computed.
TEST(DataOrder, DrawsWhatItAlwaysDrew) {
  const auto length = [](std::uint32_t window) { return std::size_t{window % 7}; };
  DataOrder plain(3, "w4", 1'000, 4), by_length(3, "w4", 1'003, 4, length);
  using Step = std::vector<std::uint32_t>;
  EXPECT_EQ(plain.step(0), (Step{548, 42, 255, 546}));
  EXPECT_EQ(plain.step(777), (Step{96, 645, 489, 592}));
  EXPECT_EQ(by_length.step(5), (Step{738, 724, 759, 794}));
  EXPECT_EQ(by_length.step(250), (Step{440, 158, 704}));
  EXPECT_EQ(by_length.step(600), (Step{586, 229, 285, 985}));
}

TEST(DataOrder, MoreThanAMillionWindowsAreDrawnWithoutMemory) {
  const std::size_t count = (std::size_t{1} << 20) + 5;
  const auto length = [](std::uint32_t window) { return std::size_t{window % 101}; };
  DataOrder order(1, "w8", count, 1 << 14), by_length(1, "w8", count, 16, length);
  std::vector<bool> seen(count);
  std::size_t drawn = 0;
  for (std::int64_t s = 0; s < 65; ++s) {
    for (const std::uint32_t window : order.step(s)) {
      ASSERT_LT(window, count);
      drawn += seen[window] ? 0 : 1;
      seen[window] = true;
    }
  }
  EXPECT_EQ(drawn, count);
  for (const std::int64_t s : {0, 7, 65'535}) {
    const auto step = by_length.step(s);
    ASSERT_EQ(step.size(), 16U);
    EXPECT_LE(length(step.front()) - length(step.back()), 10U);
  }
  EXPECT_EQ(by_length.step(65'536).size(), 5U);
}

TEST(Phases, SwitchGoesFromHighToLowAndEachTeachesTheNext) {
  const auto base = tiny_base();
  TrainOptions options;
  options.method = Method::kSwitch;
  options.widths.bit_widths = {4, 8, 4, 6};
  options.widths.kv_bits = 16;
  const std::vector<Phase> phases = make_phases(options, base->target());
  ASSERT_EQ(phases.size(), 3U);
  const std::vector<int> expected = {8, 6, 4};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(phases[i].widths, std::vector<int>{expected[i]});
    EXPECT_EQ(phases[i].networks[0].plan.linears[0].weight.bits, expected[i]);
    EXPECT_EQ(phases[i].networks[0].plan.linears[0].activation.bits, expected[i]);
    EXPECT_EQ(phases[i].networks[0].plan.k[0][0].bits, 16);
    EXPECT_EQ(phases[i].teacher.has_value(), i > 0);
    if (i > 0) {
      EXPECT_EQ(*phases[i].teacher, i - 1);
      EXPECT_EQ(*phases[i].head_from, expected[i - 1]);
    }
  }
}

TEST(Phases, PlanTrainsTheAdapterOfEachOfItsWidths) {
  const auto base = tiny_base();
  TrainOptions options;
  options.plan = mixed_plan(*base);
  const std::vector<Phase> phases = make_phases(options, base->target());
  ASSERT_EQ(phases.size(), 1U);
  EXPECT_EQ(phases[0].widths, (std::vector<int>{8, 4}));
  EXPECT_FALSE(phases[0].teacher);
}

TEST(Options, ContradictionsAndBadNumbersAreRefusedBySentence) {
  const auto base = tiny_base();
  auto refusal = [&](auto&& change, ErrorKind kind) {
    TrainOptions options;
    change(options);
    try {
      check_options(options, base->target());
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  using ::testing::Test;
  EXPECT_NE(refusal([](auto& o) { o.schedule.learning_rate = NAN; }, ErrorKind::kUsage)
                .find("--learning_rate"),
            std::string::npos);
  EXPECT_NE(
      refusal([](auto& o) { o.distillation.kd_alpha = 1.5; }, ErrorKind::kUsage).find("--kd_alpha"),
      std::string::npos);
  EXPECT_NE(
      refusal([](auto& o) { o.quantizers.ste_clip = 1; }, ErrorKind::kUsage).find("--ste_clip"),
      std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.adapters.lora_r = 0; }, ErrorKind::kUsage).find("--lora_r"),
            std::string::npos);
  EXPECT_NE(refusal(
                [](auto& o) {
                  o.method = Method::kSwitch;
                  o.widths.bit_widths = {9};
                },
                ErrorKind::kUsage)
                .find("--bit_widths: found 9"),
            std::string::npos);
}

// Whatever stands behind a flag is refused by its name or meant, and no arithmetic overflows.
TEST(Options, NumbersOutOfRangeAreRefused) {
  const auto base = tiny_base();
  static constexpr std::size_t kHuge = std::size_t{1} << 62;
  static constexpr std::int64_t kHugeSteps = std::int64_t{1} << 62;
  const double bad[] = {NAN, INFINITY, -INFINITY, -1, 1e300};
  using Set = std::function<void(TrainOptions&, double)>;
  const std::pair<const char*, Set> numbers[] = {
      {"--num_train_epochs", [](auto& o, double v) { o.schedule.num_train_epochs = v; }},
      {"--learning_rate", [](auto& o, double v) { o.schedule.learning_rate = v; }},
      {"--max_grad_norm", [](auto& o, double v) { o.schedule.max_grad_norm = v; }},
      {"--weight_decay", [](auto& o, double v) { o.schedule.weight_decay = v; }},
      {"--lora_alpha", [](auto& o, double v) { o.adapters.lora_alpha = v; }},
      {"--kd_alpha", [](auto& o, double v) { o.distillation.kd_alpha = v; }},
      {"--kd_beta", [](auto& o, double v) { o.distillation.kd_beta = v; }},
      {"--kd_temperature", [](auto& o, double v) { o.distillation.kd_temperature = v; }},
      {"--hidden_kd", [](auto& o, double v) { o.distillation.hidden_kd = v; }},
      {"--contrastive", [](auto& o, double v) { o.distillation.contrastive = v; }},
      {"--contrastive_temperature",
       [](auto& o, double v) { o.distillation.contrastive_temperature = v; }},
      {"--learn_steps_rate", [](auto& o, double v) { o.quantizers.learn_steps_rate = v; }},
      {"--adversarial_epsilon", [](auto& o, double v) { o.adversarial.epsilon = v; }},
      {"--adversarial_step_size", [](auto& o, double v) { o.adversarial.step_size = v; }},
  };
  const auto expect_refused = [&](const std::string& flag, const TrainOptions& options) {
    const auto error = qalof::testing::error_of([&] { check_options(options, base->target()); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage) << flag;
    EXPECT_EQ(error.message.find(flag + ": found "), 0U) << error.message;
  };
  for (const auto& [flag, set] : numbers) {
    for (const double value : bad) {
      TrainOptions options;
      options.method = Method::kJoint;
      set(options, value);
      expect_refused(flag, options);
    }
  }
  const std::pair<const char*, std::function<void(TrainOptions&)>> others[] = {
      {"--num_train_epochs", [](auto& o) { o.schedule.num_train_epochs = 0; }},
      {"--kd_temperature", [](auto& o) { o.distillation.kd_temperature = 0; }},
      {"--contrastive_temperature",
       [](auto& o) { o.distillation.contrastive_temperature = 1e-300; }},
      {"--learn_steps_rate", [](auto& o) { o.quantizers.learn_steps_rate = 0; }},
      {"--lora_r", [](auto& o) { o.adapters.lora_r = 0; }},
      {"--lora_r", [](auto& o) { o.adapters.lora_r = kHuge; }},
      {"--per_device_train_batch_size", [](auto& o) { o.schedule.batch_size = 0; }},
      {"--per_device_train_batch_size", [](auto& o) { o.schedule.batch_size = kHuge; }},
      {"--gradient_accumulation_steps",
       [](auto& o) { o.schedule.gradient_accumulation_steps = 0; }},
      {"--gradient_accumulation_steps",
       [](auto& o) { o.schedule.gradient_accumulation_steps = kHuge; }},
      {"--max_steps", [](auto& o) { o.schedule.max_steps = -1; }},
      {"--max_steps", [](auto& o) { o.schedule.max_steps = kHugeSteps; }},
      {"--warmup_steps", [](auto& o) { o.schedule.warmup_steps = -1; }},
      {"--warmup_steps", [](auto& o) { o.schedule.warmup_steps = kHugeSteps; }},
      {"--max_tokens", [](auto& o) { o.schedule.max_tokens = -1; }},
  };
  for (const auto& [flag, set] : others) {
    TrainOptions options;
    options.method = Method::kJoint;
    set(options);
    expect_refused(flag, options);
  }
  TrainOptions cyclic;
  cyclic.method = Method::kCpt;
  for (const std::int64_t cycles : {std::int64_t{0}, kHugeSteps}) {
    cyclic.widths.num_cyclic_period = cycles;
    expect_refused("--num_cyclic_period", cyclic);
  }
}

TEST(StepsOfPhase, LengthsThatCannotBeAreRefusedAtOnce) {
  const std::vector<Example> examples = windows_of(std::vector<std::size_t>(100, 5));
  Phase phase;
  phase.networks.resize(1);
  TrainOptions options;
  options.schedule.batch_size = 1;
  options.schedule.num_train_epochs = 1e9;
  const auto epochs = qalof::testing::error_of([&] { steps_of_phase(options, phase, examples); });
  EXPECT_EQ(epochs.kind, ErrorKind::kUsage);
  EXPECT_NE(epochs.message.find("--num_train_epochs: found 1000000000"), std::string::npos)
      << epochs.message;
  options.schedule.num_train_epochs = 1e6;
  EXPECT_EQ(steps_of_phase(options, phase, examples), 100'000'000);
  options.schedule.num_train_epochs = 1e-300;
  EXPECT_EQ(steps_of_phase(options, phase, examples), 1);
  options.schedule.max_tokens = std::numeric_limits<std::int64_t>::max();
  const auto tokens = qalof::testing::error_of([&] { steps_of_phase(options, phase, examples); });
  EXPECT_EQ(tokens.kind, ErrorKind::kUsage);
  EXPECT_NE(tokens.message.find("--max_tokens: found "), std::string::npos) << tokens.message;
  options.schedule.max_tokens = 4'000'000'000;
  EXPECT_EQ(steps_of_phase(options, phase, examples), 800'000'000) << "without a walk over them";
}

TEST(Examples, BadWindowsAreNamed) {
  const auto base = tiny_base();
  auto refusal = [&](Example example, weights::HeadKind head_kind, std::size_t num_labels = 3) {
    TrainOptions options;
    options.head_kind = head_kind;
    options.num_labels = num_labels;
    try {
      check_examples(std::span<const Example>(&example, 1), base->config(), options);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  using weights::HeadKind;
  EXPECT_EQ(refusal({{1, 97}, 0, 0}, HeadKind::kSpan),
            "training window 0: token id 97, expected 0..96");
  EXPECT_EQ(refusal({{1, 2}, 0, 2}, HeadKind::kSpan),
            "training window 0: answer at token 2, expected 0..1");
  EXPECT_EQ(refusal({{1}, 0, 0}, HeadKind::kLm), "training window 0: 1 tokens, expected 2..64");
  EXPECT_EQ(refusal({std::vector<std::int32_t>(65, 1), 0, 0}, HeadKind::kSpan),
            "training window 0: 65 tokens, expected 1..64");
  EXPECT_EQ(refusal({{1}, 0, 0}, HeadKind::kSpan), "accepted");
  EXPECT_EQ(refusal({{1}, 0, 0, 3}, HeadKind::kClass), "training window 0: class 3, expected 0..2");
  EXPECT_EQ(refusal({{1}, 0, 0, -1}, HeadKind::kClass),
            "training window 0: class -1, expected 0..2");
  EXPECT_EQ(refusal({{1}, 0, 0, 0}, HeadKind::kClass, 1),
            "training data: 1 classes, expected at least 2");
  EXPECT_EQ(refusal({{1}, 0, 0, 2}, HeadKind::kClass), "accepted");
}

}  // namespace schedule_test
}  // namespace qalof::train
