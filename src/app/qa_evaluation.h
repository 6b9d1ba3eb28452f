// Extractive question answering on the packed runtime: SQuAD files to exact match, F1 and
// prediction files. Memory does not grow with the data: paragraphs stream through windows, logits
// and scores.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "app/qa_batches.h"
#include "core/progress.h"
#include "core/threads.h"
#include "runtime/request_executions.h"
#include "text/text_encoder.h"

namespace qalof::app {

struct QaScores {
  double exact_match = 0;  // 0-100
  double f1 = 0;           // 0-100
  std::uint64_t samples = 0;
  std::uint64_t windows = 0;
  std::uint64_t tokens = 0;
  double seconds = 0;
  std::vector<float> f1_per_question;  // 0-100, with keep_scores
};

/// Scores a file. Error{kBadInput} where the execution has no QA head.
QaScores evaluate_qa(const runtime::RequestExecutions& executions, const text::TextEncoder& encoder,
                     const QaEvaluationOptions& options, ParallelFor& parallel, Observer& observer,
                     runtime::Profile* profile = nullptr);

/// The answer to one question out of a context, as evaluate_qa finds it. Error{kBadInput} where the
/// execution has no QA head or a text is not UTF-8.
text::SpanPrediction answer_question(const runtime::Execution& execution,
                                     const text::TextEncoder& encoder, const std::string& question,
                                     const std::string& context, const QaEvaluationOptions& options,
                                     ParallelFor& parallel);

}  // namespace qalof::app
