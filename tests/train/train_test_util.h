// A tiny model, windows and helpers shared by the tests of training.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/random.h"
#include "runtime/decoder.h"
#include "runtime/execution.h"
#include "support/tiny_model.h"
#include "train/batch.h"
#include "train/options.h"

namespace qalof::train {

enum class Family { kGpt2, kLlama };

inline std::shared_ptr<const weights::BaseModel> tiny_base(Family family = Family::kGpt2) {
  const qalof::testing::TempDir dir;
  qalof::testing::write_model(dir.path(), family == Family::kGpt2
                                              ? qalof::testing::tiny_config()
                                              : qalof::testing::tiny_llama_config());
  return weights::BaseModel::load_directory(dir.path());
}

/// Of tests that run for each family.
inline std::string family_name(const ::testing::TestParamInfo<Family>& test) {
  return test.param == Family::kGpt2 ? "Gpt2" : "Llama";
}

/// Windows of odd lengths, a one-token window (qa) or two-token window (lm) among them.
inline std::vector<Example> tiny_examples(std::size_t count, std::size_t shortest = 1) {
  const RandomStream stream(3, "examples");
  std::vector<Example> examples;
  for (std::size_t i = 0; i < count; ++i) {
    Example example;
    const std::size_t length = i == 2 ? shortest : 3 + stream.below(20, i, 0);
    for (std::size_t t = 0; t < length; ++t) {
      example.ids.push_back(static_cast<std::int32_t>(stream.below(97, i, t + 1)));
    }
    example.start = static_cast<std::int32_t>(stream.below(length, i, 100));
    example.end = static_cast<std::int32_t>(stream.below(length, i, 101));
    example.label = static_cast<std::int32_t>(i % 3);
    examples.push_back(std::move(example));
  }
  return examples;
}

inline quant::PrecisionPlan plan_of(const std::string& text, const weights::BaseModel& base) {
  return quant::resolve(quant::parse_plan(text), base.target());
}

/// Alternates 8 and 4 bits over the linears, with K at 8 and V at 4 bits.
inline quant::PrecisionPlan mixed_plan(const weights::BaseModel& base) {
  quant::PrecisionPlan plan = plan_of("w8a8k8v4", base);
  for (std::size_t i = 0; i < plan.linears.size(); i += 2) plan.linears[i] = {{4}, {4}};
  return plan;
}

inline bool same_bytes(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Final states [tokens, hidden] of a batch as the runtime computes them.
inline std::vector<float> runtime_hidden(const runtime::Execution& execution,
                                         const PackedBatch& batch) {
  std::vector<runtime::Sequence> sequences;
  for (std::size_t w = 0; w < batch.windows(); ++w) {
    sequences.push_back(
        {std::span(batch.ids).subspan(batch.offsets[w], batch.offsets[w + 1] - batch.offsets[w])});
  }
  runtime::DecoderWorkspace workspace;
  std::vector<float> hidden(batch.tokens() * execution.base().config().hidden);
  SerialFor serial;
  runtime::forward(execution, sequences, workspace, hidden.data(), serial);
  return hidden;
}

inline bool same_head(const std::optional<weights::Head>& a,
                      const std::optional<weights::Head>& b) {
  return a.has_value() == b.has_value() &&
         (!a || (same_bytes(a->weight, b->weight) && same_bytes(a->bias, b->bias)));
}

inline bool same_adapter(const weights::Adapter& a, const weights::Adapter& b) {
  if (a.linears.size() != b.linears.size()) return false;
  for (std::size_t i = 0; i < a.linears.size(); ++i) {
    if (!same_bytes(a.linears[i]->a(), b.linears[i]->a())) return false;
    if (!same_bytes(a.linears[i]->b(), b.linears[i]->b())) return false;
  }
  if (a.merged != b.merged || a.learned.has_value() != b.learned.has_value()) return false;
  for (std::size_t i = 0; a.learned && i < a.linears.size(); ++i) {
    const weights::LearnedLinear &x = a.learned->linears[i], &y = b.learned->linears[i];
    if (!same_bytes(x.steps, y.steps) || x.zeros != y.zeros || x.clip != y.clip) return false;
  }
  return same_head(a.qa_head, b.qa_head) && same_head(a.class_head, b.class_head);
}

}  // namespace qalof::train
