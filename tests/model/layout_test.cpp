// Names and shapes of GPT-2's linears and tensors, and the original's plan against them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "model/config.h"
#include "support/error_of.h"

namespace qalof::model {
namespace layout_test {

ModelConfig small() {
  return parse_model_config({{"model_type", "gpt2"},
                             {"vocab_size", 11},
                             {"n_positions", 7},
                             {"n_embd", 6},
                             {"n_layer", 2},
                             {"n_head", 3},
                             {"n_inner", 10}},
                            "small");
}

TEST(ModelLayout, LinearsStandInForwardOrderWithTheirShapes) {
  const std::vector<LinearSpec> specs = linears(small());
  ASSERT_EQ(specs.size(), 8U);
  const struct {
    const char* name;
    std::size_t in, out;
  } kExpected[] = {
      {"attn.c_attn", 6, 18}, {"attn.c_proj", 6, 6}, {"mlp.c_fc", 6, 10}, {"mlp.c_proj", 10, 6}};
  for (std::size_t i = 0; i < specs.size(); ++i) {
    EXPECT_EQ(specs[i].name, fmt::format("h.{}.{}", i / 4, kExpected[i % 4].name));
    EXPECT_EQ(specs[i].in, kExpected[i % 4].in);
    EXPECT_EQ(specs[i].out, kExpected[i % 4].out);
    EXPECT_EQ(specs[i].layer, i / 4);
    EXPECT_TRUE(specs[i].conv1d);
  }
}

TEST(ModelLayout, PlanTargetIsThoseLinears) {
  const quant::PlanTarget target = plan_target(small());
  EXPECT_EQ(target.linear_names[5], "h.1.attn.c_proj");
  EXPECT_EQ(target.linear_weights, (std::vector<std::size_t>{108, 36, 60, 60, 108, 36, 60, 60}));
  EXPECT_EQ(target.num_layers, 2U);
  EXPECT_EQ(target.num_kv_heads, 3U);
}

TEST(ModelLayout, TensorsAreThoseOfAHuggingFaceFile) {
  std::map<std::string, std::vector<std::size_t>> shapes;
  for (const TensorSpec& spec : expected_tensors(small())) {
    EXPECT_TRUE(shapes.emplace(spec.name, spec.shape).second) << spec.name << " appears twice";
  }
  using Shape = std::vector<std::size_t>;
  std::map<std::string, Shape> expected = {
      {"wte.weight", {11, 6}}, {"wpe.weight", {7, 6}}, {"ln_f.weight", {6}}, {"ln_f.bias", {6}}};
  for (const std::string layer : {"h.0.", "h.1."}) {
    for (const char* norm : {"ln_1", "ln_2"}) {
      expected[layer + norm + ".weight"] = expected[layer + norm + ".bias"] = {6};
    }
    expected[layer + "attn.c_attn.weight"] = {6, 18};
    expected[layer + "attn.c_attn.bias"] = {18};
    expected[layer + "attn.c_proj.weight"] = {6, 6};
    expected[layer + "attn.c_proj.bias"] = {6};
    expected[layer + "mlp.c_fc.weight"] = {6, 10};
    expected[layer + "mlp.c_fc.bias"] = {10};
    expected[layer + "mlp.c_proj.weight"] = {10, 6};
    expected[layer + "mlp.c_proj.bias"] = {6};
  }
  EXPECT_EQ(shapes, expected);
}

TEST(ModelLayout, ParametersCountTheTiedHeadOnce) {
  ModelConfig config = small();
  // Ends 11*6 + 7*6 + 2*6; a layer has norms of 24, weights of 264 and biases of 18 + 6 + 10 + 6.
  EXPECT_EQ(parameter_count(config), 120U + 2 * (24U + 264U + 40U));
  EXPECT_EQ(row_tensors(config).size(), 2U);
  set_lm_head(config, LmHead::kOwn);
  EXPECT_EQ(parameter_count(config), 120U + 2 * (24U + 264U + 40U) + 66U);
  EXPECT_EQ(row_tensors(config).back().name, "lm_head.weight");
  EXPECT_EQ(config.raw["tie_word_embeddings"], false);
  set_lm_head(config, LmHead::kNone);
  EXPECT_EQ(parameter_count(config), 120U + 2 * (24U + 264U + 40U));
  EXPECT_EQ(row_tensors(config).size(), 2U);
}

TEST(ModelLayout, LargestModelDoesNotOverflow) {
  const ModelConfig config = parse_model_config({{"model_type", "gpt2"},
                                                 {"vocab_size", 1 << 24},
                                                 {"n_positions", 1 << 24},
                                                 {"n_embd", 65'536},
                                                 {"n_layer", 1024},
                                                 {"n_head", 1024},
                                                 {"tie_word_embeddings", false}},
                                                "largest");
  const double hidden = 65'536;
  const double expected =
      hidden * (3.0 * (1 << 24) + 2) + 1024 * (12 * hidden * hidden + 13 * hidden);
  EXPECT_DOUBLE_EQ(static_cast<double>(parameter_count(config)), expected);
}

class OriginalPlan : public ::testing::Test {
 protected:
  const std::string path_ = QALOF_SOURCE_DIR "/configs/sp_config.json";
  const quant::PlanTarget target_ =
      plan_target(parse_model_config(named_model_config("gpt2", "124M"), "named"));
};

TEST_F(OriginalPlan, FourteenOf48ModulesWithAQuarterOfTheWeightsAreAt4Bits) {
  const quant::PrecisionPlan plan = quant::resolve(quant::parse_plan(path_), target_);
  ASSERT_EQ(plan.linears.size(), 48U);
  std::set<std::string> low;
  std::size_t low_weights = 0, weights = 0;
  for (std::size_t i = 0; i < plan.linears.size(); ++i) {
    weights += target_.linear_weights[i];
    EXPECT_EQ(plan.linears[i].weight, plan.linears[i].activation);
    if (plan.linears[i].weight == quant::BitWidth{4}) {
      low.insert(target_.linear_names[i]);
      low_weights += target_.linear_weights[i];
    } else {
      EXPECT_EQ(plan.linears[i].weight, quant::BitWidth{8});
    }
  }
  EXPECT_EQ(low, (std::set<std::string>{"h.0.attn.c_proj", "h.1.attn.c_proj", "h.2.attn.c_proj",
                                        "h.3.attn.c_proj", "h.9.mlp.c_fc", "h.9.mlp.c_proj",
                                        "h.10.attn.c_attn", "h.10.attn.c_proj", "h.10.mlp.c_fc",
                                        "h.10.mlp.c_proj", "h.11.attn.c_attn", "h.11.attn.c_proj",
                                        "h.11.mlp.c_fc", "h.11.mlp.c_proj"}));
  EXPECT_EQ(4 * low_weights, weights);
  EXPECT_DOUBLE_EQ(plan.mean_weight_bits(target_), 7.0);
  EXPECT_DOUBLE_EQ(plan.mean_activation_bits(target_), 7.0);
  EXPECT_EQ(plan.default_width, quant::BitWidth{8});
  EXPECT_EQ(plan.head_width(target_), quant::BitWidth{8});
  EXPECT_EQ(plan.k, std::vector(12, std::vector<quant::BitWidth>(12, quant::BitWidth{16})));
  EXPECT_EQ(plan.v, plan.k);
  EXPECT_EQ(quant::describe(plan, target_), "mixed (w4a4 x14, w8a8 x34; kv16), 7.00 weight bits");
}

TEST_F(OriginalPlan, SaysTheSameAsRules) {
  const quant::PlanSpec rules =
      quant::plan_from_json(parse_json(R"({"format_version": 1, "default": "w8a8", "rules": [
          {"match": "h\\.[0-3]\\.attn\\.c_proj", "set": 4},
          {"match": "h\\.9\\.mlp\\..*", "set": 4},
          {"match": "h\\.(10|11)\\..*", "set": 4}]})",
                                       "rules"),
                            "rules");
  EXPECT_EQ(quant::resolve(rules, target_), quant::resolve(quant::parse_plan(path_), target_));
}

TEST_F(OriginalPlan, DoesNotFitAnotherSize) {
  const quant::PlanTarget medium =
      plan_target(parse_model_config(named_model_config("gpt2", "355M"), "named"));
  const auto error =
      ::qalof::testing::error_of([&] { quant::resolve(quant::parse_plan(path_), medium); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message,
              ::testing::HasSubstr("module h.12.attn.c_attn has no width (48 of 96"));
}

}  // namespace layout_test
}  // namespace qalof::model
