// Combines span logits of windows into ranked answers and writes run_qa.py's prediction files as a
// stream.
#include "text/squad_postprocess.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/file.h"
#include "text/python_json.h"
#include "text/unicode.h"

namespace qalof::text {

namespace {

// Indices of the n largest logits of one column, largest first, ties to the lower index.
std::vector<std::size_t> top_indices(std::span<const float> logits, std::size_t column,
                                     std::size_t n) {
  const std::size_t rows = logits.size() / 2;
  std::vector<std::size_t> order(rows);
  std::iota(order.begin(), order.end(), std::size_t{0});
  n = std::min(n, rows);
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(n), order.end(),
                    [&](std::size_t a, std::size_t b) {
                      const float left = logits[2 * a + column], right = logits[2 * b + column];
                      return left != right ? left > right : a < b;
                    });
  order.resize(n);
  return order;
}

std::string substring(std::string_view text, const std::vector<std::size_t>& offsets,
                      std::uint32_t first, std::uint32_t last) {
  return std::string(text.substr(offsets[first], offsets[last] - offsets[first]));
}

}  // namespace

void SpanDecoder::add(const SpanWindow& window, std::span<const float> logits) {
  QALOF_CHECK(!window.ids.empty() && logits.size() == 2 * window.ids.size(), ErrorKind::kInternal,
              "{} logits for a window of {} tokens", logits.size(), window.ids.size());
  // Sums of four logits must stay finite: JSON has no infinity.
  constexpr float kMaxLogit = std::numeric_limits<float>::max() / 4;
  QALOF_CHECK(
      std::all_of(logits.begin(), logits.end(), [](float x) { return std::abs(x) <= kMaxLogit; }),
      ErrorKind::kDiverged, "span logits are not finite");
  if (!has_null_ || logits[0] + logits[1] < null_start_ + null_end_) {
    has_null_ = true;
    null_start_ = logits[0];
    null_end_ = logits[1];
  }
  const std::size_t context_end = window.context_start + window.offsets.size();
  const std::vector<std::size_t> starts = top_indices(logits, 0, options_.n_best_size);
  const std::vector<std::size_t> ends = top_indices(logits, 1, options_.n_best_size);
  for (const std::size_t start : starts) {
    if (start < window.context_start) continue;
    for (const std::size_t end : ends) {
      if (end < start || end >= context_end || end - start + 1 > options_.max_answer_length)
        continue;
      const float start_logit = logits[2 * start], end_logit = logits[2 * end + 1];
      candidates_.push_back({start_logit + end_logit, start_logit, end_logit,
                             window.offsets[start - window.context_start].first,
                             window.offsets[end - window.context_start].second});
    }
  }
}

SpanPrediction SpanDecoder::finish(std::string_view context) {
  const bool with_null = options_.version_2_with_negative && has_null_;
  const Scored null{null_start_ + null_end_, null_start_, null_end_, 0, 0};
  if (with_null) candidates_.push_back(null);
  std::stable_sort(candidates_.begin(), candidates_.end(),
                   [](const Scored& a, const Scored& b) { return a.score > b.score; });
  if (candidates_.size() > options_.n_best_size) candidates_.resize(options_.n_best_size);
  // The null answer is kept even if its score is too low for the list.
  auto is_null = [](const Scored& candidate) {
    return candidate.first == 0 && candidate.last == 0;
  };
  if (with_null && std::none_of(candidates_.begin(), candidates_.end(), is_null)) {
    candidates_.push_back(null);
  }

  SpanPrediction prediction;
  const std::vector<std::size_t> offsets = code_point_offsets(context);
  std::vector<float> scores;
  bool any_text = false;
  for (const Scored& candidate : candidates_) {
    prediction.n_best.push_back({substring(context, offsets, candidate.first, candidate.last),
                                 static_cast<double>(candidate.start_logit),
                                 static_cast<double>(candidate.end_logit)});
    prediction.n_best.back().first = candidate.first;
    prediction.n_best.back().last = candidate.last;
    scores.push_back(candidate.score);
    any_text |= !prediction.n_best.back().text.empty();
  }
  // run_qa.py inserts "empty" where there is no candidate, or a single empty one. Here it is also
  // inserted where v2.0 has several empty ones, for which run_qa.py would find no answer to compare
  // with the null answer.
  const bool none_to_compare = options_.version_2_with_negative && !any_text;
  if (scores.empty() || (scores.size() == 1 && !any_text) || none_to_compare) {
    prediction.n_best.insert(prediction.n_best.begin(), {"empty", 0, 0, 0, /*is_fallback=*/true});
    scores.insert(scores.begin(), 0);
  }
  const auto top = static_cast<double>(*std::max_element(scores.begin(), scores.end()));
  double sum = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    prediction.n_best[i].probability = std::exp(static_cast<double>(scores[i]) - top);
    sum += prediction.n_best[i].probability;
  }
  for (SpanCandidate& candidate : prediction.n_best) candidate.probability /= sum;

  if (!options_.version_2_with_negative) {
    prediction.text = prediction.n_best.front().text;
  } else {
    const auto best = std::find_if(prediction.n_best.begin(), prediction.n_best.end(),
                                   [](const SpanCandidate& c) { return !c.text.empty(); });
    const float odds =
        null.score - static_cast<float>(best->start_logit) - static_cast<float>(best->end_logit);
    prediction.null_odds = static_cast<double>(odds);
    const bool says_null = prediction.null_odds > options_.null_score_diff_threshold;
    prediction.text = says_null ? "" : best->text;
  }
  candidates_.clear();
  has_null_ = false;
  return prediction;
}

namespace {

std::string n_best_json(const std::vector<SpanCandidate>& n_best) {
  std::string json = "[";
  for (const SpanCandidate& candidate : n_best) {
    const std::string text = "\"text\": " + python_json_string(candidate.text);
    const std::string logits = fmt::format("\"start_logit\": {},\n            \"end_logit\": {}",
                                           python_json_float(candidate.start_logit),
                                           python_json_float(candidate.end_logit));
    // In run_qa.py's fallback entry the text comes before the logits.
    json += fmt::format(
        "{}\n        {{\n            {},\n            {},\n            \"probability\": {}\n       "
        " }}",
        json.size() > 1 ? "," : "", candidate.is_fallback ? text : logits,
        candidate.is_fallback ? logits : text, python_json_float(candidate.probability));
  }
  return json + (n_best.empty() ? "]" : "\n    ]");
}

}  // namespace

struct PredictionWriter::Files {
  // Streams a JSON object, one entry at a time, with the bytes of Python's json.dumps(indent=4).
  class ObjectFile {
   public:
    explicit ObjectFile(const std::string& path) : file_(path) { file_.write("{"); }
    /// json: the value, already indented for this depth.
    void add(const std::string& key, std::string_view json) {
      file_.write(is_empty_ ? "\n    " : ",\n    ");
      file_.write(python_json_string(key) + ": ");
      file_.write(json);
      is_empty_ = false;
    }
    void finish() {
      file_.write(is_empty_ ? "}\n" : "\n}\n");
      file_.commit();
    }

   private:
    AtomicFile file_;
    bool is_empty_ = true;
  };

  ObjectFile predictions, n_best, scores;
  std::optional<ObjectFile> null_odds;
  Files(const std::string& base, bool with_null)
      : predictions(base + "predictions.json"),
        n_best(base + "nbest_predictions.json"),
        scores(base + "scores.json") {
    if (with_null) null_odds.emplace(base + "null_odds.json");
  }
};

PredictionWriter::PredictionWriter(const std::string& directory, const std::string& prefix,
                                   bool version_2_with_negative)
    : directory_(directory) {
  files_ = std::make_unique<Files>(directory + "/" + prefix, version_2_with_negative);
}

PredictionWriter::~PredictionWriter() = default;

void PredictionWriter::add(const std::string& id, const SpanPrediction& prediction,
                           const QuestionScore& score) {
  files_->predictions.add(id, python_json_string(prediction.text));
  files_->n_best.add(id, n_best_json(prediction.n_best));
  files_->scores.add(id, fmt::format("[{}, {}]", python_json_float(100 * score.exact),
                                     python_json_float(100 * score.f1)));
  if (files_->null_odds) files_->null_odds->add(id, python_json_float(prediction.null_odds));
}

void PredictionWriter::finish() {
  files_->predictions.finish();
  files_->n_best.finish();
  files_->scores.finish();
  if (files_->null_odds) files_->null_odds->finish();
}

}  // namespace qalof::text
