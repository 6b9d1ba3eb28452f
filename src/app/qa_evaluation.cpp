#include "app/qa_evaluation.h"

#include <chrono>
#include <optional>

#include "core/error.h"
#include "text/squad_metric.h"

namespace qalof::app {

namespace {

// Windows run together up to about this many tokens: enough rows to fill the GEMM, little memory.
constexpr std::size_t kBatchTokens = 2048;
constexpr std::uint64_t kUntrainedSeed = 42;  // the default --seed of training

// Runs batches of questions and scores them in file order.
class QaEvaluator {
 public:
  QaEvaluator(const runtime::Execution& execution, const runtime::Head& head,
              const QaEvaluationOptions& options, ParallelFor& parallel, runtime::Profile* profile)
      : execution_(execution),
        options_(options),
        parallel_(parallel),
        profile_(profile),
        head_(head),
        decoder_(options.decode) {
    if (!options.output_dir.empty())
      writer_.emplace(options.output_dir, "eval_", options.decode.version_2_with_negative);
  }

  void run(const QaBatch& batch) {
    const std::vector<runtime::Sequence> sequences = batch.sequences();
    const std::size_t hidden = execution_.base().config().hidden;
    hidden_.resize(batch.tokens * hidden);
    logits_.resize(batch.tokens * 2);
    runtime::forward(execution_, sequences, workspace_, hidden_.data(), parallel_, profile_);
    {
      const runtime::Profile::Scope scope(profile_, "span_head",
                                          batch.tokens * hidden * sizeof(float));
      runtime::apply_head(head_, hidden_.data(), batch.tokens, hidden, logits_.data(), parallel_);
    }
    std::size_t row = 0;
    for (const QaItem& item : batch.items) {
      for (const text::SpanWindow& window : item.windows) {
        decoder_.add(window,
                     std::span<const float>(logits_).subspan(2 * row, 2 * window.ids.size()));
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

 private:
  void finish(const QaItem& item) {
    const text::SpanPrediction prediction = decoder_.finish(*item.context);
    const text::QuestionScore score = score_answer(options_, prediction.text, item.question);
    exact_ += score.exact;
    f1_ += score.f1;
    ++scores_.samples;
    if (options_.keep_scores) scores_.f1_per_question.push_back(static_cast<float>(100 * score.f1));
    if (writer_) writer_->add(item.question.id, prediction, score);
  }

  const runtime::Execution& execution_;
  const QaEvaluationOptions& options_;
  ParallelFor& parallel_;
  runtime::Profile* profile_;
  const runtime::Head& head_;
  text::SpanDecoder decoder_;
  std::optional<text::PredictionWriter> writer_;
  runtime::DecoderWorkspace workspace_;
  std::vector<float> hidden_, logits_;
  double exact_ = 0, f1_ = 0;
  QaScores scores_;
};

}  // namespace

QaScores evaluate_qa(const runtime::Execution& execution, const text::BpeTokenizer& tokenizer,
                     const QaEvaluationOptions& options, ParallelFor& parallel, Observer& observer,
                     runtime::Profile* profile) {
  const runtime::Head* head = execution.head(runtime::Task::kQa);
  std::optional<runtime::Head> untrained;
  if (head == nullptr) {
    observer.warn(fmt::format(
        "{}: neither the model nor an adapter holds a question-answering head (qa_outputs): an "
        "untrained one answers, and its scores are chance; train one or give --adapter",
        execution.base().path()));
    head = &untrained.emplace(runtime::untrained_qa_head(execution.base(), kUntrainedSeed));
  }
  const QaReader reader(tokenizer, options, execution.base().config().max_positions, observer);
  const auto start = std::chrono::steady_clock::now();
  QaEvaluator evaluator(execution, *head, reader.options(), parallel, profile);
  reader.read(kBatchTokens, [&](const QaBatch& batch) {
    evaluator.run(batch);
    observer.progress("questions", evaluator.done(), reader.total(), "");
    return true;
  });
  QaScores scores = evaluator.finish_all();
  scores.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return scores;
}

}  // namespace qalof::app
