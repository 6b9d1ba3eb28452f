// Language modelling: the loss of a text in windows that move by a stride (docs/numerics.md,
// "Perplexity").
#pragma once

#include <cstdint>
#include <string_view>

#include "tasks/task.h"

namespace qalof::tasks {

class Lm final : public Task {
 public:
  std::size_t stride = 0;     // how far windows of an evaluation move; 0 = half a window
  bool line_by_line = false;  // every line is a document of its own, else the file is one

  const char* name() const override { return "lm"; }
  weights::HeadKind head_kind() const override { return weights::HeadKind::kLm; }
  const char* file_kind() const override { return "UTF-8 text"; }
  std::span<const Metric> metrics() const override;
  std::size_t least_length() const override { return 2; }
  void list_windows(OptionList& list) override;
  void list_scoring(OptionList& list, bool all) override;

  /// Each token of a document but its first is scored once, in the first window that holds it with
  /// a predecessor. What the tokenizer's template adds stands around the document, not around
  /// windows, and is scored as other tokens are; an empty document has no tokens. Windows are of
  /// the model's positions unless data says otherwise.
  Scores evaluate(const Evaluation& run, const DataOptions& data) const override;
  /// The same of documents in memory; data.file names them in messages.
  Scores score_documents(const Evaluation& run, std::span<const std::string_view> documents,
                         const DataOptions& data) const;
  bool can_train() const override { return true; }
  /// Documents cut into windows; a rest of one token is dropped. A byte order mark and carriage
  /// returns are left out, which is said.
  std::vector<Example> examples(const Reading& reading, const DataOptions& data) const override;
  std::vector<std::vector<std::int32_t>> windows(const Reading& reading, const DataOptions& data,
                                                 std::size_t max_windows) const override;
};

}  // namespace qalof::tasks
