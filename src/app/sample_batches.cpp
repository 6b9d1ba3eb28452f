#include "app/sample_batches.h"

#include <algorithm>

#include "app/classification_evaluation.h"
#include "core/error.h"
#include "core/finite.h"
#include "runtime/classifier.h"
#include "runtime/distribution.h"
#include "text/unicode.h"

namespace qalof::app {

namespace {

// Labels of an item's windows: the first answer's tokens, {0, 0} where a window does not hold it.
std::vector<std::pair<std::int32_t, std::int32_t>> labels(const QaItem& item) {
  std::vector<std::pair<std::int32_t, std::int32_t>> result(item.windows.size(), {0, 0});
  if (item.question.answers.empty()) return result;
  const text::SquadAnswer& answer = item.question.answers.front();
  const std::int64_t start = text::find_answer(*item.context, answer);
  if (start < 0) return result;
  const auto length = static_cast<std::uint32_t>(text::count_code_points(answer.text));
  for (std::size_t w = 0; w < result.size(); ++w)
    result[w] = text::label_window(item.windows[w], static_cast<std::uint32_t>(start), length);
  return result;
}

class QaSamples final : public SampleBatch {
 public:
  QaSamples(const QaBatch& batch, const QaEvaluationOptions& options)
      : batch_(batch), options_(options) {}
  std::size_t samples() const override { return batch_.items.size(); }
  std::size_t tokens() const override { return batch_.tokens; }
  std::vector<runtime::Sequence> sequences() const override { return batch_.sequences(); }

  std::vector<float> logits(const weights::Head& head, const float* hidden, std::size_t width,
                            ParallelFor& parallel) const override {
    std::vector<float> result(2 * batch_.tokens);
    runtime::apply_head(head, hidden, batch_.tokens, width, result.data(), parallel);
    return result;
  }

  // Start and end weigh alike, and so do a question's windows.
  std::vector<SampleScore> score(std::span<const float> logits, std::span<const float> reference,
                                 const std::string& network) const override {
    std::vector<SampleScore> scores;
    std::vector<double> log_p, log_q;
    text::SpanDecoder decoder(options_.decode);
    std::size_t row = 0;
    for (const QaItem& item : batch_.items) {
      SampleScore& score = scores.emplace_back();
      const auto labels_of_windows = labels(item);
      const double weight = 0.5 / static_cast<double>(item.windows.size());
      for (std::size_t w = 0; w < item.windows.size(); ++w) {
        const std::size_t count = item.windows[w].ids.size();
        const auto window = logits.subspan(2 * row, 2 * count);
        check_finite(window, "a logit", [&] {
          return fmt::format("{}: question {}: {}", options_.validation_file, item.question.id,
                             network);
        });
        decoder.add(item.windows[w], window);
        for (std::size_t column = 0; column < 2; ++column) {
          const auto label = static_cast<std::size_t>(column == 0 ? labels_of_windows[w].first
                                                                  : labels_of_windows[w].second);
          runtime::log_softmax(window, 2, column, 1.0, log_q);
          runtime::log_softmax(reference.subspan(2 * row, 2 * count), 2, column, 1.0, log_p);
          score.loss -= weight * log_q[label];
          score.kl += weight * runtime::kl_divergence(log_p, log_q);
        }
        row += count;
      }
      const text::QuestionScore answer =
          score_answer(options_, decoder.finish(*item.context).text, item.question);
      score.exact = 100 * answer.exact;
      score.f1 = 100 * answer.f1;
    }
    return scores;
  }

 private:
  const QaBatch& batch_;
  const QaEvaluationOptions& options_;
};

class QaSampleReader final : public SampleReader {
 public:
  QaSampleReader(const text::TextEncoder& encoder, const QaEvaluationOptions& options,
                 std::size_t positions, Observer& observer)
      : reader_(encoder, options, positions, observer) {}
  std::uint64_t total() const override { return reader_.total(); }
  void read(std::size_t batch_tokens,
            const std::function<bool(const SampleBatch&)>& take) const override {
    reader_.read(batch_tokens,
                 [&](const QaBatch& batch) { return take(QaSamples(batch, reader_.options())); });
  }

 private:
  QaReader reader_;
};

class ClassificationSamples final : public SampleBatch {
 public:
  std::string path;
  std::uint64_t first = 0;  // number of the first text among those of path
  std::vector<std::vector<std::int32_t>> texts;
  std::vector<std::int32_t> labels;
  std::size_t num_tokens = 0;

  std::size_t samples() const override { return texts.size(); }
  std::size_t tokens() const override { return num_tokens; }
  std::vector<runtime::Sequence> sequences() const override {
    std::vector<runtime::Sequence> result;
    for (const auto& ids : texts) result.push_back({ids});
    return result;
  }
  std::vector<float> logits(const weights::Head& head, const float* hidden, std::size_t width,
                            ParallelFor& parallel) const override {
    std::vector<float> last(texts.size() * width), result(texts.size() * head.outputs);
    std::size_t row = 0;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      row += texts[i].size();
      std::copy_n(hidden + (row - 1) * width, width, last.data() + i * width);
    }
    runtime::apply_head(head, last.data(), texts.size(), width, result.data(), parallel);
    return result;
  }
  std::vector<SampleScore> score(std::span<const float> logits, std::span<const float> reference,
                                 const std::string& network) const override {
    std::vector<SampleScore> scores;
    std::vector<double> log_p, log_q;
    const std::size_t classes = logits.size() / texts.size();
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto row = logits.subspan(i * classes, classes);
      check_finite(row, "a logit",
                   [&] { return fmt::format("{}: text {}: {}", path, first + i + 1, network); });
      SampleScore& score = scores.emplace_back();
      score.exact = score.f1 = runtime::best_class(row) == labels[i] ? 100 : 0;
      score.loss = runtime::class_loss(row, labels[i]);
      runtime::log_softmax(row, 1, 0, 1.0, log_q);
      runtime::log_softmax(reference.subspan(i * classes, classes), 1, 0, 1.0, log_p);
      score.kl = runtime::kl_divergence(log_p, log_q);
    }
    return scores;
  }
};

class ClassificationReader final : public SampleReader {
 public:
  ClassificationReader(const text::TextEncoder& encoder, const QaEvaluationOptions& options,
                       std::size_t positions, std::size_t classes, Observer& observer)
      : encoder_(encoder),
        path_(options.validation_file),
        max_tokens_(std::min(options.features.max_seq_length, positions)),
        total_(check_classification(path_, classes)),
        observer_(observer) {
    if (options.max_eval_samples > 0) total_ = std::min(total_, options.max_eval_samples);
  }
  std::uint64_t total() const override { return total_; }
  void read(std::size_t batch_tokens,
            const std::function<bool(const SampleBatch&)>& take) const override {
    ClassificationEncoder cutter(encoder_, path_, max_tokens_);
    ClassificationSamples batch;
    batch.path = path_;
    std::uint64_t added = 0;
    bool goes_on = true;
    text::read_classification(path_, [&](text::LabeledText&& example) {
      batch.texts.push_back(cutter.encode(example));
      batch.labels.push_back(example.label);
      batch.num_tokens += batch.texts.back().size();
      if (++added == total_ || batch.num_tokens >= batch_tokens) {
        goes_on = take(batch);
        batch = {};
        batch.path = path_;
        batch.first = added;
      }
      return goes_on && added < total_;
    });
    cutter.report(observer_);
  }

 private:
  const text::TextEncoder& encoder_;
  std::string path_;
  std::size_t max_tokens_;
  std::uint64_t total_;
  Observer& observer_;
};

}  // namespace

std::unique_ptr<SampleReader> make_sample_reader(weights::Task task,
                                                 const text::TextEncoder& encoder,
                                                 const QaEvaluationOptions& options,
                                                 std::size_t positions, std::size_t classes,
                                                 Observer& observer) {
  switch (task) {
    case weights::Task::kQa:
      return std::make_unique<QaSampleReader>(encoder, options, positions, observer);
    case weights::Task::kClassification:
      return std::make_unique<ClassificationReader>(encoder, options, positions, classes, observer);
    case weights::Task::kLm:
      break;
  }
  fail(ErrorKind::kUnsupported, "--task: found lm, expected qa or classification");
}

}  // namespace qalof::app
