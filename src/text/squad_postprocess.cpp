#include "text/squad_postprocess.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "core/file.h"
#include "core/json.h"
#include "text/unicode.h"

namespace qalof::text {

namespace {

// Indices of the n largest logits of one column, largest first, ties to the lower index.
std::vector<std::size_t> top_indices(std::span<const float> logits, std::size_t column, std::size_t n) {
  const std::size_t rows = logits.size() / 2;
  std::vector<std::size_t> order(rows);
  std::iota(order.begin(), order.end(), std::size_t{0});
  n = std::min(n, rows);
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(n), order.end(), [&](std::size_t a, std::size_t b) {
    const float left = logits[2 * a + column], right = logits[2 * b + column];
    return left != right ? left > right : a < b;
  });
  order.resize(n);
  return order;
}

std::string substring(std::string_view text, const std::vector<std::size_t>& offsets, std::uint32_t first, std::uint32_t last) {
  return std::string(text.substr(offsets[first], offsets[last] - offsets[first]));
}

}  // namespace

void SpanDecoder::add(const SpanWindow& window, std::span<const float> logits) {
  if (!has_null_ || logits[0] + logits[1] < null_start_ + null_end_) {
    has_null_ = true;
    null_start_ = logits[0];
    null_end_ = logits[1];
  }
  const std::vector<std::size_t> starts = top_indices(logits, 0, options_.n_best_size);
  const std::vector<std::size_t> ends = top_indices(logits, 1, options_.n_best_size);
  for (const std::size_t start : starts) {
    if (start < window.context_start) continue;
    for (const std::size_t end : ends) {
      if (end < start || end - start + 1 > options_.max_answer_length) continue;
      const float start_logit = logits[2 * start], end_logit = logits[2 * end + 1];
      candidates_.push_back({static_cast<double>(start_logit) + static_cast<double>(end_logit), start_logit, end_logit,
                             window.offsets[start - window.context_start].first, window.offsets[end - window.context_start].second});
    }
  }
}

SpanPrediction SpanDecoder::finish(std::string_view context) {
  struct Ranked {
    Scored scored;
    bool is_null;
  };
  std::vector<Ranked> ranked;
  for (const Scored& candidate : candidates_) ranked.push_back({candidate, false});
  const double null_score = static_cast<double>(null_start_) + static_cast<double>(null_end_);
  if (options_.version_2_with_negative && has_null_) ranked.push_back({{null_score, null_start_, null_end_, 0, 0}, true});
  std::stable_sort(ranked.begin(), ranked.end(), [](const Ranked& a, const Ranked& b) { return a.scored.score > b.scored.score; });
  if (ranked.size() > options_.n_best_size) {
    // The null answer is kept even where its score is low.
    const auto cut = ranked.begin() + static_cast<std::ptrdiff_t>(options_.n_best_size);
    const auto null = std::find_if(cut, ranked.end(), [](const Ranked& entry) { return entry.is_null; });
    const std::optional<Ranked> kept = null != ranked.end() ? std::optional(*null) : std::nullopt;
    ranked.erase(cut, ranked.end());
    if (kept) ranked.push_back(*kept);
  }
  SpanPrediction prediction;
  const std::vector<std::size_t> offsets = code_point_offsets(context);
  for (const Ranked& entry : ranked) {
    prediction.n_best.push_back({entry.is_null ? "" : substring(context, offsets, entry.scored.first, entry.scored.last),
                                 static_cast<double>(entry.scored.start_logit), static_cast<double>(entry.scored.end_logit), 0});
  }
  if (prediction.n_best.empty() || (prediction.n_best.size() == 1 && prediction.n_best[0].text.empty())) {
    prediction.n_best.insert(prediction.n_best.begin(), {"empty", 0, 0, 0});
  }
  double top = -INFINITY, sum = 0;
  for (const SpanCandidate& candidate : prediction.n_best) top = std::max(top, candidate.start_logit + candidate.end_logit);
  for (SpanCandidate& candidate : prediction.n_best) {
    candidate.probability = std::exp(candidate.start_logit + candidate.end_logit - top);
    sum += candidate.probability;
  }
  for (SpanCandidate& candidate : prediction.n_best) candidate.probability /= sum;

  if (!options_.version_2_with_negative) {
    prediction.text = prediction.n_best.front().text;
  } else {
    const auto best = std::find_if(prediction.n_best.begin(), prediction.n_best.end(), [](const SpanCandidate& c) { return !c.text.empty(); });
    prediction.null_odds = null_score - best->start_logit - best->end_logit;
    prediction.text = prediction.null_odds > options_.null_score_diff_threshold ? "" : best->text;
  }
  candidates_.clear();
  has_null_ = false;
  return prediction;
}

namespace {

// A JSON object of one entry a line, written as it comes, as Python's json.dumps(indent=4) would write the whole.
class ObjectFile {
 public:
  explicit ObjectFile(const std::string& path) : file_(path) { file_.write("{"); }
  void add(const std::string& key, const nlohmann::ordered_json& value) {
    std::string text = value.dump(4, ' ', /*ensure_ascii=*/true);
    for (std::size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n', at + 5)) text.insert(at + 1, "    ");
    file_.write(empty_ ? "\n    " : ",\n    ");
    file_.write(nlohmann::ordered_json(key).dump(-1, ' ', true) + ": " + text);
    empty_ = false;
  }
  void finish() {
    file_.write(empty_ ? "}\n" : "\n}\n");
    file_.commit();
  }

 private:
  AtomicFile file_;
  bool empty_ = true;
};

}  // namespace

struct PredictionWriter::Files {
  ObjectFile predictions, n_best;
  std::optional<ObjectFile> null_odds;
  Files(const std::string& base, bool with_null) : predictions(base + "predictions.json"), n_best(base + "nbest_predictions.json") {
    if (with_null) null_odds.emplace(base + "null_odds.json");
  }
};

PredictionWriter::PredictionWriter(const std::string& directory, const std::string& prefix, bool version_2_with_negative) {
  make_directories(directory);
  files_ = std::make_unique<Files>(directory + "/" + prefix, version_2_with_negative);
}

PredictionWriter::~PredictionWriter() = default;

void PredictionWriter::add(const std::string& id, const SpanPrediction& prediction) {
  files_->predictions.add(id, prediction.text);
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const SpanCandidate& candidate : prediction.n_best) {
    list.push_back({{"start_logit", candidate.start_logit}, {"end_logit", candidate.end_logit}, {"text", candidate.text},
                    {"probability", candidate.probability}});
  }
  files_->n_best.add(id, list);
  if (files_->null_odds) files_->null_odds->add(id, prediction.null_odds);
}

void PredictionWriter::finish() {
  files_->predictions.finish();
  files_->n_best.finish();
  if (files_->null_odds) files_->null_odds->finish();
}

}  // namespace qalof::text
