// Windows and texts through span and class heads. See scoring.h.
#include "serve/scoring.h"

#include <algorithm>
#include <cmath>
#include <ctime>

#include "core/error.h"
#include "core/finite.h"
#include "runtime/classifier.h"
#include "runtime/distribution.h"
#include "serve/generation.h"
#include "tasks/qa/qa.h"
#include "text/span_features.h"
#include "text/squad_postprocess.h"

namespace qalof::serve {

namespace {

// What the sequences of one request share; on the scheduler's thread alone.
class ScoringReply {
 public:
  ScoringReply(std::vector<std::shared_ptr<const Variant>> variants, weights::HeadKind head,
               std::size_t sequences, std::shared_ptr<Exchange> exchange)
      : variants_(std::move(variants)),
        head_kind_(head),
        left_(sequences),
        exchange_(std::move(exchange)),
        logits_(sequences) {}
  virtual ~ScoringReply() = default;

  void started(std::size_t level) { level_ = level; }
  const Variant& variant() const { return *variants_[level_]; }
  const weights::Head& head() const { return *variant().execution->head(head_kind_); }
  bool is_cancelled() const { return is_over_ || exchange_->is_abandoned(); }
  std::vector<float>& logits(std::size_t sequence) { return logits_[sequence]; }

  void sequence_over(std::size_t tokens) {
    prompt_tokens_ += tokens;
    if (is_over_ || --left_ > 0) return;
    try {
      Json json = result(logits_);
      json["model"] = variant().model;
      json["created"] = std::time(nullptr);
      json["usage"] = {{"prompt_tokens", prompt_tokens_},
                       {"completion_tokens", 0},
                       {"total_tokens", prompt_tokens_}};
      add_variant(variant(), json);
      HttpResponse response = json_response(json);
      response.headers = variant_headers(variant());
      is_over_ = true;
      record();
      exchange_->send(std::move(response));
    } catch (const std::exception& error) {
      fail(ApiError(500, error.what()));
    }
  }
  void fail(const ApiError& error) {
    if (is_over_) return;
    is_over_ = true;
    record();
    exchange_->send(error_response(error));
  }

 protected:
  virtual Json result(const std::vector<std::vector<float>>& logits) = 0;

 private:
  void record() {
    exchange_->record.model = variant().model;
    exchange_->record.precision = variant().precision;
    exchange_->record.prompt_tokens = prompt_tokens_;
  }

  std::vector<std::shared_ptr<const Variant>> variants_;
  weights::HeadKind head_kind_;
  std::size_t level_ = 0, left_, prompt_tokens_ = 0;
  std::shared_ptr<Exchange> exchange_;
  std::vector<std::vector<float>> logits_;  // [sequence]
  bool is_over_ = false;
};

// Applies the head to every token, or to the last alone.
class HeadWork final : public Work {
 public:
  HeadWork(std::shared_ptr<ScoringReply> reply, std::size_t sequence, std::size_t tokens,
           bool last_alone)
      : reply_(std::move(reply)), sequence_(sequence), tokens_(tokens), last_alone_(last_alone) {}

  void started(std::size_t level, std::size_t, std::size_t) override { reply_->started(level); }
  bool wants_rows() const override { return true; }
  bool is_cancelled() const override { return reply_->is_cancelled(); }
  void take_rows(std::size_t first, std::span<const float> hidden, ParallelFor& parallel) override {
    const std::size_t width = reply_->variant().execution->base().config().hidden;
    std::size_t rows = hidden.size() / width;
    if (last_alone_) {
      if (first + rows < tokens_) return;
      hidden = hidden.last(width);
      rows = 1;
    }
    const weights::Head& head = reply_->head();
    std::vector<float>& logits = reply_->logits(sequence_);
    const std::size_t before = logits.size();
    logits.resize(before + rows * head.outputs);
    runtime::apply_head(head, hidden.data(), rows, width, logits.data() + before, parallel);
  }
  std::optional<std::int32_t> next(std::span<const float>) override { return std::nullopt; }
  void ended(EndReason reason, const std::string& message) override {
    if (reason == EndReason::kDone) {
      reply_->sequence_over(tokens_);
    } else {
      reply_->fail(ending_error(reason, message));
    }
  }

 private:
  std::shared_ptr<ScoringReply> reply_;
  std::size_t sequence_, tokens_;
  bool last_alone_;
};

class AnswerReply final : public ScoringReply {
 public:
  AnswerReply(const AnswerRequest& request, std::vector<text::SpanWindow> windows,
              std::vector<std::shared_ptr<const Variant>> variants,
              std::shared_ptr<Exchange> exchange)
      : ScoringReply(std::move(variants), weights::HeadKind::kSpan, windows.size(),
                     std::move(exchange)),
        request_(request),
        windows_(std::move(windows)) {}

 protected:
  Json result(const std::vector<std::vector<float>>& logits) override {
    text::SpanDecodeOptions options;
    options.max_answer_length = request_.max_answer_length;
    options.version_2_with_negative = request_.may_be_missing;
    text::SpanDecoder decoder(options);
    for (std::size_t i = 0; i < windows_.size(); ++i) {
      check_finite(logits[i], "a logit", [] { return std::string("the context"); });
      decoder.add(windows_[i], logits[i]);
    }
    const text::SpanPrediction found = decoder.finish(request_.context);
    Json spans = Json::array();
    for (const text::SpanCandidate& candidate : found.n_best) {
      if (spans.size() == request_.n_best) break;
      if (candidate.is_fallback) continue;
      spans.push_back({{"text", candidate.text},
                       {"start", candidate.first},
                       {"end", candidate.last},
                       {"probability", candidate.probability},
                       {"start_logit", candidate.start_logit},
                       {"end_logit", candidate.end_logit}});
    }
    Json json = {
        {"id", random_id("ans-")}, {"object", "answer"}, {"answer", found.text}, {"spans", spans}};
    if (request_.may_be_missing) json["null_odds"] = found.null_odds;
    return json;
  }

 private:
  AnswerRequest request_;
  std::vector<text::SpanWindow> windows_;
};

class ClassificationReply final : public ScoringReply {
 public:
  using ScoringReply::ScoringReply;

 protected:
  Json result(const std::vector<std::vector<float>>& logits) override {
    Json data = Json::array();
    const std::vector<std::string> names = app::label_names(variant().handle, head().outputs);
    std::vector<double> logs;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      check_finite(logits[i], "a logit", [&] { return fmt::format("text {}", i); });
      runtime::log_softmax(logits[i], 1, 0, 1.0, logs);
      Json probabilities = Json::array();
      for (const double log : logs) probabilities.push_back(std::exp(log));
      const auto best = static_cast<std::size_t>(runtime::best_class(logits[i]));
      data.push_back({{"index", i},
                      {"label", names.empty() ? fmt::format("LABEL_{}", best) : names[best]},
                      {"probs", probabilities},
                      {"num_classes", logs.size()}});
    }
    Json json = {{"id", random_id("classify-")}, {"object", "list"}, {"data", data}};
    if (!names.empty()) json["labels"] = names;
    return json;
  }
};

// Every variant that may serve must have the head.
void check_head(const std::vector<std::shared_ptr<const Variant>>& variants, weights::HeadKind kind,
                const char* name) {
  for (const auto& variant : variants) {
    if (variant->execution->head(kind) != nullptr) continue;
    throw ApiError(400, fmt::format("the model `{}` has no {} head", variant->model, name),
                   "model");
  }
}

// Refuses a context of more windows than a request may have before they are made: windows that
// overlap in all but one token would take the context's tokens times their length.
void check_windows(const text::TextEncoder& encoder, const std::string& question,
                   std::size_t context_tokens, const text::SpanFeatureOptions& features,
                   std::size_t most) {
  const text::TextTemplate& around = encoder.text_template();
  const std::size_t added = around.pair_size() + (features.separator ? 1 : 0);
  std::size_t asked = encoder.encode_bare(question).ids.size();
  if (asked + added + features.doc_stride + 1 > features.max_seq_length)
    asked = std::min(asked, text::kCutQuestionTokens);
  const std::size_t room =
      features.max_seq_length - std::min(features.max_seq_length, asked + added);
  const std::size_t step = room > features.doc_stride ? room - features.doc_stride : 1;
  const std::size_t windows =
      context_tokens <= room ? 1 : 1 + (context_tokens - room + step - 1) / step;
  if (windows <= most) return;
  throw ApiError(
      400,
      fmt::format("context: {} tokens make {} windows of {} that overlap in {}, expected "
                  "at most {} windows",
                  context_tokens, windows, features.max_seq_length, features.doc_stride, most),
      "context");
}

std::vector<Job> head_jobs(const std::shared_ptr<ScoringReply>& reply,
                           const std::vector<std::shared_ptr<const Variant>>& variants,
                           std::vector<std::vector<std::int32_t>> prompts, bool last_alone) {
  std::vector<Job> jobs;
  for (std::vector<std::int32_t>& prompt : prompts) {
    Job job;
    job.variants = variants;
    job.work = std::make_shared<HeadWork>(reply, jobs.size(), prompt.size(), last_alone);
    job.prompt = std::move(prompt);
    jobs.push_back(std::move(job));
  }
  return jobs;
}

}  // namespace

std::vector<Job> make_answer(const AnswerRequest& request,
                             std::vector<std::shared_ptr<const Variant>> variants,
                             const Catalog& catalog, const Limits& limits,
                             std::shared_ptr<Exchange> exchange) {
  check_head(variants, weights::HeadKind::kSpan, "question-answering");
  Observer quiet;
  const tasks::Reading reading =
      app::make_reading(variants.front()->handle, catalog.encoder(), quiet);
  tasks::Qa task;
  task.doc_stride = request.doc_stride;
  tasks::DataOptions data;
  data.file = "the context";
  data.max_seq_length = request.max_seq_length.value_or(tasks::kDefaultLength);
  std::vector<text::SpanWindow> windows;
  try {
    const text::EncodedContext context = text::encode_context(catalog.encoder(), request.context);
    const text::SpanFeatureOptions features = task.features(reading, data);
    check_windows(catalog.encoder(), request.question, context.encoding.ids.size(), features,
                  limits.choices);
    windows = text::make_windows(catalog.encoder(), request.question, context, features);
  } catch (const Error& error) {
    throw ApiError(400, error.what());
  }
  std::vector<std::vector<std::int32_t>> prompts;
  prompts.reserve(windows.size());
  for (const text::SpanWindow& window : windows) prompts.push_back(window.ids);
  const auto reply =
      std::make_shared<AnswerReply>(request, std::move(windows), variants, std::move(exchange));
  return head_jobs(reply, variants, std::move(prompts), /*last_alone=*/false);
}

std::vector<Job> make_classification(const ClassificationRequest& request,
                                     const std::vector<std::shared_ptr<const Variant>>& variants,
                                     const Catalog& catalog, std::shared_ptr<Exchange> exchange) {
  check_head(variants, weights::HeadKind::kClass, "classification");
  std::vector<std::vector<std::int32_t>> prompts;
  for (const std::string& text : request.inputs) {
    bool was_cut = false;
    prompts.push_back(
        catalog.encoder().encode_cut(text, catalog.base().config().max_positions, &was_cut));
    if (prompts.back().empty()) throw ApiError(400, "input: a text has no tokens", "input");
    if (was_cut) {
      throw ApiError(400,
                     fmt::format("input: a text has more tokens than the model's {} positions",
                                 catalog.base().config().max_positions),
                     "input", "context_length_exceeded");
    }
  }
  const auto reply = std::make_shared<ClassificationReply>(variants, weights::HeadKind::kClass,
                                                           prompts.size(), std::move(exchange));
  return head_jobs(reply, variants, std::move(prompts), /*last_alone=*/true);
}

}  // namespace qalof::serve
