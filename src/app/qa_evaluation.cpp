#include "app/qa_evaluation.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>

#include "core/error.h"
#include "core/finite.h"
#include "text/squad_metric.h"
#include "text/unicode.h"

namespace qalof::app {

namespace {

// Windows run together up to about this many tokens: enough rows to fill the GEMM, little memory.
constexpr std::size_t kBatchTokens = 2048;
constexpr std::uint64_t kUntrainedSeed = 42;  // the default --seed of training

// Runs batches of questions and scores them in file order.
class QaEvaluator {
 public:
  // untrained: the head of executions without one.
  QaEvaluator(const runtime::RequestExecutions& executions, const weights::Head* untrained,
              const QaEvaluationOptions& options, ParallelFor& parallel, runtime::Profile* profile)
      : executions_(executions),
        options_(options),
        parallel_(parallel),
        profile_(profile),
        untrained_(untrained),
        decoder_(options.decode) {
    if (!options.output_dir.empty())
      writer_.emplace(options.output_dir, "eval_", options.decode.version_2_with_negative);
  }

  void run(const QaBatch& batch) {
    std::vector<runtime::Sequence> sequences = batch.sequences();
    std::vector<std::shared_ptr<const runtime::Execution>> served;  // question by question
    std::size_t next = 0;
    for (const QaItem& item : batch.items) {
      served.push_back(executions_.of_request(scores_.samples + served.size()));
      for (std::size_t w = 0; w < item.windows.size(); ++w)
        sequences[next++].execution = served.back().get();
    }
    const std::size_t hidden = executions_.front().base().config().hidden;
    hidden_.resize(batch.tokens * hidden);
    logits_.resize(batch.tokens * 2);
    runtime::forward_by_execution(executions_.front(), sequences, workspace_, hidden_.data(),
                                  parallel_, profile_);
    apply_heads(batch, served);
    std::size_t row = 0;
    for (std::size_t i = 0; i < batch.items.size(); ++i) {
      const QaItem& item = batch.items[i];
      for (const text::SpanWindow& window : item.windows) {
        const auto logits = std::span<const float>(logits_).subspan(2 * row, 2 * window.ids.size());
        check_finite(logits, "a logit", [&] {
          return fmt::format("{}: question {} at {}", options_.validation_file, item.question.id,
                             served[i]->description());
        });
        decoder_.add(window, logits);
        row += window.ids.size();
        ++scores_.windows;
      }
      finish(item);
    }
    scores_.tokens += batch.tokens;
  }

  QaScores finish_all() {
    if (writer_) writer_->finish();
    const auto count = static_cast<double>(scores_.samples);
    scores_.exact_match = 100 * exact_ / count;
    scores_.f1 = 100 * f1_ / count;
    return std::move(scores_);
  }
  std::uint64_t done() const { return scores_.samples; }
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
      const weights::Head* own = served[item]->head(weights::Task::kQa);
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
    const text::QuestionScore score = score_answer(options_, prediction.text, item.question);
    exact_ += score.exact;
    f1_ += score.f1;
    ++scores_.samples;
    if (options_.keep_scores) scores_.f1_per_question.push_back(static_cast<float>(100 * score.f1));
    if (writer_ && !item.is_superseded) writer_->add(item.question.id, prediction, score);
  }

  const runtime::RequestExecutions& executions_;
  const QaEvaluationOptions& options_;
  ParallelFor& parallel_;
  runtime::Profile* profile_;
  const weights::Head* untrained_;
  text::SpanDecoder decoder_;
  std::optional<text::PredictionWriter> writer_;
  std::function<void(text::SpanPrediction)> take_;
  runtime::GroupedWorkspace workspace_;
  std::vector<float> hidden_, logits_;
  double exact_ = 0, f1_ = 0;
  QaScores scores_;
};

}  // namespace

QaScores evaluate_qa(const runtime::RequestExecutions& executions, const text::TextEncoder& encoder,
                     const QaEvaluationOptions& options, ParallelFor& parallel, Observer& observer,
                     runtime::Profile* profile) {
  const weights::BaseModel& base = executions.front().base();
  std::optional<weights::Head> untrained;
  const auto has_head = [](const auto& execution) {
    return execution->head(weights::Task::kQa) != nullptr;
  };
  if (!std::all_of(executions.set().begin(), executions.set().end(), has_head)) {
    observer.warn(fmt::format(
        "{}: neither the model nor an adapter holds a question-answering head (qa_outputs): an "
        "untrained one answers, and its scores are chance; train one or give --adapter",
        base.path()));
    untrained = weights::untrained_qa_head(base, kUntrainedSeed);
  }
  const QaReader reader(encoder, options, base.config().max_positions, observer);
  const auto start = std::chrono::steady_clock::now();
  QaEvaluator evaluator(executions, untrained ? &*untrained : nullptr, reader.options(), parallel,
                        profile);
  observer.progress("questions", 0, reader.total(), "");
  // As many tokens for each execution.
  reader.read(kBatchTokens * executions.set().size(), [&](const QaBatch& batch) {
    evaluator.run(batch);
    observer.progress("questions", evaluator.done(), reader.total(), "");
    return true;
  });
  QaScores scores = evaluator.finish_all();
  scores.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return scores;
}

text::SpanPrediction answer_question(const runtime::Execution& execution,
                                     const text::TextEncoder& encoder, const std::string& question,
                                     const std::string& context, const QaEvaluationOptions& options,
                                     ParallelFor& parallel) {
  QALOF_CHECK(execution.head(weights::Task::kQa) != nullptr, ErrorKind::kBadInput,
              "{}: neither the model nor an adapter holds a question-answering head (qa_outputs)",
              execution.base().path());
  text::check_utf8(question, "the question");
  text::check_utf8(context, "the context");
  QaEvaluationOptions fitted = options;
  fitted.validation_file = "the context";  // its name in messages
  fitted.output_dir.clear();
  text::fit_windows(fitted.features, execution.base().config().max_positions);
  QaItem item;
  item.question.id = "1";
  item.question.question = question;
  item.context = std::make_shared<const std::string>(context);
  item.windows = text::make_windows(encoder, question, text::encode_context(encoder, context),
                                    fitted.features);
  QaBatch batch;
  for (const text::SpanWindow& window : item.windows) batch.tokens += window.ids.size();
  batch.items.push_back(std::move(item));
  const runtime::RequestExecutions executions(execution);
  QaEvaluator evaluator(executions, nullptr, fitted, parallel, nullptr);
  text::SpanPrediction answer;
  evaluator.predict_only([&](text::SpanPrediction found) { answer = std::move(found); });
  evaluator.run(batch);
  return answer;
}

}  // namespace qalof::app
