// Classification: logits of the last token, independence of the batch, and heads of another size.
#include "runtime/classifier.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "io/adapter_dir.h"
#include "io/peft.h"
#include "support/error_of.h"
#include "support/tiny_runtime.h"
#include "weights/packed_file.h"

namespace qalof::runtime {
namespace classifier_test {

using qalof::testing::random_adapters;
using qalof::testing::same_bytes;
using qalof::testing::tensor_values;
using qalof::testing::TinyRuntime;

// Adapters of 8 and 4 bits with heads of their own.
std::shared_ptr<weights::AdapterSet> with_class_heads(const model::ModelConfig& config,
                                                      std::size_t classes = 3) {
  auto set = std::make_shared<weights::AdapterSet>();
  const auto pairs = random_adapters(config, {8, 4});
  for (const auto& [width, source] : pairs->by_width) {
    auto adapter = std::make_shared<weights::Adapter>();
    adapter->rank = source->rank;
    adapter->alpha = source->alpha;
    for (std::size_t i = 0; i < source->linears.size(); ++i) {
      const weights::LoraLinear& lora = *source->linears[i];
      const model::LinearSpec spec = model::linears(config)[i];
      adapter->linears.push_back(std::make_unique<weights::LoraLinear>(
          lora.rank(), lora.view().scaling, lora.a(), lora.b(), spec.in, spec.out));
    }
    adapter->class_head = weights::Head{
        classes, tensor_values(fmt::format("score{}", width), classes * config.hidden, 0.3F), {}};
    set->by_width[width] = adapter;
  }
  for (std::size_t label = 0; label < classes; ++label)
    set->label_names.push_back(fmt::format("class {}", label));
  return set;
}

class ClassifierTest : public ::testing::TestWithParam<bool> {
 protected:
  ClassifierTest()
      : model_(GetParam() ? qalof::testing::tiny_llama_config() : qalof::testing::tiny_config()),
        adapters_(with_class_heads(model_.config())) {}

  std::vector<float> logits(const Execution& execution, std::span<const Sequence> sequences) {
    SerialFor serial;
    std::vector<float> result;
    class_logits(execution, sequences, workspace_, result, serial);
    return result;
  }

  TinyRuntime model_;
  std::shared_ptr<weights::AdapterSet> adapters_;
  ClassifierWorkspace workspace_;
};
INSTANTIATE_TEST_SUITE_P(Families, ClassifierTest, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "Llama" : "Gpt2"; });

TEST_P(ClassifierTest, LogitsAreTheHeadOnTheLastToken) {
  const auto ids = model_.ids(9);
  const auto execution = model_.execution("32", adapters_);
  SerialFor serial;
  const std::vector<float> hidden = model_.run(*execution, ids, 0, serial);
  const std::size_t width = model_.config().hidden;
  const weights::Head& head =
      *adapters_->by_width.at(8)->class_head;  // 32 is served by the nearest below
  const Sequence sequence{ids};
  const std::vector<float> found = logits(*execution, {&sequence, 1});
  ASSERT_EQ(found.size(), 3U);
  for (std::size_t label = 0; label < 3; ++label) {
    double expected = 0;
    for (std::size_t i = 0; i < width; ++i) {
      expected += static_cast<double>(head.weight[label * width + i]) *
                  static_cast<double>(hidden[8 * width + i]);
    }
    EXPECT_NEAR(static_cast<double>(found[label]), expected, 1e-5);
  }
}

TEST_P(ClassifierTest, ASequenceHasTheSameBitsAloneAndBesideOthersAtOtherPrecisions) {
  const auto eight = model_.execution("8", adapters_), four = model_.execution("4", adapters_);
  std::vector<std::vector<std::int32_t>> texts;
  for (const std::size_t length : {1, 17, 5, 30}) texts.push_back(model_.ids(length, length + 2));
  std::vector<Sequence> batch;
  std::vector<float> alone;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const Execution* own = i % 2 == 1 ? four.get() : nullptr;
    batch.push_back({texts[i], nullptr, own});
    const Sequence one{texts[i]};
    const std::vector<float> row = logits(own != nullptr ? *four : *eight, {&one, 1});
    alone.insert(alone.end(), row.begin(), row.end());
  }
  EXPECT_TRUE(same_bytes(logits(*eight, batch), alone));
  const Sequence at_eight{texts[1]};
  EXPECT_FALSE(same_bytes(logits(*eight, {&at_eight, 1}), std::span(alone).subspan(3, 3)))
      << "each execution has its own head and adapter";
}

TEST_P(ClassifierTest, WithoutAHeadOrWithHeadsOfOtherSizesItSaysSo) {
  const auto bare = model_.execution("8");
  const auto ids = model_.ids(4);
  const Sequence sequence{ids};
  const auto missing = qalof::testing::error_of([&] { logits(*bare, {&sequence, 1}); });
  EXPECT_EQ(missing.kind, ErrorKind::kBadInput);
  EXPECT_NE(missing.message.find("score"), std::string::npos);
  const auto two = model_.execution("8", with_class_heads(model_.config(), 2));
  const auto three = model_.execution("8", adapters_);
  const Sequence mixed[] = {{ids}, {ids, nullptr, two.get()}};
  EXPECT_EQ(qalof::testing::error_of([&] { logits(*three, mixed); }).kind, ErrorKind::kBadInput);
}

TEST_P(ClassifierTest, PackedFileAndPeftDirectoriesHoldHeadsAndNames) {
  const qalof::testing::TempDir dir;
  SerialFor serial;
  weights::PackRequest request;
  request.base = model_.base();
  request.adapters = adapters_;
  request.widths = {8, 4};
  weights::write_packed_file(dir.file("model.qalof"), request, serial);
  const weights::PackedModel packed = weights::open_packed_file(dir.file("model.qalof"));
  EXPECT_EQ(packed.adapters->label_names, adapters_->label_names);

  io::AdapterDir description;
  for (const auto& [width, adapter] : adapters_->by_width) {
    const std::string name = fmt::format("w{}", width);
    weights::save_adapter(dir.file("out/" + name), *adapter, model_.config(),
                          weights::HeadKind::kClass, "base");
    description.adapters[width] = description.heads[width] = name;
    const io::PeftAdapter peft = io::read_peft(dir.file("out/" + name));
    EXPECT_EQ(peft.config().task_type, "SEQ_CLS");
    EXPECT_EQ(peft.config().modules_to_save, std::vector<std::string>{"score"});
    const std::string prefix = GetParam() ? "model." : "transformer.";
    EXPECT_TRUE(
        peft.tensors().contains(prefix + model_.base()->linears()[0].name + ".lora_A.weight"));
    EXPECT_TRUE(peft.tensors().contains("score.weight"));
  }
  description.label_names = adapters_->label_names;
  io::write_adapter_dir(dir.file("out"), description);
  const auto read = std::make_shared<weights::AdapterSet>(
      weights::load_adapters(dir.file("out"), model_.config()));
  EXPECT_EQ(read->label_names, adapters_->label_names);

  const auto ids = model_.ids(12);
  const Sequence sequence{ids};
  for (const char* plan : {"8", "4"}) {
    const std::vector<float> expected = logits(*model_.execution(plan, adapters_), {&sequence, 1});
    EXPECT_TRUE(same_bytes(logits(*model_.execution(plan, read), {&sequence, 1}), expected));
    const auto execution = Execution::create(
        packed.base, quant::resolve(quant::parse_plan(plan), packed.base->target()),
        packed.adapters, serial);
    EXPECT_TRUE(same_bytes(logits(*execution, {&sequence, 1}), expected)) << plan;
  }
  description.label_names.pop_back();
  io::write_adapter_dir(dir.file("out"), description);
  EXPECT_EQ(qalof::testing::error_of([&] {
              weights::load_adapters(dir.file("out"), model_.config());
            }).kind,
            ErrorKind::kBadInput);
}

TEST(ClassLoss, IsNegativeLogSoftmaxAndTheFirstOfEqualsWins) {
  const std::vector<float> logits = {1.0F, 3.0F, 3.0F, -2.0F};
  EXPECT_EQ(best_class(logits), 1);
  const double sum = std::exp(1.0) + 2 * std::exp(3.0) + std::exp(-2.0);
  EXPECT_NEAR(class_loss(logits, 3), std::log(sum) + 2.0, 1e-12);
  const std::vector<float> large = {500.0F, 1500.0F};
  EXPECT_NEAR(class_loss(large, 0), 1000.0, 1e-9);
}

}  // namespace classifier_test
}  // namespace qalof::runtime
