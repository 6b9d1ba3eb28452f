// Training windows: SQuAD questions with labels, labelled texts, text cut into stretches, or
// documents that the model writes itself.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "app/train/run.h"

namespace qalof::app {

/// The first max_samples questions (0 = all) as windows with start and end labels. An answer that
/// does not stand where the file says is taken where it stands nearest; a question whose answer
/// stands nowhere is left out and counted in a warning.
std::vector<train::Example> load_qa_examples(const std::string& path,
                                             const text::TextEncoder& encoder,
                                             const text::SpanFeatureOptions& features,
                                             std::uint64_t max_samples, Observer& observer);
/// A UTF-8 text cut into windows of length tokens; a rest of one token is dropped. With
/// line_by_line every line is a document of its own and windows never span two. A byte order mark
/// and carriage returns are left out, which is said.
std::vector<train::Example> load_lm_examples(const std::string& path,
                                             const text::TextEncoder& encoder, std::size_t length,
                                             std::uint64_t max_samples, bool line_by_line,
                                             Observer& observer);
/// Every text of a classification file as one window of at most length tokens; what is cut is said.
std::vector<train::Example> load_classification_examples(const std::string& path,
                                                         const text::TextEncoder& encoder,
                                                         std::size_t length,
                                                         std::uint64_t max_samples,
                                                         Observer& observer);

/// --train_file that names no file: the model in full precision writes the text (app/self_text.h).
inline constexpr const char* kTrainFileSelf = "self";
/// Name of that text's file in the output directory.
inline constexpr const char* kSelfTextFile = "self_text.jsonl";

/// The windows a run trains on, as its options say. Text that the model writes is taken from
/// kSelfTextFile where the same run has left it there, else written to it.
std::vector<train::Example> load_examples(const TrainRunOptions& options, const ModelHandle& handle,
                                          const text::TextEncoder& encoder, Observer& observer);

}  // namespace qalof::app
