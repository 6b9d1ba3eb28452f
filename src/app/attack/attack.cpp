// Scores original and attacked texts at every precision and, for random precision, over draws.
#include "app/attack/attack.h"

#include <algorithm>

#include "core/error.h"
#include "core/finite.h"
#include "core/flag_range.h"
#include "runtime/classifier.h"
#include "tasks/batch.h"

namespace qalof::app {

namespace {

// Texts are batched up to about this many tokens.
struct Question {
  std::vector<std::int32_t> ids;
  std::int32_t label = 0;
  const runtime::Execution* execution = nullptr;
};

// Whether each question is classified correctly. questions: the originals of all samples, then
// their attacked texts.
std::vector<bool> ask(const runtime::Execution& any, const std::vector<Question>& questions,
                      ParallelFor& parallel) {
  runtime::ClassifierWorkspace workspace;
  std::vector<float> logits;
  std::vector<bool> right(questions.size(), true);
  const std::size_t classes = runtime::num_classes(any);
  for (std::size_t first = 0; first < questions.size();) {
    std::vector<runtime::Sequence> sequences;
    std::vector<std::size_t> asked;
    std::size_t tokens = 0;
    for (; first < questions.size() && tokens < tasks::kBatchTokens; ++first) {
      const Question& question = questions[first];
      if (question.ids.empty()) continue;
      runtime::Sequence sequence{question.ids};
      sequence.execution = question.execution;
      sequences.push_back(sequence);
      asked.push_back(first);
      tokens += question.ids.size();
    }
    if (sequences.empty()) continue;
    runtime::class_logits(any, sequences, workspace, logits, parallel);
    for (std::size_t i = 0; i < asked.size(); ++i) {
      const auto row = std::span<const float>(logits).subspan(i * classes, classes);
      check_finite(row, "a logit", [&] {
        return fmt::format("sample {} at {}", asked[i] % (questions.size() / 2),
                           questions[asked[i]].execution->description());
      });
      right[asked[i]] = runtime::best_class(row) == questions[asked[i]].label;
    }
  }
  return right;
}

double percent(double part, std::size_t whole) { return 100 * part / static_cast<double>(whole); }

Interval percent_interval(double accuracy, std::uint64_t samples) {
  const Interval interval = wilson_interval(accuracy / 100, samples);
  return {100 * interval.low, 100 * interval.high};
}

// Scores the original and the attacked texts of all records.
class Scorer {
 public:
  Scorer(const AttackTarget& target, const text::TextEncoder& encoder, std::size_t max_tokens,
         const std::vector<AttackRecord>& records, ParallelFor& parallel)
      : target_(target), parallel_(parallel), samples_(records.size()) {
    for (const bool clean : {true, false}) {
      for (const AttackRecord& record : records) {
        ids_.push_back(encoder.encode_cut(clean ? record.original : record.text, max_tokens));
        labels_.push_back(record.label);
      }
    }
  }

  AttackScore score(const runtime::Execution& execution) const {
    return score_of(execution.description(), 1,
                    [&](std::uint64_t) -> const runtime::Execution& { return execution; });
  }
  // In each draw, the original and the attacked text of a sample get the same precision.
  AttackScore score_random(const std::string& name, std::uint64_t draws) const {
    return score_of(name, draws, [&](std::uint64_t request) -> const runtime::Execution& {
      return target_.drawn(request);
    });
  }

 private:
  template <typename Choose>
  AttackScore score_of(const std::string& name, std::uint64_t draws, Choose&& choose) const {
    AttackScore score;
    score.precision = name;
    for (std::uint64_t draw = 0; draw < draws; ++draw) {
      std::vector<Question> questions;
      for (std::size_t i = 0; i < ids_.size(); ++i)
        questions.push_back({ids_[i], labels_[i], &choose(draw * samples_ + i % samples_)});
      const std::vector<bool> right = ask(target_.own(), questions, parallel_);
      const auto middle = right.begin() + static_cast<std::ptrdiff_t>(samples_);
      auto share = [&](auto begin, auto end) {
        return percent(static_cast<double>(std::count(begin, end, true)), samples_);
      };
      score.clean_draws.push_back(share(right.begin(), middle));
      score.adversarial_draws.push_back(share(middle, right.end()));
    }
    score.clean_accuracy = mean_and_error(score.clean_draws).mean;
    score.adversarial_accuracy = mean_and_error(score.adversarial_draws).mean;
    score.clean_interval = percent_interval(score.clean_accuracy, samples_);
    score.adversarial_interval = percent_interval(score.adversarial_accuracy, samples_);
    return score;
  }

  const AttackTarget& target_;
  ParallelFor& parallel_;
  std::size_t samples_;
  std::vector<std::vector<std::int32_t>> ids_;  // originals, then attacked texts
  std::vector<std::int32_t> labels_;
};

Json to_json(const AttackScore& score) {
  Json json = {{"precision", score.precision},
               {"clean_accuracy", score.clean_accuracy},
               {"clean_ci95", {score.clean_interval.low, score.clean_interval.high}},
               {"adversarial_accuracy", score.adversarial_accuracy},
               {"ci95", {score.adversarial_interval.low, score.adversarial_interval.high}}};
  if (score.adversarial_draws.size() > 1) {
    json["clean_draws"] = score.clean_draws;
    json["adversarial_draws"] = score.adversarial_draws;
  }
  return json;
}

}  // namespace

Defence parse_defence(const std::string& text) {
  if (text == "none") return Defence::kNone;
  if (text == "rpi") return Defence::kRandom;
  fail(ErrorKind::kUsage, "--defence: found {}, expected none or rpi", text);
}

void check_attack_scores(const AttackScoreOptions& options) {
  check_count("--draws", options.draws);
  QALOF_CHECK(options.max_seq_length >= 1, ErrorKind::kUsage,
              "--max_seq_length: found 0, expected at least 1");
}

AttackTarget::AttackTarget(const ModelHandle& handle, const AttackScoreOptions& options,
                           ParallelFor& parallel, Observer& observer)
    : draws_(options.seed, options.precisions.size()) {
  QALOF_CHECK(options.defence == Defence::kNone || options.precisions.size() >= 2,
              ErrorKind::kUsage, "--defence rpi: found {} --precisions, expected at least 2",
              options.precisions.size());
  executions_.push_back(make_execution(handle, parallel, observer));
  for (const std::string& text : options.precisions) {
    ModelHandle at = handle;
    at.plan = quant::parse_plan(text);
    QALOF_CHECK(!at.plan.scheme || *at.plan.scheme == *handle.plan.scheme, ErrorKind::kUsage,
                "--precisions {}: scheme {} contradicts {}", text,
                quant::to_string(*at.plan.scheme), quant::to_string(*handle.plan.scheme));
    at.plan.scheme = handle.plan.scheme;
    plans_.push_back(at.plan);
    const auto same = std::find_if(executions_.begin(), executions_.end(), [&](const auto& one) {
      return one->plan() == quant::resolve(at.plan, handle.base->target());
    });
    set_.push_back(same != executions_.end() ? *same : make_execution(at, parallel, observer));
    if (same == executions_.end()) executions_.push_back(set_.back());
  }
}

const runtime::Execution& AttackTarget::drawn(std::uint64_t request) const {
  return *set_[draws_.of_request(request)];
}

AttackScores score_attack(const AttackTarget& target, const text::TextEncoder& encoder,
                          const AttackScoreOptions& options,
                          const std::vector<AttackRecord>& records, ParallelFor& parallel,
                          Observer& observer) {
  const std::size_t classes = runtime::num_classes(target.own());
  for (const AttackRecord& record : records) {
    QALOF_CHECK(static_cast<std::size_t>(record.label) < classes, ErrorKind::kBadInput,
                "sample {}: class {} of the texts, the head has {}", record.index, record.label + 1,
                classes);
  }
  const Scorer scorer(target, encoder,
                      std::min(options.max_seq_length, target.own().base().config().max_positions),
                      records, parallel);
  AttackScores scores;
  scores.special_tokens = encoder.description();
  const std::uint64_t total = target.all().size() + (options.defence == Defence::kRandom ? 1 : 0);
  observer.progress("precisions", 0, total, "");
  for (const auto& execution : target.all()) {
    scores.per_precision.push_back(scorer.score(*execution));
    observer.progress("precisions", scores.per_precision.size(), total, "");
  }
  scores.defended = scores.per_precision.front();
  if (options.defence == Defence::kRandom) {
    std::string name = "random:";
    for (std::size_t i = 0; i < options.precisions.size(); ++i)
      name += (i > 0 ? "," : "") + options.precisions[i];
    scores.defended = scorer.score_random(name, options.draws);
    observer.progress("precisions", total, total, "");
  }
  scores.samples = records.size();
  double queries = 0;
  for (const AttackRecord& record : records) {
    scores.attacked += record.attacked ? 1 : 0;
    scores.fooled += record.success ? 1 : 0;
    queries += static_cast<double>(record.queries);
  }
  if (scores.attacked > 0) scores.mean_queries = queries / static_cast<double>(scores.attacked);
  return scores;
}

AttackScores rescore_attack(const AttackScoreOptions& options, Observer& observer) {
  check_attack_scores(options);
  const std::vector<AttackRecord> records = read_attack(options.rescore);
  const ModelHandle handle = open_model(options.model, observer);
  ThreadPool pool(choose_threads(options.model.threads));
  const AttackTarget target(handle, options, pool, observer);
  AttackScores scores =
      score_attack(target, open_encoder(handle, observer), options, records, pool, observer);
  write_scores(scores, options.output_dir);
  return scores;
}

Json to_json(const AttackScores& scores) {
  Json json = to_json(scores.defended);
  json["samples"] = scores.samples;
  json["attacked"] = scores.attacked;
  json["fooled"] = scores.fooled;
  json["mean_queries"] = scores.mean_queries;
  json["special_tokens"] = scores.special_tokens;
  json["per_precision"] = Json::array();
  for (const AttackScore& score : scores.per_precision)
    json["per_precision"].push_back(to_json(score));
  if (!scores.output_dir.empty()) json["output_dir"] = scores.output_dir;
  if (scores.seconds_per_sample > 0) json["seconds_per_sample"] = scores.seconds_per_sample;
  return json;
}

void write_scores(const AttackScores& scores, const std::string& output_dir) {
  if (output_dir.empty()) return;
  make_directories(output_dir);
  Json json = to_json(scores);
  json["format_version"] = 1;
  write_file_atomic(output_dir + "/attack_results.json", json.dump(2) + "\n");
}

}  // namespace qalof::app
