// Classification of labelled texts: accuracy, and what each example got.
#pragma once

#include <cstdint>

#include "tasks/task.h"
#include "text/classification.h"

namespace qalof::tasks {

class Classification final : public Task {
 public:
  const char* name() const override { return "classification"; }
  weights::HeadKind head_kind() const override { return weights::HeadKind::kClass; }
  const char* file_kind() const override { return "SST-2 TSV or AG News CSV"; }
  std::span<const Metric> metrics() const override;
  Scores evaluate(const Evaluation& run, const DataOptions& data) const override;
  bool can_train() const override { return true; }
  std::optional<Classes> classes(const std::string& train_file,
                                 const std::string& validation_file) const override;
  /// Every text is one window; what is cut is said.
  std::vector<Example> examples(const Reading& reading, const DataOptions& data) const override;
  std::vector<std::vector<std::int32_t>> windows(const Reading& reading, const DataOptions& data,
                                                 std::size_t max_windows) const override;
  bool has_samples() const override { return true; }
  std::unique_ptr<SampleReader> samples(const Reading& reading, const DataOptions& data,
                                        std::size_t classes) const override;
};

/// Counts texts that were cut to the window.
class ClassificationEncoder {
 public:
  /// Texts of data.file. Error{kUsage} where a window has no token.
  ClassificationEncoder(const Reading& reading, const DataOptions& data);
  /// At most a window of tokens, those of the template among them. Error{kBadInput} names the line
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

/// Reads a whole file and returns how many examples it holds, at least one. Error{kBadInput} names
/// the line of a class beyond those of the head.
std::uint64_t check_classification(const std::string& path, std::size_t classes);

}  // namespace qalof::tasks
