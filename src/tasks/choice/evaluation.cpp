// Scores choices on the packed runtime. See choice.h.
#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "core/file.h"
#include "core/finite.h"
#include "tasks/batch.h"
#include "tasks/choice/choice.h"
#include "text/unicode.h"

namespace qalof::tasks {

namespace {

constexpr Metric kChoiceMetrics[] = {
    {.key = "eval_accuracy", .label = "accuracy", .decides = Metric::Decides::kHigher},
    {.key = "eval_accuracy_norm", .label = "per character"},
    {.key = "eval_accuracy_bytes", .label = "per byte"},
    {.key = "eval_samples", .label = "questions", .is_count = true},
    {.key = "cut_samples", .label = "", .is_count = true, .is_logged = false},
};

std::int32_t start_token(const Evaluation& run) {
  const std::vector<std::int32_t>& before = run.reading.encoder.text_template().before;
  if (!before.empty()) return before.front();
  return static_cast<std::int32_t>(run.executions.front().base().config().bos_token_id);
}

// The first of the largest.
std::size_t best_of(const std::vector<double>& values) {
  return static_cast<std::size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

std::vector<double> per_unit(const std::vector<double>& sums,
                             const std::vector<std::size_t>& units) {
  std::vector<double> means(sums.size());
  for (std::size_t i = 0; i < sums.size(); ++i) means[i] = sums[i] / static_cast<double>(units[i]);
  return means;
}

class ChoiceEvaluator {
 public:
  ChoiceEvaluator(const Evaluation& run, const DataOptions& data)
      : run_(run), data_(data), start_(start_token(run)) {
    if (data.output_dir.empty()) return;
    make_directories(data.output_dir);
    const std::string path = data.output_dir + "/eval_choices.jsonl";
    write_file_atomic(path, "");
    file_ = std::make_unique<AppendFile>(path);
  }

  void add(ChoiceQuestion&& question) {
    Pending& pending = pending_.emplace_back();
    const std::size_t positions = run_.executions.front().base().config().max_positions;
    const std::string where = fmt::format("{}: line {}", data_.file, question.line);
    for (const std::string& choice : question.choices) {
      pending.choices.push_back(encode_choice(run_.reading.encoder, question.context, " " + choice,
                                              start_, positions, where));
      pending_tokens_ += pending.choices.back().ids.size() - 1;
    }
    pending.question = std::move(question);
    if (pending_tokens_ >= kBatchTokens * run_.executions.set().size()) flush();
  }

  void flush() {
    if (pending_.empty()) return;
    const std::size_t hidden = run_.executions.front().base().config().hidden;
    std::vector<runtime::Sequence> sequences;
    std::vector<std::shared_ptr<const runtime::Execution>> served;  // question by question
    for (const Pending& pending : pending_) {
      served.push_back(run_.executions.of_request(done_ + served.size()));
      for (const ChoiceTokens& choice : pending.choices)
        sequences.push_back(
            {std::span(choice.ids).first(choice.ids.size() - 1), nullptr, served.back().get()});
    }
    std::size_t scored = 0;
    for (const Pending& pending : pending_) {
      for (const ChoiceTokens& choice : pending.choices) scored += choice.scored;
    }
    losses_.resize(scored);
    run_.fill(losses_, [&] {
      hidden_.resize(pending_tokens_ * hidden);
      runtime::forward_by_execution(run_.executions.front(), sequences, workspace_, hidden_.data(),
                                    run_.parallel, run_.profile);
      auto next = losses_.begin();
      std::size_t row = 0;
      for (std::size_t i = 0; i < pending_.size(); ++i) {
        for (const ChoiceTokens& choice : pending_[i].choices) {
          row += choice.ids.size() - 1;
          next = std::ranges::copy(losses_of(*served[i], choice, row - choice.scored), next).out;
        }
      }
    });
    const float* next = losses_.data();
    for (std::size_t i = 0; i < pending_.size(); ++i) {
      std::vector<double> sums;
      for (const ChoiceTokens& choice : pending_[i].choices) {
        sums.push_back(
            log_likelihood({next, choice.scored}, *served[i], pending_[i].question.line));
        next += choice.scored;
      }
      score(pending_[i], sums);
    }
    tokens_ += pending_tokens_;
    pending_tokens_ = 0;
    pending_.clear();
  }

  Scores finish() {
    flush();
    if (file_) file_->sync();
    const auto count = static_cast<double>(done_);
    scores_.metrics = kChoiceMetrics;
    scores_.values = {
        100 * static_cast<double>(right_) / count, 100 * static_cast<double>(right_norm_) / count,
        100 * static_cast<double>(right_bytes_) / count, count, static_cast<double>(cut_)};
    scores_.requests = done_;
    scores_.tokens = tokens_;
    return std::move(scores_);
  }
  std::uint64_t done() const { return done_; }
  std::uint64_t cut() const { return cut_; }

 private:
  struct Pending {
    ChoiceQuestion question;
    std::vector<ChoiceTokens> choices;
  };

  // first_row: of the hidden states, that which predicts the choice's first token.
  std::vector<float> losses_of(const runtime::Execution& execution, const ChoiceTokens& choice,
                               std::size_t first_row) {
    const std::size_t hidden = execution.base().config().hidden;
    const runtime::Profile::Scope scope(
        run_.profile, "lm_head",
        choice.scored * execution.base().config().vocab_size * sizeof(float));
    return runtime::lm_token_losses(execution, hidden_.data() + first_row * hidden,
                                    std::span(choice.ids).last(choice.scored), run_.parallel);
  }

  double log_likelihood(std::span<const float> losses, const runtime::Execution& execution,
                        std::size_t line) const {
    double sum = 0;
    for (const float loss : losses) sum -= static_cast<double>(loss);
    check_finite(sum, "a log-likelihood", [&] {
      return fmt::format("{}: line {} at {}", data_.file, line, execution.description());
    });
    return sum;
  }

  void score(const Pending& pending, const std::vector<double>& sums) {
    std::vector<std::size_t> characters, bytes;
    for (const std::string& choice : pending.question.choices) {
      characters.push_back(text::count_code_points(choice));
      bytes.push_back(choice.size());
    }
    const std::size_t answer = pending.question.answer;
    const std::size_t predicted = best_of(sums), norm = best_of(per_unit(sums, characters)),
                      per_byte = best_of(per_unit(sums, bytes));
    right_ += predicted == answer ? 1 : 0;
    right_norm_ += norm == answer ? 1 : 0;
    right_bytes_ += per_byte == answer ? 1 : 0;
    cut_ += std::any_of(pending.choices.begin(), pending.choices.end(),
                        [](const ChoiceTokens& choice) { return choice.was_cut; })
                ? 1
                : 0;
    if (run_.keep_samples) scores_.per_sample.push_back(predicted == answer ? 100 : 0);
    if (file_) {
      const Json line = {{"index", done_},
                         {"log_likelihoods", sums},
                         {"characters", characters},
                         {"bytes", bytes},
                         {"predicted", predicted},
                         {"predicted_norm", norm},
                         {"predicted_bytes", per_byte},
                         {"answer", answer}};
      file_->append(line.dump() + "\n");
    }
    ++done_;
  }

  const Evaluation& run_;
  const DataOptions& data_;
  std::int32_t start_;
  std::unique_ptr<AppendFile> file_;
  std::vector<Pending> pending_;
  std::size_t pending_tokens_ = 0;
  runtime::GroupedWorkspace workspace_;
  std::vector<float> hidden_, losses_;
  std::uint64_t done_ = 0, tokens_ = 0, right_ = 0, right_norm_ = 0, right_bytes_ = 0, cut_ = 0;
  Scores scores_;
};

}  // namespace

std::span<const Metric> MultipleChoice::metrics() const { return kChoiceMetrics; }

Scores MultipleChoice::evaluate(const Evaluation& run, const DataOptions& data) const {
  Observer& observer = run.reading.observer;
  run.executions.front().base().require_lm_head();
  observer.status("reading " + data.file);
  // The first pass checks the whole file, so that bad data does not surface after an hour of work.
  std::uint64_t total = 0;
  read_choices(data.file, [&](ChoiceQuestion&& /*question*/) {
    ++total;
    return true;
  });
  if (data.max_samples > 0) total = std::min(total, data.max_samples);
  const auto start = std::chrono::steady_clock::now();
  ChoiceEvaluator evaluator(run, data);
  observer.progress("questions", 0, total, "");
  std::uint64_t added = 0;
  read_choices(data.file, [&](ChoiceQuestion&& question) {
    evaluator.add(std::move(question));
    observer.progress("questions", evaluator.done(), total, "");
    return ++added < total;
  });
  Scores scores = evaluator.finish();
  observer.progress("questions", total, total, "");
  scores.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (evaluator.cut() > 0) {
    observer.warn(fmt::format("{}: the contexts of {} questions were cut to the model's positions",
                              data.file, evaluator.cut()));
  }
  return scores;
}

std::vector<std::vector<std::int32_t>> MultipleChoice::windows(const Reading& reading,
                                                               const DataOptions& data,
                                                               std::size_t max_windows) const {
  std::vector<std::vector<std::int32_t>> windows;
  read_choices(data.file, [&](ChoiceQuestion&& question) {
    const std::string text = question.context + " " + question.choices[question.answer];
    std::vector<std::int32_t> ids = reading.encoder.encode(text).ids;
    ids.resize(
        std::min({ids.size(), reading.positions, data.max_seq_length.value_or(kDefaultLength)}));
    windows.push_back(std::move(ids));
    return windows.size() < max_windows;
  });
  return windows;
}

}  // namespace qalof::tasks
