// Reads, validates and appends sensitivity_state.jsonl.
#include "app/sensitivity/state.h"

#include <cmath>

#include "core/error.h"

namespace qalof::app {

namespace {

constexpr std::int64_t kMaxIndex = 1'000'000'000;

Json record_of(std::size_t batch, std::size_t trial, const MeasuredPass& pass) {
  Json rows = Json::array();
  for (const tasks::SampleScore& score : pass.scores)
    rows.push_back({score.exact, score.f1, score.loss, score.kl});
  Json record = {{"batch", batch}, {"trial", trial}, {"scores", rows}};
  if (pass.tokens_per_second > 0) record["tokens_per_second"] = pass.tokens_per_second;
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
    take(json, where);
  });
  QALOF_CHECK(has_header, ErrorKind::kCorruptFile, "{}: holds no line, expected a run's state",
              path);
  resumed_ = passes_.size();
}

void SensitivityState::take(const Json& record, const std::string& where) {
  const auto batch = static_cast<std::size_t>(json_int(record, "batch", where, 0, kMaxIndex));
  const auto trial = static_cast<std::size_t>(json_int(record, "trial", where, 0, kMaxIndex));
  MeasuredPass& pass = passes_[{batch, trial}];
  pass.scores = scores_of(record, where);
  if (record.contains("tokens_per_second"))
    pass.tokens_per_second = json_number(record, "tokens_per_second", where);
}

void SensitivityState::share(ProcessGroup* group) {
  if (group == nullptr) return;
  Json records = Json::array();
  if (group->rank() == 0) {
    for (const auto& [key, pass] : passes_)
      records.push_back(record_of(key.first, key.second, pass));
  }
  const Json known = Json::parse(group->broadcast(records.dump()));
  if (group->rank() == 0) return;
  for (const Json& record : known) take(record, "the state of rank 0");
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

void SensitivityState::add(std::size_t batch, std::size_t trial, MeasuredPass pass) {
  if (!journal_ && !path_.empty()) journal_ = RunJournal::create(path_, {header_});
  if (journal_) journal_->append(record_of(batch, trial, pass));
  passes_[{batch, trial}] = std::move(pass);
}

}  // namespace qalof::app
