// Extractive question answering on the packed runtime: SQuAD files to exact match, F1 and
// prediction files. Memory does not grow with the data: paragraphs stream through windows, logits
// and scores.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/progress.h"
#include "core/threads.h"
#include "runtime/decoder.h"
#include "text/bpe_tokenizer.h"
#include "text/span_features.h"
#include "text/squad_postprocess.h"

namespace qalof::app {

struct QaEvaluationOptions {
  std::string validation_file;
  std::uint64_t max_eval_samples = 0;  // 0 = all; counts questions
  text::SpanFeatureOptions features;
  text::SpanDecodeOptions decode;  // n_best_size, max_answer_length, null handling
  std::string output_dir;          // "" = no files
  bool keep_scores = false;        // per-question scores in the result
};
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
QaScores evaluate_qa(const runtime::Execution& execution, const text::BpeTokenizer& tokenizer,
                     const QaEvaluationOptions& options, ParallelFor& parallel, Observer& observer,
                     runtime::Profile* profile = nullptr);

}  // namespace qalof::app
