// Reads, validates and appends sensitivity_state.jsonl.
#include "app/sensitivity/state.h"

#include <cmath>

#include "core/error.h"

namespace qalof::app {

namespace {

constexpr std::int64_t kMaxIndex = 1'000'000'000;

Json record_of(std::size_t batch, std::size_t trial, const std::vector<tasks::SampleScore>& scores,
               double tokens_per_second) {
  Json rows = Json::array();
  for (const tasks::SampleScore& score : scores)
    rows.push_back({score.exact, score.f1, score.loss, score.kl});
  Json record = {{"batch", batch}, {"trial", trial}, {"scores", rows}};
  if (tokens_per_second > 0) record["tokens_per_second"] = tokens_per_second;
  return record;
}

std::vector<tasks::SampleScore> scores_of(const Json& record, const std::string& where) {
  std::vector<tasks::SampleScore> scores;
  const auto rows = record.find("scores");
  bool is_good = rows != record.end() && rows->is_array();
  for (std::size_t i = 0; is_good && i < rows->size(); ++i) {
    const Json& row = (*rows)[i];
    is_good = row.is_array() && row.size() == 4;
    double values[4] = {};
    for (std::size_t k = 0; is_good && k < 4; ++k) {
      is_good = row[k].is_number() || row[k].is_null();
      // Numbers that are not finite are stored as null.
      if (is_good) values[k] = row[k].is_null() ? std::nan("") : row[k].get<double>();
    }
    if (is_good) scores.push_back({values[0], values[1], values[2], values[3]});
  }
  QALOF_CHECK(is_good, ErrorKind::kCorruptFile,
              "{}: scores: expected a list of lists of four numbers", where);
  return scores;
}

}  // namespace

SensitivityState::SensitivityState(const std::string& path, const Json& identity, bool overwrite)
    : path_(path), header_(run_header(identity)) {
  if (overwrite || !path_exists(path)) return;
  bool has_header = false;
  journal_ = RunJournal::resume(path, [&](const Json& json, const std::string& where) {
    if (!has_header) {
      check_run_header(json, identity, path, where);
      has_header = true;
      return;
    }
    const auto batch = static_cast<std::size_t>(json_int(json, "batch", where, 0, kMaxIndex));
    const auto trial = static_cast<std::size_t>(json_int(json, "trial", where, 0, kMaxIndex));
    Pass& pass = passes_[{batch, trial}];
    pass.scores = scores_of(json, where);
    if (json.contains("tokens_per_second"))
      pass.tokens_per_second = json_number(json, "tokens_per_second", where);
  });
  QALOF_CHECK(has_header, ErrorKind::kCorruptFile, "{}: holds no line, expected a run's state",
              path);
  resumed_ = passes_.size();
}

const std::vector<tasks::SampleScore>* SensitivityState::find(std::size_t batch,
                                                              std::size_t trial) const {
  const auto found = passes_.find({batch, trial});
  return found == passes_.end() ? nullptr : &found->second.scores;
}

double SensitivityState::tokens_per_second(std::size_t batch, std::size_t trial) const {
  const auto found = passes_.find({batch, trial});
  return found == passes_.end() ? 0 : found->second.tokens_per_second;
}

void SensitivityState::add(std::size_t batch, std::size_t trial,
                           std::vector<tasks::SampleScore> scores, double tokens_per_second) {
  if (!journal_ && !path_.empty()) journal_ = RunJournal::create(path_, {header_});
  if (journal_) journal_->append(record_of(batch, trial, scores, tokens_per_second));
  passes_[{batch, trial}] = {std::move(scores), tokens_per_second};
}

}  // namespace qalof::app
