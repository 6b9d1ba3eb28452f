#include "app/classification_evaluation.h"

#include <chrono>

#include "core/error.h"
#include "core/file.h"
#include "core/finite.h"
#include "core/json.h"

namespace qalof::app {

namespace {

// Texts run together up to about this many tokens: enough rows to fill the GEMM, little memory.
constexpr std::size_t kBatchTokens = 2048;

// Collects texts until a batch is full, runs it and scores it.
class Classifier {
 public:
  Classifier(const runtime::RequestExecutions& executions, std::string path, ParallelFor& parallel,
             runtime::Profile* profile)
      : executions_(executions),
        path_(std::move(path)),
        batch_tokens_(kBatchTokens * executions.set().size()),
        parallel_(parallel),
        profile_(profile) {}

  void add(std::vector<std::int32_t> ids, std::int32_t label) {
    pending_tokens_ += ids.size();
    pending_.push_back(std::move(ids));
    scores_.labels.push_back(label);
    if (pending_tokens_ >= batch_tokens_) flush();
  }
  void flush() {
    if (pending_.empty()) return;
    std::vector<runtime::Sequence> sequences;
    std::vector<std::shared_ptr<const runtime::Execution>> served;  // text by text
    for (const auto& ids : pending_) {
      served.push_back(executions_.of_request(scores_.predictions.size() + served.size()));
      sequences.push_back({ids, nullptr, served.back().get()});
    }
    runtime::class_logits(executions_.front(), sequences, workspace_, logits_, parallel_, profile_);
    const std::size_t classes = logits_.size() / sequences.size();
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const auto row = std::span<const float>(logits_).subspan(i * classes, classes);
      check_finite(row, "a logit", [&] {
        return fmt::format("{}: text {} at {}", path_, scores_.predictions.size() + 1,
                           served[i]->description());
      });
      const std::int32_t label = scores_.labels[scores_.predictions.size()];
      scores_.predictions.push_back(runtime::best_class(row));
      correct_ += scores_.predictions.back() == label ? 1 : 0;
      loss_ += runtime::class_loss(row, label);
    }
    scores_.tokens += pending_tokens_;
    pending_tokens_ = 0;
    pending_.clear();
  }
  std::uint64_t done() const { return scores_.predictions.size(); }
  ClassificationScores finish() {
    flush();
    scores_.samples = scores_.predictions.size();
    const auto count = static_cast<double>(scores_.samples);
    scores_.accuracy = 100 * static_cast<double>(correct_) / count;
    scores_.loss = loss_ / count;
    return std::move(scores_);
  }

 private:
  const runtime::RequestExecutions& executions_;
  std::string path_;
  std::size_t batch_tokens_;  // as many for each execution
  ParallelFor& parallel_;
  runtime::Profile* profile_;
  runtime::ClassifierWorkspace workspace_;
  std::vector<float> logits_;
  std::vector<std::vector<std::int32_t>> pending_;
  std::size_t pending_tokens_ = 0;
  std::uint64_t correct_ = 0;
  double loss_ = 0;
  ClassificationScores scores_;
};

void write_files(const ClassificationEvaluationOptions& options,
                 const ClassificationScores& scores) {
  make_directories(options.output_dir);
  auto write = [&](const char* name, const Json& json) {
    write_file_atomic(fmt::format("{}/{}", options.output_dir, name), json.dump() + "\n");
  };
  write("eval_predictions.json", {{"format_version", 1},
                                  {"label_names", options.label_names},
                                  {"labels", scores.labels},
                                  {"predictions", scores.predictions}});
  write("eval_results.json", {{"eval_accuracy", scores.accuracy},
                              {"eval_loss", scores.loss},
                              {"eval_samples", scores.samples}});
}

}  // namespace

ClassificationEncoder::ClassificationEncoder(const text::TextEncoder& encoder, std::string path,
                                             std::size_t max_tokens)
    : encoder_(encoder), path_(std::move(path)), max_tokens_(max_tokens) {
  QALOF_CHECK(max_tokens >= 1, ErrorKind::kUsage, "--max_seq_length: found 0, expected at least 1");
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

ClassificationScores evaluate_classification(const runtime::RequestExecutions& executions,
                                             const text::TextEncoder& encoder,
                                             const ClassificationEvaluationOptions& options,
                                             ParallelFor& parallel, Observer& observer,
                                             runtime::Profile* profile) {
  const std::size_t classes = runtime::num_classes(executions.front());
  observer.status("reading " + options.validation_file);
  // The first pass checks the whole file, so that bad data does not surface after an hour of work.
  std::uint64_t total = check_classification(options.validation_file, classes);
  if (options.max_eval_samples > 0) total = std::min(total, options.max_eval_samples);
  const auto start = std::chrono::steady_clock::now();
  ClassificationEncoder cutter(
      encoder, options.validation_file,
      std::min(options.max_seq_length, executions.front().base().config().max_positions));
  Classifier classifier(executions, options.validation_file, parallel, profile);
  observer.progress("texts", 0, total, "");
  std::uint64_t added = 0;
  text::read_classification(options.validation_file, [&](text::LabeledText&& example) {
    classifier.add(cutter.encode(example), example.label);
    observer.progress("texts", classifier.done(), total, "");
    return ++added < total;
  });
  ClassificationScores scores = classifier.finish();
  observer.progress("texts", scores.samples, total, "");
  cutter.report(observer);
  scores.cut = cutter.cut();
  scores.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!options.output_dir.empty()) write_files(options, scores);
  return scores;
}

}  // namespace qalof::app
