// Questions of a SQuAD file as batches of windows, for everything that scores answers. Memory does
// not grow with the file.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/progress.h"
#include "runtime/decoder.h"
#include "text/span_features.h"
#include "text/squad.h"
#include "text/squad_metric.h"
#include "text/squad_postprocess.h"
#include "text/text_encoder.h"

namespace qalof::app {

struct QaEvaluationOptions {
  std::string validation_file;
  std::uint64_t max_eval_samples = 0;  // 0 = all; counts questions
  text::SpanFeatureOptions features;
  text::SpanDecodeOptions decode;  // n_best_size, max_answer_length, null handling
  std::string output_dir;          // "" = no files
  bool keep_scores = false;        // per-question scores in the result
};

/// A question with its windows.
struct QaItem {
  text::SquadQuestion question;
  std::shared_ptr<const std::string> context;
  std::vector<text::SpanWindow> windows;
  /// A later question has this one's id. Files that have ids as keys hold the last, as a dict
  /// would.
  bool is_superseded = false;
};
/// Questions that run together, in file order.
struct QaBatch {
  std::vector<QaItem> items;
  std::size_t tokens = 0;  // of all windows
  /// One per window, items in order; they point into the batch.
  std::vector<runtime::Sequence> sequences() const;
};

class QaReader {
 public:
  /// Checks the whole file, so that bad data does not surface after an hour of work. positions: the
  /// model's; longer windows are cut to them and observer told.
  QaReader(const text::TextEncoder& encoder, const QaEvaluationOptions& options,
           std::size_t positions, Observer& observer);
  /// As given, fitted to the model and the file.
  const QaEvaluationOptions& options() const { return options_; }
  /// Questions that read hands over.
  std::uint64_t total() const { return total_; }
  /// Batches of at least batch_tokens tokens (the last may have fewer), until take says false.
  void read(std::size_t batch_tokens, const std::function<bool(const QaBatch&)>& take) const;

 private:
  const text::TextEncoder& encoder_;
  Observer& observer_;
  QaEvaluationOptions options_;
  std::uint64_t total_ = 0;
  std::unordered_map<std::string, std::uint64_t> repeated_;  // ids, where files are written
};

/// Scores of an answer under the rules of options.
text::QuestionScore score_answer(const QaEvaluationOptions& options, const std::string& answer,
                                 const text::SquadQuestion& question);

}  // namespace qalof::app
