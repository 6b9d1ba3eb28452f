// Scores classes of the packed runtime. See classification.h.
#include "tasks/classification/classification.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "core/file.h"
#include "core/finite.h"
#include "core/json.h"
#include "runtime/classifier.h"
#include "tasks/batch.h"

namespace qalof::tasks {

namespace {

constexpr Metric kClassMetrics[] = {
    {.key = "eval_accuracy", .label = "accuracy", .decides = Metric::Decides::kHigher},
    {.key = "eval_loss", .label = "loss", .digits = 4},
    {.key = "eval_samples", .label = "texts", .is_count = true},
    {.key = "cut_samples", .label = "", .is_count = true, .is_logged = false},
};

// Collects texts until a batch is full, runs it and scores it.
class Classifier {
 public:
  Classifier(const Evaluation& run, std::string path)
      : run_(run),
        executions_(run.executions),
        path_(std::move(path)),
        batch_tokens_(kBatchTokens * run.executions.set().size()),
        parallel_(run.parallel),
        profile_(run.profile) {}

  void add(std::vector<std::int32_t> ids, std::int32_t label) {
    pending_tokens_ += ids.size();
    pending_.push_back(std::move(ids));
    labels_.push_back(label);
    if (pending_tokens_ >= batch_tokens_) flush();
  }
  void flush() {
    if (pending_.empty()) return;
    std::vector<runtime::Sequence> sequences;
    std::vector<std::shared_ptr<const runtime::Execution>> served;  // text by text
    for (const auto& ids : pending_) {
      served.push_back(executions_.of_request(predictions_.size() + served.size()));
      sequences.push_back({ids, nullptr, served.back().get()});
    }
    const std::size_t classes = runtime::num_classes(executions_.front());
    logits_.resize(sequences.size() * classes);
    run_.fill(logits_, [&] {
      runtime::class_logits(executions_.front(), sequences, workspace_, computed_, parallel_,
                            profile_);
      std::ranges::copy(computed_, logits_.begin());
    });
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const auto row = std::span<const float>(logits_).subspan(i * classes, classes);
      check_finite(row, "a logit", [&] {
        return fmt::format("{}: text {} at {}", path_, predictions_.size() + 1,
                           served[i]->description());
      });
      const std::int32_t label = labels_[predictions_.size()];
      predictions_.push_back(runtime::best_class(row));
      correct_ += predictions_.back() == label ? 1 : 0;
      loss_ += runtime::class_loss(row, label);
    }
    tokens_ += pending_tokens_;
    pending_tokens_ = 0;
    pending_.clear();
  }
  std::uint64_t done() const { return predictions_.size(); }
  std::uint64_t tokens() const { return tokens_; }
  double accuracy() const { return 100 * static_cast<double>(correct_) / count(); }
  double loss() const { return loss_ / count(); }
  /// [text], in file order.
  const std::vector<std::int32_t>& labels() const { return labels_; }
  const std::vector<std::int32_t>& predictions() const { return predictions_; }

 private:
  double count() const { return static_cast<double>(predictions_.size()); }

  const Evaluation& run_;
  const runtime::RequestExecutions& executions_;
  std::string path_;
  std::size_t batch_tokens_;  // as many for each execution
  ParallelFor& parallel_;
  runtime::Profile* profile_;
  runtime::ClassifierWorkspace workspace_;
  std::vector<float> computed_, logits_;
  std::vector<std::vector<std::int32_t>> pending_;
  std::size_t pending_tokens_ = 0;
  std::vector<std::int32_t> labels_, predictions_;
  std::uint64_t correct_ = 0, tokens_ = 0;
  double loss_ = 0;
};

void write_files(const std::string& directory, const std::vector<std::string>& label_names,
                 const Classifier& classifier) {
  make_directories(directory);
  auto write = [&](const char* name, const Json& json) {
    write_file_atomic(fmt::format("{}/{}", directory, name), json.dump() + "\n");
  };
  write("eval_predictions.json", {{"format_version", 1},
                                  {"label_names", label_names},
                                  {"labels", classifier.labels()},
                                  {"predictions", classifier.predictions()}});
}

}  // namespace

ClassificationEncoder::ClassificationEncoder(const Reading& reading, const DataOptions& data)
    : encoder_(reading.encoder),
      path_(data.file),
      max_tokens_(std::min(data.max_seq_length.value_or(kDefaultLength), reading.positions)) {
  QALOF_CHECK(max_tokens_ >= 1, ErrorKind::kUsage,
              "--max_seq_length: found 0, expected at least 1");
}

std::vector<std::int32_t> ClassificationEncoder::encode(const text::LabeledText& example) {
  bool was_cut = false;
  std::vector<std::int32_t> ids = encoder_.encode_cut(example.text, max_tokens_, &was_cut);
  QALOF_CHECK(!ids.empty(), ErrorKind::kBadInput, "{}: line {}: the tokenizer has no token for it",
              path_, example.line);
  cut_ += was_cut ? 1 : 0;
  return ids;
}

void ClassificationEncoder::report(Observer& observer) const {
  if (cut_ == 0) return;
  observer.warn(
      fmt::format("{}: {} texts were cut to {} tokens; a longer --max_seq_length avoids it", path_,
                  cut_, max_tokens_));
}

std::uint64_t check_classification(const std::string& path, std::size_t classes) {
  std::uint64_t examples = 0;
  text::read_classification(path, [&](text::LabeledText&& example) {
    QALOF_CHECK(static_cast<std::size_t>(example.label) < classes, ErrorKind::kBadInput,
                "{}: line {}: class {} of the file, the head has {}", path, example.line,
                example.label + 1, classes);
    ++examples;
    return true;
  });
  QALOF_CHECK(examples > 0, ErrorKind::kBadInput, "{}: holds no example", path);
  return examples;
}

std::span<const Metric> Classification::metrics() const { return kClassMetrics; }

Scores Classification::evaluate(const Evaluation& run, const DataOptions& data) const {
  Observer& observer = run.reading.observer;
  const std::size_t classes = runtime::num_classes(run.executions.front());
  observer.status("reading " + data.file);
  // The first pass checks the whole file, so that bad data does not surface after an hour of work.
  std::uint64_t total = check_classification(data.file, classes);
  if (data.max_samples > 0) total = std::min(total, data.max_samples);
  const auto start = std::chrono::steady_clock::now();
  ClassificationEncoder cutter(run.reading, data);
  Classifier classifier(run, data.file);
  observer.progress("texts", 0, total, "");
  std::uint64_t added = 0;
  text::read_classification(data.file, [&](text::LabeledText&& example) {
    classifier.add(cutter.encode(example), example.label);
    observer.progress("texts", classifier.done(), total, "");
    return ++added < total;
  });
  classifier.flush();
  observer.progress("texts", classifier.done(), total, "");
  cutter.report(observer);
  Scores scores;
  scores.metrics = kClassMetrics;
  scores.values = {classifier.accuracy(), classifier.loss(), static_cast<double>(classifier.done()),
                   static_cast<double>(cutter.cut())};
  scores.requests = classifier.done();
  scores.tokens = classifier.tokens();
  scores.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (run.keep_samples) {
    for (std::size_t i = 0; i < classifier.done(); ++i)
      scores.per_sample.push_back(classifier.predictions()[i] == classifier.labels()[i] ? 100 : 0);
  }
  if (!data.output_dir.empty()) write_files(data.output_dir, run.label_names, classifier);
  return scores;
}

}  // namespace qalof::tasks
