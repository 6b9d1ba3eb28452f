// Measures units one at a time: reruns each batch from the first changed layer, scores, stores, and
// stops early where asked.
#include "app/sensitivity/sensitivity.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "app/processes.h"
#include "app/sensitivity/batch_share.h"
#include "app/sensitivity/evaluation_session.h"
#include "app/sensitivity/state.h"
#include "core/error.h"
#include "core/file.h"
#include "runtime/classifier.h"

namespace qalof::app {

namespace {

// --early_stop: a unit is stopped after at least this many samples, once its mean difference is
// this many standard errors; more than the usual two, because it is tested after every batch.
constexpr std::size_t kEarlyStopSamples = 64;
constexpr double kEarlyStopErrors = 4;
constexpr const char* kStateFile = "sensitivity_state.jsonl";

Json identity_of(const EvaluationSession& model, const std::vector<SensitivityUnit>& units) {
  const SensitivityOptions& options = model.options();
  Json identity = model.identity();
  identity["low"] = options.low;
  identity["granularity"] = to_string(options.units.granularity);
  identity["split"] = options.units.split;
  identity["kv"] = options.units.kv;
  if (options.units.kv_heads) identity["kv_heads"] = true;
  identity["early_stop"] = options.early_stop;
  identity["units"] = units.size();
  return identity;
}

// Trials between two exchanges of the processes that share a batch.
constexpr std::size_t kTrialsPerExchange = 8;

// Runs all trials (unit and width) of a batch, batch by batch.
class Sweep {
 public:
  Sweep(const SensitivityOptions& options, const UnitExecutions& executions,
        const weights::Head& head, const std::vector<SensitivityUnit>& units,
        SensitivityState& state, std::uint64_t total, ParallelFor& parallel, Observer& observer)
      : options_(options),
        executions_(executions),
        head_(head),
        units_(units),
        state_(state),
        parallel_(parallel),
        observer_(observer),
        num_trials_(units.size() * options.low.size()),
        total_(total * num_trials_),
        scores_(num_trials_ + 1),
        stopped_(num_trials_ + 1, false) {}

  void run(const tasks::SampleBatch& batch) {
    std::vector<std::size_t> missing;
    for (std::size_t trial = 0; trial <= num_trials_; ++trial) {
      if (!stopped_[trial] && state_.find(batches_, trial) == nullptr) missing.push_back(trial);
    }
    const BatchShare share(batch, options_.group);
    if (!missing.empty() && share.own() != nullptr) run_high(*share.own());
    const std::size_t at_once = options_.group != nullptr ? kTrialsPerExchange : 1;
    for (std::size_t first = 0; first < missing.size(); first += at_once) {
      const std::size_t count = std::min(at_once, missing.size() - first);
      std::vector<MeasuredPass> own(count);
      for (std::size_t i = 0; i < count; ++i) {
        if (options_.should_stop && options_.should_stop())
          fail(ErrorKind::kInterrupted, "{}",
               options_.output_dir.empty() ? "stopped; without --output_dir nothing is kept"
                                           : "stopped; the same command resumes");
        if (share.own() != nullptr) own[i].scores = run_trial(*share.own(), missing[first + i]);
      }
      std::vector<MeasuredPass> found = share.merged(own);
      for (std::size_t i = 0; i < count; ++i)
        state_.add(batches_, missing[first + i], std::move(found[i]));
      if (missing[first + count - 1] == 0) continue;
      done_ += (missing[first] == 0 ? count - 1 : count) * batch.samples();
      observer_.progress("questions x units", done_, total_,
                         units_[unit_of(missing[first + count - 1])].name);
    }
    for (std::size_t trial = 0; trial <= num_trials_; ++trial) {
      if (stopped_[trial]) continue;
      const std::vector<tasks::SampleScore>& scores = *state_.find(batches_, trial);
      QALOF_CHECK(scores.size() == batch.samples(), ErrorKind::kCorruptFile,
                  "{}/{}: batch {}: {} scores, expected {}", options_.output_dir, kStateFile,
                  batches_, scores.size(), batch.samples());
      scores_[trial].insert(scores_[trial].end(), scores.begin(), scores.end());
    }
    if (options_.early_stop) stop_clear_trials();
    ++batches_;
    done_ = scores_[0].size() * num_trials_;
    if (missing.empty()) observer_.progress("questions x units", done_, total_, "");
  }

  /// Samples of a trial; 0 is all-high.
  const std::vector<tasks::SampleScore>& scores(std::size_t trial) const { return scores_[trial]; }

 private:
  void run_high(const tasks::SampleBatch& batch) {
    const std::size_t hidden = executions_.high().base().config().hidden;
    sequences_ = batch.sequences();
    const std::size_t rows = batch.tokens() * hidden;
    hidden_.resize(rows);
    states_.resize(rows * executions_.high().base().config().num_layers);
    workspace_.observe_states = [&](std::size_t layer, const float* states, std::size_t) {
      std::copy_n(states, rows, states_.data() + layer * rows);
    };
    runtime::forward(executions_.high(), sequences_, workspace_, hidden_.data(), parallel_);
    workspace_.observe_states = nullptr;
    reference_ = batch.logits(head_, hidden_.data(), hidden, parallel_);
  }

  std::size_t unit_of(std::size_t trial) const { return (trial - 1) / options_.low.size(); }

  std::vector<tasks::SampleScore> run_trial(const tasks::SampleBatch& batch, std::size_t trial) {
    if (trial == 0) return batch.score(reference_, reference_, executions_.high().description());
    const std::size_t unit = unit_of(trial);
    const std::size_t low = (trial - 1) % options_.low.size();
    const std::size_t layer = units_[unit].first_layer;
    const std::size_t hidden = executions_.high().base().config().hidden;
    runtime::forward_from(executions_.at(unit, low), sequences_, layer,
                          states_.data() + layer * batch.tokens() * hidden, workspace_,
                          hidden_.data(), parallel_);
    const std::vector<float> logits = batch.logits(head_, hidden_.data(), hidden, parallel_);
    return batch.score(logits, reference_,
                       fmt::format("unit {} ({}) at {} bits", units_[unit].name,
                                   to_string(units_[unit].part), options_.low[low]));
  }

  void stop_clear_trials() {
    for (std::size_t trial = 1; trial <= num_trials_; ++trial) {
      if (stopped_[trial] || scores_[trial].size() < kEarlyStopSamples) continue;
      std::vector<double> differences;
      for (std::size_t i = 0; i < scores_[trial].size(); ++i)
        differences.push_back(scores_[trial][i].f1 - scores_[0][i].f1);
      const MeanAndError found = mean_and_error(differences);
      stopped_[trial] = std::abs(found.mean) > kEarlyStopErrors * found.error;
    }
  }

  const SensitivityOptions& options_;
  const UnitExecutions& executions_;
  const weights::Head& head_;
  const std::vector<SensitivityUnit>& units_;
  SensitivityState& state_;
  ParallelFor& parallel_;
  Observer& observer_;
  std::size_t num_trials_;
  std::uint64_t total_, done_ = 0;
  std::size_t batches_ = 0;
  std::vector<std::vector<tasks::SampleScore>> scores_;
  std::vector<bool> stopped_;
  runtime::DecoderWorkspace workspace_;
  std::vector<runtime::Sequence> sequences_;
  std::vector<float> hidden_, states_, reference_;
};

double mean_of(const std::vector<tasks::SampleScore>& scores, double tasks::SampleScore::*member) {
  double sum = 0;
  for (const tasks::SampleScore& score : scores) sum += score.*member;
  return sum / static_cast<double>(scores.size());
}

UnitCost cost_of(int bits, const std::vector<tasks::SampleScore>& low,
                 const std::vector<tasks::SampleScore>& high,
                 std::map<std::size_t, PairedBootstrap>& bootstraps) {
  UnitCost cost;
  cost.bits = bits;
  cost.samples = low.size();
  cost.kl = mean_of(low, &tasks::SampleScore::kl);
  const PairedBootstrap& bootstrap = bootstraps.try_emplace(low.size(), low.size()).first->second;
  const auto compare = [&](double tasks::SampleScore::*member, double& mean, Interval* interval) {
    std::vector<double> differences(low.size());
    for (std::size_t i = 0; i < low.size(); ++i) differences[i] = low[i].*member - high[i].*member;
    mean = mean_and_error(differences).mean;
    if (interval != nullptr) *interval = bootstrap.interval(differences);
  };
  compare(&tasks::SampleScore::exact, cost.delta_em, nullptr);
  compare(&tasks::SampleScore::f1, cost.delta_f1, &cost.delta_f1_interval);
  compare(&tasks::SampleScore::loss, cost.delta_loss, &cost.delta_loss_interval);
  return cost;
}

}  // namespace

SensitivityResult measure_sensitivity(const SensitivityOptions& given, Observer& observer) {
  QALOF_CHECK(!given.low.empty(), ErrorKind::kUsage, "--low is missing");
  EvaluationSession model(given, observer);
  const SensitivityOptions& options = model.options();
  const ModelHandle& handle = model.handle();
  ThreadPool& pool = model.pool();
  const std::vector<SensitivityUnit> units = sensitivity_units(*handle.base, options.units);
  observer.status(fmt::format("packing the weights of {} units", units.size()));
  const UnitExecutions executions(handle, high_plan(handle, options.high, options.low, units),
                                  options.low, units, pool);
  observer.info(fmt::format("high {}, {} units", executions.high().description(), units.size()));
  const weights::Head& head = model.head(executions.high());
  const auto reader = model.reader(head);

  std::optional<NewDirectory> made;
  std::optional<DirectoryLock> lock;
  SensitivityState state;
  if (!options.output_dir.empty()) {
    made.emplace(options.output_dir);
    lock.emplace(options.output_dir);
    state = SensitivityState(fmt::format("{}/{}", options.output_dir, kStateFile),
                             identity_of(model, units), options.overwrite_output_dir);
    if (state.resumed() > 0)
      observer.info(
          fmt::format("{}: {} passes were measured before", options.output_dir, state.resumed()));
  }
  if (options.group != nullptr)
    Processes(options.group, observer).check_same(identity_of(model, units), member_difference);
  state.share(options.group);
  observer.progress("questions x units", 0, reader->total() * units.size() * options.low.size(),
                    "");
  Sweep sweep(options, executions, head, units, state, reader->total(), pool, observer);
  reader->read(model.batch_tokens(), [&](const tasks::SampleBatch& batch) {
    sweep.run(batch);
    return true;
  });

  SensitivityResult result = empty_result(options, handle);
  result.special_tokens = model.special_tokens();
  const std::vector<tasks::SampleScore>& high = sweep.scores(0);
  result.samples = high.size();
  QALOF_CHECK(result.samples > 0, ErrorKind::kBadInput, "{}: holds no sample", options.data.file);
  result.em = mean_of(high, &tasks::SampleScore::exact);
  result.f1 = mean_of(high, &tasks::SampleScore::f1);
  result.loss = mean_of(high, &tasks::SampleScore::loss);
  std::map<std::size_t, PairedBootstrap> bootstraps;
  for (std::size_t unit = 0; unit < units.size(); ++unit) {
    UnitResult& entry = result.units.emplace_back();
    entry.unit = units[unit];
    for (std::size_t low = 0; low < options.low.size(); ++low) {
      entry.costs.push_back(cost_of(
          options.low[low], sweep.scores(1 + unit * options.low.size() + low), high, bootstraps));
    }
  }
  finish_result(options, result);
  return result;
}

}  // namespace qalof::app
