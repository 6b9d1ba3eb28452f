// A Llama written by transformers gives here what it gives there: rotary positions with and
// without Llama 3's scaling, grouped queries, tied and untied heads.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/fixture_model.h"

namespace qalof::runtime {
namespace llama_parity_test {

using qalof::testing::execution_of;
using qalof::testing::hidden_of;
using qalof::testing::runtime_data;
using qalof::testing::span_difference;
using qalof::testing::span_logits_of;

const Json& expected(const std::string& form) {
  static const Json all = read_json_file(runtime_data("llama/expected.json"));
  return all.at(form);
}

std::shared_ptr<const weights::BaseModel> open(const std::string& form) {
  return weights::BaseModel::load_directory(runtime_data("llama/" + form));
}

// Compares losses, and span logits where there are some, with what transformers computed in
// float64 from angles in f32.
void expect_parity(const std::string& form) {
  SCOPED_TRACE(form);
  const auto execution = execution_of(open(form), "32");
  SerialFor serial;
  for (const Json& entry : expected(form)["runs"]) {
    const auto ids = entry["ids"].get<std::vector<std::int32_t>>();
    SCOPED_TRACE(ids.size());
    if (entry.contains("span_logits")) {
      ASSERT_NE(execution->head(weights::HeadKind::kSpan), nullptr);
      EXPECT_LE(span_difference(entry["span_logits"], span_logits_of(*execution, ids)), 2e-5);
    }
    const std::vector<float> hidden = hidden_of(*execution, ids);
    const std::vector<float> losses =
        lm_token_losses(*execution, hidden.data(), std::span(ids).subspan(1), serial);
    ASSERT_EQ(losses.size(), entry["losses"].size());
    for (std::size_t t = 0; t < losses.size(); ++t) {
      const double loss = entry["losses"][t];
      EXPECT_LE(std::abs(static_cast<double>(losses[t]) - loss), 1e-5 * std::max(1.0, loss));
    }
  }
}

TEST(LlamaParity, TiedEmbeddingAndSpanHead) { expect_parity("tied"); }
TEST(LlamaParity, OwnHeadAndScaledPositions) { expect_parity("scaled"); }

TEST(LlamaParity, FrequenciesAreThoseOfTransformers) {
  for (const char* form : {"tied", "scaled"}) {
    const auto base = open(form);
    const std::vector<float>& found = base->rotary();
    const Json& wanted = expected(form)["frequencies"];
    ASSERT_EQ(found.size(), wanted.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      const double value = wanted[i];
      // transformers rounds after each of its steps.
      EXPECT_LE(std::abs(static_cast<double>(found[i]) - value), 1e-6 * value) << form << " " << i;
    }
  }
}

TEST(LlamaParity, SixteenBitsStayNearThirtyTwo) {
  const auto base = open("tied");
  const auto execution = execution_of(base, "16");
  for (const Json& entry : expected("tied")["runs"]) {
    const auto ids = entry["ids"].get<std::vector<std::int32_t>>();
    const double difference =
        span_difference(entry["span_logits"], span_logits_of(*execution, ids));
    EXPECT_LE(difference, 0.2);
    EXPECT_GT(difference, 1e-4);
  }
}

TEST(LlamaParity, PlansNameSevenLinearsALayer) {
  const auto base = open("tied");
  ASSERT_EQ(base->linears().size(), 14U);
  EXPECT_EQ(base->linears()[7].name, "layers.1.self_attn.q_proj");
  const auto plan = quant::plan_from_json(Json::parse(R"({"format_version": 1, "default": "w8a8kv8",
                      "modules": {"model.layers.1.mlp.gate_proj": "w4a4"}})"),
                                          "test plan");
  const quant::PrecisionPlan resolved = quant::resolve(plan, base->target());
  EXPECT_EQ(resolved.linears[11].weight.bits, 4);
  EXPECT_EQ(resolved.linears[12].weight.bits, 8);
}

}  // namespace llama_parity_test
}  // namespace qalof::runtime
