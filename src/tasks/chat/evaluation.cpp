// Scores conversations on the packed runtime. See chat.h.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "core/file.h"
#include "core/finite.h"
#include "tasks/batch.h"
#include "tasks/chat/answers.h"
#include "tasks/chat/chat.h"
#include "text/rouge.h"
#include "text/squad_metric.h"

namespace qalof::tasks {

namespace chat_evaluation_file {

constexpr Metric kMetrics[] = {
    {.key = "eval_loss", .label = "loss", .digits = 6, .decides = Metric::Decides::kLower},
    {.key = "perplexity", .label = "perplexity", .digits = 4},
    {.key = "tokens", .label = "answer tokens", .is_count = true, .is_logged = false},
    {.key = "eval_samples", .label = "conversations", .is_count = true, .is_logged = false},
    {.key = "exact_match", .label = "exact match"},
    {.key = "f1", .label = "F1"},
    {.key = "rouge_l", .label = "ROUGE-L"},
    {.key = "answers", .label = "answers", .is_count = true, .is_logged = false},
};
// Those of the loss alone.
constexpr std::size_t kLossMetrics = 4;

class Evaluator {
 public:
  Evaluator(const Evaluation& run, const DataOptions& data, const Chat& task)
      : run_(run), data_(data), task_(task) {
    const std::size_t positions = base().config().max_positions;
    length_ = data.max_seq_length.value_or(positions);
    QALOF_CHECK(length_ >= 2 && length_ <= positions, ErrorKind::kUsage,
                "--max_seq_length: found {}, expected 2..{} (the model's positions)", length_,
                positions);
    if (!task.generate || data.output_dir.empty()) return;
    make_directories(data.output_dir);
    const std::string path = data.output_dir + "/eval_answers.jsonl";
    write_file_atomic(path, "");
    file_ = std::make_unique<AppendFile>(path);
  }

  bool add(Conversation&& conversation) {
    const text::TextEncoder& encoder = run_.reading.encoder;
    const std::string where = fmt::format("{}: line {}", data_.file, conversation.line);
    if (!chat_ && !conversation.messages.empty()) {
      chat_ = task_.open_template(encoder);
      if (task_.generate) stop_ids_ = stop_ids_of(encoder, *chat_, base());
    }
    ChatSample sample =
        task_.make_sample(encoder, chat_ ? &*chat_ : nullptr, conversation, length_, where);
    cut_ += sample.was_cut ? 1 : 0;
    const std::uint64_t request = conversations_++;
    if (sample.num_scored() == 0) {
      ++unscored_;
    } else {
      pending_tokens_ += sample.ids.size();
      pending_.push_back(
          {std::move(sample), conversation.line, run_.executions.of_request(request)});
      if (pending_tokens_ >= kBatchTokens * run_.executions.set().size()) score_pending();
    }
    if (task_.generate && !conversation.messages.empty() &&
        conversation.messages.back().role == "assistant")
      ask(std::move(conversation), request, where);
    run_.reading.observer.progress("conversations", conversations_, 0, "");
    return data_.max_samples == 0 || conversations_ < data_.max_samples;
  }

  Scores finish(const ConversationCounts& counts) {
    score_pending();
    answer_questions();
    if (file_) file_->sync();
    tell(counts);
    QALOF_CHECK(scored_ > 0, ErrorKind::kBadInput,
                "{}: holds no answer within {} tokens that could be scored", data_.file, length_);
    const double loss = sum_ / static_cast<double>(scored_), perplexity = std::exp(loss);
    check_finite(perplexity, "the perplexity",
                 [&] { return fmt::format("{}: loss {}", data_.file, loss); });
    Scores scores;
    scores.metrics = task_.metrics();
    scores.values = {loss, perplexity, static_cast<double>(scored_),
                     static_cast<double>(conversations_)};
    if (task_.generate) {
      QALOF_CHECK(answers_ > 0, ErrorKind::kBadInput,
                  "--generate: {}: no conversation ends with an answer of the assistant",
                  data_.file);
      for (const double sum : {exact_, f1_, rouge_})
        scores.values.push_back(100 * sum / static_cast<double>(answers_));
      scores.values.push_back(static_cast<double>(answers_));
    }
    scores.per_sample = std::move(per_sample_);
    scores.requests = conversations_;
    scores.tokens = tokens_;
    return scores;
  }

 private:
  struct Pending {
    ChatSample sample;
    std::size_t line;
    std::shared_ptr<const runtime::Execution> execution;
  };
  struct Asked {
    Question question;
    std::string reference;
    std::size_t line;
  };

  const weights::BaseModel& base() const { return run_.executions.front().base(); }

  void score_pending() {
    if (pending_.empty()) return;
    const std::size_t width = base().config().hidden;
    std::vector<runtime::Sequence> sequences;
    std::size_t count = 0;
    for (const Pending& one : pending_) {
      sequences.push_back({one.sample.ids, nullptr, one.execution.get()});
      count += one.sample.num_scored();
    }
    losses_.resize(count);
    run_.fill(losses_, [&] {
      hidden_.resize(pending_tokens_ * width);
      runtime::forward_by_execution(run_.executions.front(), sequences, workspace_, hidden_.data(),
                                    run_.parallel, run_.profile);
      auto next = losses_.begin();
      std::size_t first = 0;
      for (std::size_t i = 0; i < pending_.size(); ++i) {
        const std::vector<std::int32_t>& ids = pending_[i].sample.ids;
        for (std::size_t t = 1; t < ids.size(); ++t) {
          if (pending_[i].sample.scored[t] == 0) continue;
          const float* row = hidden_.data() + (first + t - 1) * width;
          rows_.insert(rows_.end(), row, row + width);
          targets_.push_back(ids[t]);
        }
        first += ids.size();
        if (i + 1 < pending_.size() && pending_[i + 1].execution == pending_[i].execution) continue;
        const runtime::Profile::Scope scope(
            run_.profile, "lm_head", targets_.size() * base().config().vocab_size * sizeof(float));
        next = std::ranges::copy(runtime::lm_token_losses(*pending_[i].execution, rows_.data(),
                                                          targets_, run_.parallel),
                                 next)
                   .out;
        rows_.clear();
        targets_.clear();
      }
    });
    const float* next = losses_.data();
    for (const Pending& one : pending_) {
      double sum = 0;
      for (std::size_t i = one.sample.num_scored(); i > 0; --i) sum += static_cast<double>(*next++);
      check_finite(sum, "the loss", [&] {
        return fmt::format("{}: line {} at {}", data_.file, one.line, one.execution->description());
      });
      sum_ += sum;
    }
    scored_ += count;
    tokens_ += pending_tokens_;
    pending_.clear();
    pending_tokens_ = 0;
  }

  // Takes the last answer away and asks for another one.
  void ask(Conversation&& conversation, std::uint64_t request, const std::string& where) {
    std::string reference = std::move(conversation.messages.back().content);
    conversation.messages.pop_back();
    text::ChatOptions options = task_.template_options();
    options.add_generation_prompt = true;
    Question question;
    try {
      question.prompt = text::encode_chat(run_.reading.encoder.tokenizer(),
                                          chat_->render_marked(conversation.messages, options),
                                          run_.reading.encoder.parses_special())
                            .ids;
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("{}: {}", where, error.what()));
    }
    question.execution = run_.executions.of_request(request);
    asked_.push_back({std::move(question), std::move(reference), conversation.line});
    // Sorted by length, questions of a batch end together.
    constexpr std::size_t kBatches = 16;
    if (asked_.size() >= kBatches * task_.generate_batch) answer_questions();
  }

  void answer_questions() {
    if (asked_.empty()) return;
    std::vector<std::size_t> order(asked_.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return asked_[a].question.prompt.size() > asked_[b].question.prompt.size();
    });
    std::vector<std::string> answers(asked_.size());
    for (std::size_t first = 0; first < order.size(); first += task_.generate_batch) {
      const std::size_t last = std::min(first + task_.generate_batch, order.size());
      std::vector<const Question*> batch;
      for (std::size_t i = first; i < last; ++i) batch.push_back(&asked_[order[i]].question);
      // Ids below 2^24 are exact as floats; -1 ends an answer.
      std::vector<float> numbers(batch.size() * task_.max_new_tokens, -1);
      run_.fill(numbers, [&] {
        const auto made = continue_greedily(batch, task_.max_new_tokens, stop_ids_,
                                            run_.reading.encoder.tokenizer(), run_.parallel);
        for (std::size_t i = 0; i < made.size(); ++i)
          std::ranges::copy(
              made[i], numbers.begin() + static_cast<std::ptrdiff_t>(i * task_.max_new_tokens));
      });
      for (std::size_t i = first; i < last; ++i) {
        std::vector<std::int32_t> ids;
        for (std::size_t t = 0; t < task_.max_new_tokens; ++t) {
          const float id = numbers[(i - first) * task_.max_new_tokens + t];
          if (id < 0) break;
          ids.push_back(static_cast<std::int32_t>(id));
        }
        tokens_ += batch[i - first]->prompt.size() + ids.size();
        answers[order[i]] = text_of(run_.reading.encoder.tokenizer(), ids);
      }
      run_.reading.observer.progress("answers", answers_ + last, 0, "");
    }
    for (std::size_t i = 0; i < asked_.size(); ++i) score_answer(asked_[i], answers[i]);
    asked_.clear();
  }

  void score_answer(const Asked& asked, const std::string& answer) {
    const text::SquadAnswer gold{asked.reference, 0};
    const text::QuestionScore score = text::score_v1(answer, {&gold, 1});
    const double rouge = text::rouge_l(answer, asked.reference);
    exact_ += score.exact;
    f1_ += score.f1;
    rouge_ += rouge;
    ++answers_;
    if (run_.keep_samples) per_sample_.push_back(static_cast<float>(100 * score.f1));
    if (!file_) return;
    const Json json = {
        {"line", asked.line},         {"answer", answer}, {"reference", asked.reference},
        {"exact_match", score.exact}, {"f1", score.f1},   {"rouge_l", rouge}};
    file_->append(json.dump() + "\n");
  }

  void tell(const ConversationCounts& counts) const {
    Observer& observer = run_.reading.observer;
    if (counts.bad > 0) {
      observer.warn(fmt::format("{}: {} of {} lines cannot be read and are left out, the first: {}",
                                data_.file, counts.bad, counts.lines, counts.first_bad));
    }
    if (cut_ > 0) {
      observer.warn(
          fmt::format("{}: {} of {} conversations are longer than {} tokens, their ends "
                      "are not scored",
                      data_.file, cut_, conversations_, length_));
    }
    if (unscored_ > 0) {
      observer.warn(fmt::format("{}: {} of {} conversations have no answer that could be scored",
                                data_.file, unscored_, conversations_));
    }
  }

  const Evaluation& run_;
  const DataOptions& data_;
  const Chat& task_;
  std::size_t length_ = 0;
  std::optional<text::ChatTemplate> chat_;
  std::vector<std::int32_t> stop_ids_;
  std::vector<Pending> pending_;
  std::size_t pending_tokens_ = 0;
  std::vector<Asked> asked_;
  runtime::GroupedWorkspace workspace_;
  std::vector<float> hidden_, rows_, losses_, per_sample_;
  std::vector<std::int32_t> targets_;
  std::unique_ptr<AppendFile> file_;
  double sum_ = 0, exact_ = 0, f1_ = 0, rouge_ = 0;
  std::uint64_t scored_ = 0, conversations_ = 0, cut_ = 0, unscored_ = 0, answers_ = 0, tokens_ = 0;
};

}  // namespace chat_evaluation_file

std::span<const Metric> Chat::metrics() const {
  const std::span<const Metric> all = chat_evaluation_file::kMetrics;
  return generate ? all : all.first(chat_evaluation_file::kLossMetrics);
}

void Chat::list_scoring(OptionList& list, bool all) {
  if (!all) return;
  list.flag("--generate", generate,
            "chat: score answers that the model writes anew in place of the last ones");
  list.option("--max_new_tokens", max_new_tokens, "chat: most tokens of such an answer")
      ->within(1, 65'536);
  list.option("--generate_batch", generate_batch, "chat: answers that are written together")
      ->within(1, 4096);
}

Scores Chat::evaluate(const Evaluation& run, const DataOptions& data) const {
  run.executions.front().base().require_lm_head();
  const auto start = std::chrono::steady_clock::now();
  chat_evaluation_file::Evaluator evaluator(run, data, *this);
  const ConversationCounts counts = read_conversations(
      data.file, skip_bad_lines, [&](Conversation&& one) { return evaluator.add(std::move(one)); });
  Scores scores = evaluator.finish(counts);
  scores.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return scores;
}

}  // namespace qalof::tasks
