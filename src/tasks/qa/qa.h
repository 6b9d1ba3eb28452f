// Extractive question answering: SQuAD files to exact match, F1 and prediction files. Memory does
// not grow with the file: paragraphs stream through windows, logits and scores.
#pragma once

#include <algorithm>
#include <cstdint>

#include "tasks/task.h"
#include "text/span_features.h"
#include "text/squad_postprocess.h"

namespace qalof::tasks {

class Qa final : public Task {
 public:
  std::size_t doc_stride = 128;  // overlap of neighbouring windows in tokens
  /// Token between question and context.
  std::optional<std::int32_t> separator;
  text::SpanDecodeOptions decode;  // n_best_size, max_answer_length, null handling

  const char* name() const override { return "qa"; }
  weights::HeadKind head_kind() const override { return weights::HeadKind::kSpan; }
  const char* file_kind() const override { return "SQuAD JSON or JSONL"; }
  std::span<const Metric> metrics() const override;
  bool reads_pairs() const override { return true; }
  std::optional<std::int32_t> pair_separator() const override { return separator; }
  std::size_t least_length() const override { return 8; }
  void list_windows(OptionList& list) override;
  void list_training(OptionList& list) override;
  void list_scoring(OptionList& list, bool all) override;
  void fit(std::size_t positions) override { doc_stride = std::min(doc_stride, positions / 3); }
  void check_length(std::size_t length) const override;
  void identify(const Reading& reading, Json& identity) const override;

  /// An untrained head answers, with a warning, where neither model nor adapter holds one.
  Scores evaluate(const Evaluation& run, const DataOptions& data) const override;
  /// The answer to one question out of a context, as evaluate finds it. Error{kBadInput} where the
  /// execution has no head, or a text is not UTF-8.
  text::SpanPrediction answer(const Evaluation& run, const std::string& question,
                              const std::string& context,
                              std::size_t max_seq_length = kDefaultLength) const;
  bool can_train() const override { return true; }
  /// An answer that is not where the file says is taken from the nearest place that has it; a
  /// question whose answer is nowhere in the text is left out and counted in a warning.
  std::vector<Example> examples(const Reading& reading, const DataOptions& data) const override;
  std::vector<std::vector<std::int32_t>> windows(const Reading& reading, const DataOptions& data,
                                                 std::size_t max_windows) const override;
  bool has_samples() const override { return true; }
  std::unique_ptr<SampleReader> samples(const Reading& reading, const DataOptions& data,
                                        std::size_t classes) const override;

  /// Windows as these options and a model's positions make them; changed tells whether they were
  /// cut to the positions.
  text::SpanFeatureOptions features(const Reading& reading, const DataOptions& data,
                                    bool* was_cut = nullptr) const;
};

}  // namespace qalof::tasks
