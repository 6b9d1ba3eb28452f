// Training that starts from adapters (TrainOptions::start).
#include <gtest/gtest.h>

#include "core/error.h"
#include "train/trainer.h"
#include "train_test_util.h"

namespace qalof::train {
namespace start_test {

TrainOptions short_run(Method method) {
  TrainOptions options;
  options.method = method;
  options.schedule.max_steps = 3;
  options.schedule.warmup_steps = 1;
  options.schedule.batch_size = 3;
  options.adapters.lora_r = 3;
  options.adapters.lora_alpha = 6;
  options.threads = 2;
  return options;
}

class StartTest : public ::testing::TestWithParam<Family> {
 protected:
  StartTest() : base_(tiny_base(GetParam())), examples_(tiny_examples(6)) {
    start_ = make_adapter_set(train(base_, short_run(Method::kLora), examples_, {}).weights);
  }

  TrainResult go_on(TrainOptions options) {
    options.start = start_;
    return train(base_, options, examples_, {});
  }

  std::shared_ptr<const weights::BaseModel> base_;
  std::vector<Example> examples_;
  std::shared_ptr<const weights::AdapterSet> start_;
};
INSTANTIATE_TEST_SUITE_P(Families, StartTest, ::testing::Values(Family::kGpt2, Family::kLlama),
                         family_name);

TEST_P(StartTest, EveryWidthBeginsAsWhatServesIt) {
  for (const Method method : {Method::kLora, Method::kSwitch, Method::kJoint, Method::kRandom}) {
    TrainOptions options = short_run(method);
    options.schedule.learning_rate = 0;
    const TrainResult result = go_on(options);
    for (const auto& [width, adapter] : result.weights.adapters)
      EXPECT_TRUE(same_adapter(*adapter, *start_->by_width.at(32))) << to_string(method) << width;
  }
}

TEST_P(StartTest, LearnsFromThere) {
  TrainOptions options = short_run(Method::kJoint);
  const TrainResult result = go_on(options);
  EXPECT_FALSE(same_adapter(*result.weights.adapters.at(4), *start_->by_width.at(32)));
  options.start = nullptr;
  const TrainResult fresh = train(base_, options, examples_, {});
  EXPECT_FALSE(same_adapter(*result.weights.adapters.at(4), *fresh.weights.adapters.at(4)));
}

// B of another alpha is scaled, so that the first loss is the same.
TEST_P(StartTest, AnotherAlphaIsTheSameFunction) {
  TrainOptions options = short_run(Method::kLora);
  options.schedule.max_steps = 1;
  const double loss = go_on(options).train_loss;
  options.adapters.lora_alpha = 12;
  // Powers of two: scaling is exact, sums are not made in another order.
  EXPECT_EQ(go_on(options).train_loss, loss);
}

TEST_P(StartTest, WhatDoesNotFitIsRefusedByName) {
  const auto message_of = [&](auto&& change) {
    TrainOptions options = short_run(Method::kJoint);
    change(options);
    try {
      go_on(options);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_NE(message_of([](auto& o) {
              o.adapters.lora_r = 4;
            }).find("rank 3, expected that of --lora_r, 4"),
            std::string::npos);
  EXPECT_NE(message_of([](auto& o) {
              o.adapters.adapter_form = AdapterForm::kCascaded;
            }).find("cascaded"),
            std::string::npos);
  EXPECT_NE(
      message_of([](auto& o) { o.adapters.adapter_form = AdapterForm::kMerged; }).find("separate"),
      std::string::npos);
  EXPECT_NE(message_of([](auto& o) {
              o.adapters.init_lora = InitLora::kResidualSvd;
            }).find("--init_lora"),
            std::string::npos);
  EXPECT_NE(message_of([](auto& o) { o.method = Method::kFull; }).find("--method full"),
            std::string::npos);
}

}  // namespace start_test
}  // namespace qalof::train
