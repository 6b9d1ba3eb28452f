// Questions of a SQuAD file as batches of windows, for everything that scores answers. Memory does
// not grow with the file.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/decoder.h"
#include "tasks/qa/qa.h"
#include "text/span_features.h"
#include "text/squad.h"
#include "text/squad_metric.h"
#include "text/squad_postprocess.h"
#include "text/text_encoder.h"

namespace qalof::tasks {

/// A question with its windows.
struct QaItem {
  text::SquadQuestion question;
  std::shared_ptr<const std::string> context;
  std::vector<text::SpanWindow> windows;
  /// A later question has this one's id. Files that have ids as keys hold the last, as a dict
  /// would.
  bool is_superseded = false;

  std::size_t tokens() const;  // of all windows
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
  /// Checks the whole file, so that bad data does not surface after an hour of work. Longer windows
  /// than the model's positions are cut to them and the observer is told.
  QaReader(const Reading& reading, const Qa& task, const DataOptions& data);
  const DataOptions& data() const { return data_; }
  /// As the task's, fitted to the file.
  const text::SpanDecodeOptions& decode() const { return decode_; }
  /// Questions that read hands over.
  std::uint64_t total() const { return total_; }
  /// Batches of at least batch_tokens tokens (the last may have fewer), until take says false.
  void read(std::size_t batch_tokens, const std::function<bool(const QaBatch&)>& take) const;

 private:
  Reading reading_;
  DataOptions data_;
  text::SpanFeatureOptions features_;
  text::SpanDecodeOptions decode_;
  std::uint64_t total_ = 0;
  std::unordered_map<std::string, std::uint64_t> repeated_;  // ids, where files are written
};

/// Scores of an answer under the rules of decode.
text::QuestionScore score_answer(const text::SpanDecodeOptions& decode, const std::string& answer,
                                 const text::SquadQuestion& question);

}  // namespace qalof::tasks
