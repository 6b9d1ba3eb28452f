// Questions with a score for each, for sensitivity analyses. See tasks/samples.h.
#include "core/error.h"
#include "core/finite.h"
#include "runtime/distribution.h"
#include "tasks/qa/batches.h"
#include "text/unicode.h"

namespace qalof::tasks {

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
  QaSamples(QaBatch batch, const QaReader& reader) : batch_(std::move(batch)), reader_(reader) {}
  std::size_t samples() const override { return batch_.items.size(); }
  std::size_t tokens() const override { return batch_.tokens; }
  std::size_t tokens_of(std::size_t sample) const override { return batch_.items[sample].tokens(); }
  std::unique_ptr<SampleBatch> select(std::span<const std::size_t> samples) const override {
    QaBatch part;
    for (const std::size_t sample : samples) {
      part.items.push_back(batch_.items[sample]);
      part.tokens += part.items.back().tokens();
    }
    return std::make_unique<QaSamples>(std::move(part), reader_);
  }
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
    text::SpanDecoder decoder(reader_.decode());
    std::size_t row = 0;
    for (const QaItem& item : batch_.items) {
      SampleScore& score = scores.emplace_back();
      const auto labels_of_windows = labels(item);
      const double weight = 0.5 / static_cast<double>(item.windows.size());
      for (std::size_t w = 0; w < item.windows.size(); ++w) {
        const std::size_t count = item.windows[w].ids.size();
        const auto window = logits.subspan(2 * row, 2 * count);
        check_finite(window, "a logit", [&] {
          return fmt::format("{}: question {}: {}", reader_.data().file, item.question.id, network);
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
          score_answer(reader_.decode(), decoder.finish(*item.context).text, item.question);
      score.exact = 100 * answer.exact;
      score.f1 = 100 * answer.f1;
    }
    return scores;
  }

 private:
  QaBatch batch_;
  const QaReader& reader_;
};

class QaSampleReader final : public SampleReader {
 public:
  QaSampleReader(const Reading& reading, const Qa& task, const DataOptions& data)
      : reader_(reading, task, data) {}
  std::uint64_t total() const override { return reader_.total(); }
  void read(std::size_t batch_tokens,
            const std::function<bool(const SampleBatch&)>& take) const override {
    reader_.read(batch_tokens,
                 [&](const QaBatch& batch) { return take(QaSamples(batch, reader_)); });
  }

 private:
  QaReader reader_;
};

}  // namespace

std::unique_ptr<SampleReader> Qa::samples(const Reading& reading, const DataOptions& data,
                                          std::size_t /*classes*/) const {
  return std::make_unique<QaSampleReader>(reading, *this, data);
}

}  // namespace qalof::tasks
