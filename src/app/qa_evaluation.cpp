#include "app/qa_evaluation.h"

#include <chrono>
#include <deque>
#include <optional>

#include "core/error.h"
#include "text/squad.h"
#include "text/squad_metric.h"

namespace qalof::app {

namespace {

// Windows run together up to about this many tokens: enough rows to fill the GEMM, little memory.
constexpr std::size_t kBatchTokens = 2048;
constexpr std::uint64_t kUntrainedSeed = 42;  // the default --seed of training

// Streams questions through windows, batches and scores. Questions are finished in file order.
class QaEvaluator {
 public:
  QaEvaluator(const runtime::Execution& execution, const runtime::Head& head,
              const text::BpeTokenizer& tokenizer, const QaEvaluationOptions& options,
              ParallelFor& parallel, runtime::Profile* profile)
      : execution_(execution),
        tokenizer_(tokenizer),
        options_(options),
        parallel_(parallel),
        profile_(profile),
        head_(head),
        decoder_(options.decode) {
    if (!options.output_dir.empty())
      writer_.emplace(options.output_dir, "eval_", options.decode.version_2_with_negative);
  }

  void add(const std::shared_ptr<const std::string>& context, const text::EncodedContext& encoded,
           text::SquadQuestion question) {
    bool was_cut = false;
    Pending& pending = pending_.emplace_back();
    pending.windows =
        text::make_windows(tokenizer_, question.question, encoded, options_.features, &was_cut);
    pending.question = std::move(question);
    pending.context = context;
    questions_cut_ += was_cut ? 1 : 0;
    for (const text::SpanWindow& window : pending.windows) pending_tokens_ += window.ids.size();
    if (pending_tokens_ >= kBatchTokens) flush();
  }

  void flush() {
    if (pending_.empty()) return;
    std::vector<runtime::Sequence> sequences;
    for (const Pending& pending : pending_) {
      for (const text::SpanWindow& window : pending.windows) sequences.push_back({window.ids});
    }
    const std::size_t hidden = execution_.base().config().hidden;
    hidden_.resize(pending_tokens_ * hidden);
    logits_.resize(pending_tokens_ * 2);
    runtime::forward(execution_, sequences, workspace_, hidden_.data(), parallel_, profile_);
    {
      const runtime::Profile::Scope scope(profile_, "span_head",
                                          pending_tokens_ * hidden * sizeof(float));
      runtime::apply_head(head_, hidden_.data(), pending_tokens_, hidden, logits_.data(),
                          parallel_);
    }
    std::size_t row = 0;
    for (const Pending& pending : pending_) {
      for (const text::SpanWindow& window : pending.windows) {
        decoder_.add(window,
                     std::span<const float>(logits_).subspan(2 * row, 2 * window.ids.size()));
        row += window.ids.size();
        ++scores_.windows;
      }
      finish(pending);
    }
    scores_.tokens += pending_tokens_;
    pending_.clear();
    pending_tokens_ = 0;
  }

  QaScores finish_all() {
    flush();
    if (writer_) writer_->finish();
    const auto count = static_cast<double>(scores_.samples);
    scores_.exact_match = 100 * exact_ / count;
    scores_.f1 = 100 * f1_ / count;
    return std::move(scores_);
  }
  std::uint64_t done() const { return scores_.samples; }
  std::uint64_t questions_cut() const { return questions_cut_; }

 private:
  struct Pending {
    text::SquadQuestion question;
    std::shared_ptr<const std::string> context;
    std::vector<text::SpanWindow> windows;
  };

  void finish(const Pending& pending) {
    const text::SpanPrediction prediction = decoder_.finish(*pending.context);
    const text::QuestionScore score =
        options_.decode.version_2_with_negative
            ? text::score_v2(prediction.text, pending.question.answers)
            : text::score_v1(prediction.text, pending.question.answers);
    exact_ += score.exact;
    f1_ += score.f1;
    ++scores_.samples;
    if (options_.keep_scores) scores_.f1_per_question.push_back(static_cast<float>(100 * score.f1));
    if (writer_) writer_->add(pending.question.id, prediction, score);
  }

  const runtime::Execution& execution_;
  const text::BpeTokenizer& tokenizer_;
  const QaEvaluationOptions& options_;
  ParallelFor& parallel_;
  runtime::Profile* profile_;
  const runtime::Head& head_;
  text::SpanDecoder decoder_;
  std::optional<text::PredictionWriter> writer_;
  runtime::DecoderWorkspace workspace_;
  std::vector<float> hidden_, logits_;
  std::vector<Pending> pending_;
  std::size_t pending_tokens_ = 0;
  std::uint64_t questions_cut_ = 0;
  double exact_ = 0, f1_ = 0;
  QaScores scores_;
};

}  // namespace

QaScores evaluate_qa(const runtime::Execution& execution, const text::BpeTokenizer& tokenizer,
                     const QaEvaluationOptions& given, ParallelFor& parallel, Observer& observer,
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
  QaEvaluationOptions options = given;
  const std::size_t positions = execution.base().config().max_positions;
  if (options.features.max_seq_length > positions) {
    observer.info(
        fmt::format("windows of {} tokens: the model has {} positions", positions, positions));
    options.features.max_seq_length = positions;
    options.features.doc_stride = std::min(options.features.doc_stride, positions / 3);
  }
  // The first pass checks the whole file, so that bad data does not surface after an hour of work.
  const text::SquadSummary summary = text::scan_squad(options.validation_file);
  options.decode.version_2_with_negative =
      options.decode.version_2_with_negative || summary.has_is_impossible;
  const std::uint64_t total = options.max_eval_samples == 0
                                  ? summary.questions
                                  : std::min(options.max_eval_samples, summary.questions);
  observer.info(fmt::format("{}: {}, {} questions", options.validation_file,
                            text::to_string(summary.form), total));
  const auto start = std::chrono::steady_clock::now();
  QaEvaluator evaluator(execution, *head, tokenizer, options, parallel, profile);
  std::uint64_t added = 0;
  text::read_squad(options.validation_file, [&](text::SquadParagraph&& paragraph) {
    const auto context = std::make_shared<const std::string>(std::move(paragraph.context));
    const text::EncodedContext encoded = text::encode_context(tokenizer, *context);
    for (text::SquadQuestion& question : paragraph.questions) {
      if (added == total) return false;
      ++added;
      evaluator.add(context, encoded, std::move(question));
      observer.progress("questions", evaluator.done(), total, "");
    }
    return true;
  });
  QaScores scores = evaluator.finish_all();
  observer.progress("questions", scores.samples, total, "");
  if (evaluator.questions_cut() > 0) {
    observer.warn(fmt::format(
        "{} questions were cut to leave room for the context; a longer --max_seq_length avoids it",
        evaluator.questions_cut()));
  }
  scores.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return scores;
}

}  // namespace qalof::app
