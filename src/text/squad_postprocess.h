// Turns the start and end logits of a question's windows into an answer by the rules of Hugging
// Face's run_qa.py, and writes its files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "text/span_features.h"
#include "text/squad_metric.h"

namespace qalof::text {

struct SpanDecodeOptions {
  std::size_t n_best_size = 20;
  std::size_t max_answer_length = 30;  // tokens, inclusive
  bool version_2_with_negative = false;
  double null_score_diff_threshold = 0;
  bool hf_compat_null =
      false;  // kept for parity: the null index is 0 either way in post-processing
};

struct SpanCandidate {
  std::string text;
  double start_logit = 0, end_logit = 0, probability = 0;
  bool is_fallback = false;           // the text "empty", where there is no other
  std::uint32_t first = 0, last = 0;  // code points [first, last) of the context
};
/// Where no candidate has text, n_best begins with the text "empty" at logits 0.
struct SpanPrediction {
  std::string text;                   // "" = no answer (v2.0)
  std::vector<SpanCandidate> n_best;  // best first
  double null_odds = 0;               // v2.0: null score minus best non-null score
};

/// Collects the windows of one question. Scores are summed in single precision, as numpy does on
/// the model's output; ties go to the earlier window, then to the higher start logit, then to the
/// lower start and end index. Not thread-safe.
class SpanDecoder {
 public:
  explicit SpanDecoder(const SpanDecodeOptions& options) : options_(options) {}
  /// logits [window.ids.size(), 2]: start, end. Error{kDiverged} where one is not finite.
  void add(const SpanWindow& window, std::span<const float> logits);
  /// Picks the answer from context and resets the decoder for the next question.
  SpanPrediction finish(std::string_view context);

 private:
  struct Scored {
    float score, start_logit, end_logit;
    std::uint32_t first, last;  // code points
  };
  SpanDecodeOptions options_;
  std::vector<Scored> candidates_;
  bool has_null_ = false;
  float null_start_ = 0, null_end_ = 0;
};

/// Streams eval_predictions.json, eval_nbest_predictions.json, eval_scores.json (exact match and
/// F1, 0-100) and, for v2.0, eval_null_odds.json, in the form of Python's json.dumps(indent=4). The
/// files appear when finish() is called.
class PredictionWriter {
 public:
  PredictionWriter(const std::string& directory, const std::string& prefix,
                   bool version_2_with_negative);
  ~PredictionWriter();
  /// Adds a question. Each id only once: it is a key of the files.
  void add(const std::string& id, const SpanPrediction& prediction, const QuestionScore& score);
  void finish();

 private:
  struct Files;
  NewDirectory directory_;
  std::unique_ptr<Files> files_;
};

}  // namespace qalof::text
