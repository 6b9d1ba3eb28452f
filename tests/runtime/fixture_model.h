// The tiny GPT-2 that transformers wrote (tools/fixtures/make_gpt2_fixtures.py), and helpers to run
// a model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/json.h"
#include "runtime/decoder.h"
#include "support/temp_dir.h"

namespace qalof::testing {

inline std::string runtime_data(const std::string& name) {
  return QALOF_SOURCE_DIR "/tests/runtime/data/" + name;
}

inline std::shared_ptr<const runtime::Execution> execution_of(
    const std::shared_ptr<const weights::BaseModel>& base, const std::string& plan,
    std::shared_ptr<const weights::AdapterSet> adapters = nullptr) {
  SerialFor serial;
  return runtime::Execution::create(base, quant::resolve(quant::parse_plan(plan), base->target()),
                                    std::move(adapters), serial);
}

/// Final-normed hidden states [ids, hidden].
inline std::vector<float> hidden_of(const runtime::Execution& execution,
                                    const std::vector<std::int32_t>& ids) {
  SerialFor serial;
  runtime::DecoderWorkspace workspace;
  std::vector<float> hidden(ids.size() * execution.base().config().hidden);
  const runtime::Sequence sequence{ids};
  runtime::forward(execution, {&sequence, 1}, workspace, hidden.data(), serial);
  return hidden;
}

/// Start and end logits [ids, 2].
inline std::vector<float> span_logits_of(const runtime::Execution& execution,
                                         const std::vector<std::int32_t>& ids) {
  SerialFor serial;
  const std::vector<float> hidden = hidden_of(execution, ids);
  std::vector<float> logits(2 * ids.size());
  runtime::apply_head(*execution.head(weights::HeadKind::kSpan), hidden.data(), ids.size(),
                      execution.base().config().hidden, logits.data(), serial);
  return logits;
}

/// Copies a directory of files, so that a test may damage one.
inline void copy_directory(const std::string& from, const std::string& to) {
  std::filesystem::copy(
      from, to,
      std::filesystem::copy_options::recursive | std::filesystem::copy_options::overwrite_existing);
}

/// Largest difference of logits [n, 2] from the rows of a JSON list; infinity where sizes differ.
inline double span_difference(const Json& expected, const std::vector<float>& found) {
  if (expected.size() * 2 != found.size()) return INFINITY;
  double worst = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double difference =
        std::abs(expected[i / 2][i % 2].get<double>() - static_cast<double>(found[i]));
    if (!(difference <= worst)) worst = difference;
  }
  return worst;
}

}  // namespace qalof::testing
