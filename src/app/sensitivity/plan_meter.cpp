// Runs a plan on every batch, reuses stored scores, and compares logits with all-high's.
#include "app/sensitivity/plan_meter.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "app/sensitivity/batch_share.h"
#include "app/sensitivity/evaluation_session.h"
#include "app/sensitivity/state.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/statistics.h"

namespace qalof::app {

namespace {

constexpr const char* kStateDirectory = "plans";

}  // namespace

struct PlanMeter::Impl {
  EvaluationSession model;
  Observer& observer;
  std::unique_ptr<tasks::SampleReader> reader;  // heads of a task have the same number of outputs
  std::map<std::size_t, std::vector<float>> references;  // all-high's logits of own batches
  std::vector<tasks::SampleScore> high;
  runtime::DecoderWorkspace workspace;
  std::vector<float> hidden;
  int plans = 0;

  Impl(const SensitivityOptions& options, Observer& given)
      : model(options, given), observer(given) {
    SensitivityState state;
    high = run(*create(high_plan(model.handle(), options.high, {}, {})), state).samples;
    QALOF_CHECK(!high.empty(), ErrorKind::kBadInput, "{}: holds no sample", options.data.file);
  }

  std::shared_ptr<const runtime::Execution> create(quant::PrecisionPlan plan) {
    const ModelHandle& handle = model.handle();
    return runtime::Execution::create(handle.base, std::move(plan), handle.adapters, model.pool(),
                                      handle.execution);
  }

  MeasuredPass measure(const runtime::Execution& execution, const tasks::SampleBatch& batch,
                       std::size_t index) {
    const auto& should_stop = model.options().should_stop;
    if (should_stop && should_stop()) fail(ErrorKind::kInterrupted, "stopped");
    const std::vector<runtime::Sequence> sequences = batch.sequences();
    const std::size_t width = execution.base().config().hidden;
    hidden.resize(batch.tokens() * width);
    const auto start = std::chrono::steady_clock::now();
    runtime::forward(execution, sequences, workspace, hidden.data(), model.pool());
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::vector<float> logits =
        batch.logits(model.head(execution), hidden.data(), width, model.pool());
    std::vector<float>& reference = references[index];
    if (high.empty()) reference = logits;
    return {batch.score(logits, reference, execution.description()),
            static_cast<double>(batch.tokens()) / seconds.count()};
  }

  PlanScores run(const runtime::Execution& execution, SensitivityState& state) {
    PlanScores result;
    std::vector<double> speeds;
    std::size_t index = 0;
    if (!reader) reader = model.reader(model.head(execution));
    observer.progress("questions", 0, reader->total(), "");
    ProcessGroup* group = model.options().group;
    state.share(group);
    reader->read(model.batch_tokens(), [&](const tasks::SampleBatch& batch) {
      if (state.find(index, 0) == nullptr) {
        const BatchShare share(batch, group);
        std::vector<MeasuredPass> own(1);
        if (share.own() != nullptr) own[0] = measure(execution, *share.own(), index);
        state.add(index, 0, share.merged(own).front());
      }
      const std::vector<tasks::SampleScore>& scores = *state.find(index, 0);
      QALOF_CHECK(scores.size() == batch.samples(), ErrorKind::kCorruptFile,
                  "{}/{}: batch {}: {} scores, expected {}", model.options().output_dir,
                  kStateDirectory, index, scores.size(), batch.samples());
      result.samples.insert(result.samples.end(), scores.begin(), scores.end());
      speeds.push_back(state.tokens_per_second(index, 0));
      observer.progress("questions", result.samples.size(), reader->total(), "");
      ++index;
      return true;
    });
    result.tokens_per_second = speeds.empty() ? 0 : median(speeds);
    return result;
  }

  SensitivityState state_of(const quant::PlanSpec& plan) {
    const SensitivityOptions& options = model.options();
    if (options.output_dir.empty()) return {};
    Json identity = model.identity();
    identity["plan"] = quant::to_json(plan);
    const std::string directory = fmt::format("{}/{}", options.output_dir, kStateDirectory);
    const std::string text = identity["plan"].dump();
    return {fmt::format("{}/{:.16}.jsonl", directory,
                        sha256_hex(std::as_bytes(std::span(text.data(), text.size())))),
            identity, options.overwrite_output_dir};
  }
};

PlanMeter::PlanMeter(const SensitivityOptions& options, Observer& observer)
    : impl_(std::make_unique<Impl>(options, observer)) {}

PlanMeter::~PlanMeter() = default;

PlanScores PlanMeter::measure(const quant::PlanSpec& plan) {
  const quant::PrecisionPlan resolved = quant::resolve(plan, impl_->model.handle().base->target());
  SensitivityState state = impl_->state_of(plan);
  return impl_->run(*impl_->create(resolved), state);
}

double PlanMeter::cost(const quant::PlanSpec& plan, quant::BudgetCost cost) {
  QALOF_CHECK(cost != quant::BudgetCost::kScore, ErrorKind::kUsage,
              "--refine_cost: found score, expected f1, loss or kl: scores are not measured");
  const std::vector<tasks::SampleScore> found = measure(plan).samples;
  double sum = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (cost == quant::BudgetCost::kKl) sum += found[i].kl;
    if (cost == quant::BudgetCost::kLoss) sum += found[i].loss - impl_->high[i].loss;
    if (cost == quant::BudgetCost::kF1) sum += impl_->high[i].f1 - found[i].f1;
  }
  const double mean = sum / static_cast<double>(found.size());
  impl_->observer.info(fmt::format("plan {} measured: {:.4g}", ++impl_->plans, mean));
  return mean;
}

}  // namespace qalof::app
