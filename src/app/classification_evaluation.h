// Classification of labelled texts on the packed runtime: accuracy, and what each example got.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/progress.h"
#include "core/threads.h"
#include "runtime/classifier.h"
#include "text/classification.h"
#include "text/text_encoder.h"

namespace qalof::app {

/// Counts texts that were cut at a number of tokens.
class ClassificationEncoder {
 public:
  /// max_tokens: at least 1.
  ClassificationEncoder(const text::TextEncoder& encoder, std::string path, std::size_t max_tokens);
  /// At most max_tokens tokens, those of the template among them. Error{kBadInput} names the line
  /// of a text without any.
  std::vector<std::int32_t> encode(const text::LabeledText& example);
  /// Says how many texts were cut, where any was.
  void report(Observer& observer) const;
  std::uint64_t cut() const { return cut_; }

 private:
  const text::TextEncoder& encoder_;
  std::string path_;
  std::size_t max_tokens_;
  std::uint64_t cut_ = 0;
};

struct ClassificationEvaluationOptions {
  std::string validation_file;
  std::uint64_t max_eval_samples = 0;    // 0 = all
  std::size_t max_seq_length = 384;      // longer texts are cut, and said so
  std::string output_dir;                // "" = no files
  std::vector<std::string> label_names;  // of the head's classes, for files; may be empty
};
struct ClassificationScores {
  double accuracy = 0;  // 0-100
  double loss = 0;      // mean cross entropy in nats
  std::uint64_t samples = 0;
  std::uint64_t tokens = 0;
  std::uint64_t cut = 0;
  double seconds = 0;
  std::vector<std::int32_t> labels, predictions;  // [sample], in file order
};

/// Reads a whole file and returns how many examples it holds, at least one. Error{kBadInput} names
/// the line of a class beyond those of the head.
std::uint64_t check_classification(const std::string& path, std::size_t classes);

/// Error{kBadInput} where there is no class head; check_classification's.
ClassificationScores evaluate_classification(const runtime::RequestExecutions& executions,
                                             const text::TextEncoder& encoder,
                                             const ClassificationEvaluationOptions& options,
                                             ParallelFor& parallel, Observer& observer,
                                             runtime::Profile* profile = nullptr);

}  // namespace qalof::app
