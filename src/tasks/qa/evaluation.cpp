// Scores answers of the packed runtime. See qa.h.
#include "tasks/qa/qa.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>

#include "core/error.h"
#include "core/finite.h"
#include "tasks/batch.h"
#include "tasks/qa/batches.h"
#include "text/squad_metric.h"
#include "text/unicode.h"

namespace qalof::tasks {

namespace {

constexpr std::uint64_t kUntrainedSeed = 42;  // the default --seed of training

constexpr Metric kQaMetrics[] = {
    {.key = "eval_exact_match", .label = "exact match"},
    {.key = "eval_f1", .label = "F1", .decides = Metric::Decides::kHigher},
    {.key = "eval_samples", .label = "questions", .is_count = true},
    {.key = "eval_features", .label = "", .is_count = true, .is_logged = false},
};

// Runs batches of questions and scores them in file order.
class QaEvaluator {
 public:
  // untrained: the head of executions without one.
  QaEvaluator(const Evaluation& run, const weights::Head* untrained,
              const text::SpanDecodeOptions& decode, const DataOptions& data)
      : run_(run),
        executions_(run.executions),
        decode_(decode),
        data_(data),
        parallel_(run.parallel),
        profile_(run.profile),
        untrained_(untrained),
        keeps_samples_(run.keep_samples),
        decoder_(decode) {
    if (!data.output_dir.empty())
      writer_.emplace(data.output_dir, "eval_", decode.version_2_with_negative);
  }

  void run(const QaBatch& batch) {
    std::vector<runtime::Sequence> sequences = batch.sequences();
    std::vector<std::shared_ptr<const runtime::Execution>> served;  // question by question
    std::size_t next = 0;
    for (const QaItem& item : batch.items) {
      served.push_back(executions_.of_request(done_ + served.size()));
      for (std::size_t w = 0; w < item.windows.size(); ++w)
        sequences[next++].execution = served.back().get();
    }
    const std::size_t hidden = executions_.front().base().config().hidden;
    logits_.resize(batch.tokens * 2);
    run_.fill(logits_, [&] {
      hidden_.resize(batch.tokens * hidden);
      runtime::forward_by_execution(executions_.front(), sequences, workspace_, hidden_.data(),
                                    parallel_, profile_);
      apply_heads(batch, served);
    });
    std::size_t row = 0;
    for (std::size_t i = 0; i < batch.items.size(); ++i) {
      const QaItem& item = batch.items[i];
      for (const text::SpanWindow& window : item.windows) {
        const auto logits = std::span<const float>(logits_).subspan(2 * row, 2 * window.ids.size());
        check_finite(logits, "a logit", [&] {
          return fmt::format("{}: question {} at {}", data_.file, item.question.id,
                             served[i]->description());
        });
        decoder_.add(window, logits);
        row += window.ids.size();
        ++windows_;
      }
      finish(item);
    }
    scores_.tokens += batch.tokens;
  }

  Scores finish_all() {
    if (writer_) writer_->finish();
    const auto count = static_cast<double>(done_);
    scores_.metrics = kQaMetrics;
    scores_.values = {100 * exact_ / count, 100 * f1_ / count, count,
                      static_cast<double>(windows_)};
    scores_.requests = done_;
    return std::move(scores_);
  }
  std::uint64_t done() const { return done_; }
  /// From now on predictions go there and are not scored.
  void predict_only(std::function<void(text::SpanPrediction)> take) { take_ = std::move(take); }

 private:
  // Stretches of questions that have one head.
  void apply_heads(const QaBatch& batch,
                   const std::vector<std::shared_ptr<const runtime::Execution>>& served) {
    const std::size_t hidden = executions_.front().base().config().hidden;
    const runtime::Profile::Scope scope(profile_, "span_head",
                                        batch.tokens * hidden * sizeof(float));
    const auto head_of = [&](std::size_t item) {
      const weights::Head* own = served[item]->head(weights::HeadKind::kSpan);
      return own != nullptr ? own : untrained_;
    };
    std::size_t row = 0;
    for (std::size_t first = 0; first < batch.items.size();) {
      std::size_t end = first, rows = 0;
      for (; end < batch.items.size() && head_of(end) == head_of(first); ++end) {
        for (const text::SpanWindow& window : batch.items[end].windows) rows += window.ids.size();
      }
      runtime::apply_head(*head_of(first), hidden_.data() + row * hidden, rows, hidden,
                          logits_.data() + 2 * row, parallel_);
      row += rows;
      first = end;
    }
  }

  void finish(const QaItem& item) {
    const text::SpanPrediction prediction = decoder_.finish(*item.context);
    if (take_) return take_(prediction);
    const text::QuestionScore score = score_answer(decode_, prediction.text, item.question);
    exact_ += score.exact;
    f1_ += score.f1;
    ++done_;
    if (keeps_samples_) scores_.per_sample.push_back(static_cast<float>(100 * score.f1));
    if (writer_ && !item.is_superseded) writer_->add(item.question.id, prediction, score);
  }

  const Evaluation& run_;
  const runtime::RequestExecutions& executions_;
  const text::SpanDecodeOptions& decode_;
  const DataOptions& data_;
  ParallelFor& parallel_;
  runtime::Profile* profile_;
  const weights::Head* untrained_;
  bool keeps_samples_;
  text::SpanDecoder decoder_;
  std::optional<text::PredictionWriter> writer_;
  std::function<void(text::SpanPrediction)> take_;
  runtime::GroupedWorkspace workspace_;
  std::vector<float> hidden_, logits_;
  double exact_ = 0, f1_ = 0;
  std::uint64_t done_ = 0, windows_ = 0;  // questions; windows of them
  Scores scores_;
};

}  // namespace

std::span<const Metric> Qa::metrics() const { return kQaMetrics; }

Scores Qa::evaluate(const Evaluation& run, const DataOptions& data) const {
  const runtime::RequestExecutions& executions = run.executions;
  Observer& observer = run.reading.observer;
  const weights::BaseModel& base = executions.front().base();
  std::optional<weights::Head> untrained;
  const auto has_head = [](const auto& execution) {
    return execution->head(weights::HeadKind::kSpan) != nullptr;
  };
  if (!std::all_of(executions.set().begin(), executions.set().end(), has_head)) {
    observer.warn(fmt::format(
        "{}: neither the model nor an adapter holds a question-answering head (qa_outputs): an "
        "untrained one answers, and its scores are chance; train one or give --adapter",
        base.path()));
    untrained = weights::untrained_qa_head(base, kUntrainedSeed);
  }
  const QaReader reader(run.reading, *this, data);
  const auto start = std::chrono::steady_clock::now();
  QaEvaluator evaluator(run, untrained ? &*untrained : nullptr, reader.decode(), reader.data());
  observer.progress("questions", 0, reader.total(), "");
  // As many tokens for each execution.
  reader.read(kBatchTokens * executions.set().size(), [&](const QaBatch& batch) {
    evaluator.run(batch);
    observer.progress("questions", evaluator.done(), reader.total(), "");
    return true;
  });
  Scores scores = evaluator.finish_all();
  scores.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return scores;
}

text::SpanPrediction Qa::answer(const Evaluation& run, const std::string& question,
                                const std::string& context, std::size_t max_seq_length) const {
  const runtime::Execution& execution = run.executions.front();
  QALOF_CHECK(execution.head(weights::HeadKind::kSpan) != nullptr, ErrorKind::kBadInput,
              "{}: neither the model nor an adapter holds a question-answering head (qa_outputs)",
              execution.base().path());
  text::check_utf8(question, "the question");
  text::check_utf8(context, "the context");
  DataOptions data;
  data.file = "the context";  // its name in messages
  data.max_seq_length = max_seq_length;
  QaItem item;
  item.question.id = "1";
  item.question.question = question;
  item.context = std::make_shared<const std::string>(context);
  item.windows = text::make_windows(run.reading.encoder, question,
                                    text::encode_context(run.reading.encoder, context),
                                    features(run.reading, data));
  QaBatch batch;
  for (const text::SpanWindow& window : item.windows) batch.tokens += window.ids.size();
  batch.items.push_back(std::move(item));
  QaEvaluator evaluator(run, nullptr, decode, data);
  text::SpanPrediction answer;
  evaluator.predict_only([&](text::SpanPrediction found) { answer = std::move(found); });
  evaluator.run(batch);
  return answer;
}

}  // namespace qalof::tasks
