// Labelled texts with a score for each, for sensitivity analyses. See tasks/samples.h.
#include <algorithm>

#include "core/error.h"
#include "core/finite.h"
#include "runtime/classifier.h"
#include "runtime/distribution.h"
#include "tasks/classification/classification.h"

namespace qalof::tasks {

namespace {

class ClassificationSamples final : public SampleBatch {
 public:
  std::string path;
  std::vector<std::uint64_t> numbers;  // of the texts among those of path, from 1
  std::vector<std::vector<std::int32_t>> texts;
  std::vector<std::int32_t> labels;
  std::size_t num_tokens = 0;

  std::size_t samples() const override { return texts.size(); }
  std::size_t tokens() const override { return num_tokens; }
  std::size_t tokens_of(std::size_t sample) const override { return texts[sample].size(); }
  std::unique_ptr<SampleBatch> select(std::span<const std::size_t> samples) const override {
    auto part = std::make_unique<ClassificationSamples>();
    part->path = path;
    for (const std::size_t sample : samples)
      part->add(numbers[sample], texts[sample], labels[sample]);
    return part;
  }
  void add(std::uint64_t number, std::vector<std::int32_t> ids, std::int32_t label) {
    num_tokens += ids.size();
    numbers.push_back(number);
    texts.push_back(std::move(ids));
    labels.push_back(label);
  }
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
                   [&] { return fmt::format("{}: text {}: {}", path, numbers[i], network); });
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
  ClassificationReader(const Reading& reading, const DataOptions& data, std::size_t classes)
      : reading_(reading), data_(data), total_(check_classification(data.file, classes)) {
    if (data.max_samples > 0) total_ = std::min(total_, data.max_samples);
  }
  std::uint64_t total() const override { return total_; }
  void read(std::size_t batch_tokens,
            const std::function<bool(const SampleBatch&)>& take) const override {
    ClassificationEncoder cutter(reading_, data_);
    ClassificationSamples batch;
    batch.path = data_.file;
    std::uint64_t added = 0;
    bool goes_on = true;
    text::read_classification(data_.file, [&](text::LabeledText&& example) {
      batch.add(added + 1, cutter.encode(example), example.label);
      if (++added == total_ || batch.num_tokens >= batch_tokens) {
        goes_on = take(batch);
        batch = {};
        batch.path = data_.file;
      }
      return goes_on && added < total_;
    });
    cutter.report(reading_.observer);
  }

 private:
  Reading reading_;
  DataOptions data_;
  std::uint64_t total_;
};

}  // namespace

std::unique_ptr<SampleReader> Classification::samples(const Reading& reading,
                                                      const DataOptions& data,
                                                      std::size_t classes) const {
  return std::make_unique<ClassificationReader>(reading, data, classes);
}

}  // namespace qalof::tasks
