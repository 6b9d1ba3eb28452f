// Choices (one sequence each: sampling, stop strings, log probabilities) and the reply they share.
#include "serve/generation.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <unordered_map>

#include "core/error.h"
#include "quant/random_precision.h"
#include "runtime/sampling.h"
#include "text/text_stream.h"
#include "text/unicode.h"

namespace qalof::serve {

namespace {

// JSON has no minus infinity; the probability is 0 either way.
constexpr double kLeastLogprob = -9999;
// Rows of logits held at a time for the log probabilities of a prompt.
constexpr std::size_t kPromptLogitRows = 16;

struct TokenScore {
  std::int32_t id = 0;
  double logprob = 0;
  bool is_known = false;  // the first token of a text has none
  std::vector<std::pair<std::int32_t, double>> top;
};

// Log probabilities in f64, as eval's losses are.
TokenScore score_token(std::span<const float> logits, std::int32_t id, std::size_t top) {
  TokenScore score{id, 0, true, {}};
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - largest));
  const double log_sum = std::log(sum) + static_cast<double>(largest);
  const auto logprob_of = [&](std::int32_t token) {
    const double value = static_cast<double>(logits[static_cast<std::size_t>(token)]) - log_sum;
    return std::isfinite(value) ? std::max(value, kLeastLogprob) : kLeastLogprob;
  };
  score.logprob = logprob_of(id);
  std::vector<std::int32_t> best;
  const auto is_better = [&](std::int32_t a, std::int32_t b) {
    const float za = logits[static_cast<std::size_t>(a)], zb = logits[static_cast<std::size_t>(b)];
    return za != zb ? za > zb : a < b;
  };
  for (std::size_t i = 0; i < logits.size() && top > 0; ++i) {
    const auto token = static_cast<std::int32_t>(i);
    if (best.size() == top && !is_better(token, best.back())) continue;
    best.insert(std::upper_bound(best.begin(), best.end(), token, is_better), token);
    if (best.size() > top) best.pop_back();
  }
  for (const std::int32_t token : best) score.top.emplace_back(token, logprob_of(token));
  return score;
}

// A token alone: its text, or its bytes where they are part of a character.
std::string token_text(const text::BpeTokenizer& tokenizer, std::int32_t id) {
  const std::string& piece = tokenizer.piece(id);
  if (text::find_invalid_utf8(piece) == std::string_view::npos) return piece;
  std::string text = "bytes:";
  for (const char c : piece) text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return text;
}

std::size_t code_points(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

// The reply that the choices of one request share. On the scheduler's thread alone.
class Reply {
 public:
  Reply(GenerationPlan plan, const Catalog& catalog, std::shared_ptr<Exchange> exchange)
      : plan_(std::move(plan)),
        tokenizer_(catalog.encoder().tokenizer()),
        exchange_(std::move(exchange)),
        id_(random_id(plan_.kind == ReplyKind::kChat ? "chatcmpl-" : "cmpl-")),
        created_(std::time(nullptr)),
        choices_(plan_.prompts.size() * plan_.request.n),
        seed_(plan_.request.choice.seed ? *plan_.request.choice.seed : quant::system_seed()),
        submitted_(Scheduler::Clock::now()) {
    for (const auto& prompt : plan_.prompts) prompt_tokens_ += prompt.size();
  }

  const GenerationPlan& plan() const { return plan_; }
  const text::BpeTokenizer& tokenizer() const { return tokenizer_; }
  std::uint64_t seed() const { return seed_; }
  bool is_over() const { return is_over_; }
  bool is_cancelled() const { return is_over_ || exchange_->is_abandoned(); }
  const Variant& variant() const { return *plan_.variants[level_]; }

  void started(std::size_t level, std::size_t cached, std::size_t kv_bytes) {
    cached_tokens_ += cached;
    kv_bytes_ += kv_bytes;
    if (is_started_) return;
    is_started_ = true;
    level_ = level;
    if (!plan_.request.stream || is_over_) return;
    HttpResponse head;
    head.content_type = "text/event-stream";
    head.headers = variant_headers(variant());
    head.headers.emplace_back("Cache-Control", "no-cache");
    exchange_->begin(std::move(head));
  }

  // New text of a choice, with scores of the tokens since the last piece.
  void piece(std::size_t choice, std::string_view text, std::vector<TokenScore> scores) {
    if (is_over_) return;
    Choice& state = choices_[choice];
    if (plan_.request.stream) {
      write_chunk(choice, text, scores, nullptr);
    } else {
      state.text += text;
      std::move(scores.begin(), scores.end(), std::back_inserter(state.scores));
    }
  }

  void token() {
    last_token_seconds_ =
        std::chrono::duration<double>(Scheduler::Clock::now() - submitted_).count();
    if (first_token_seconds_ == 0) first_token_seconds_ = last_token_seconds_;
  }

  void choice_over(std::size_t choice, const char* finish_reason, std::size_t new_tokens) {
    if (is_over_) return;
    completion_tokens_ += new_tokens;
    choices_[choice].finish_reason = finish_reason;
    if (plan_.request.stream) write_chunk(choice, "", {}, finish_reason);
    if (++choices_over_ == choices_.size()) finish();
  }

  void fail(const ApiError& error) {
    if (is_over_) return;
    is_over_ = true;
    record();
    if (plan_.request.stream && is_started_) {
      exchange_->write("data: " + json_text(error_json(error)) + "\n\n");
      exchange_->end();
    } else {
      exchange_->send(error_response(error));
    }
  }

 private:
  struct Choice {
    std::string text;
    std::vector<TokenScore> scores;
    const char* finish_reason = nullptr;
    std::size_t offset = 0;  // code points told, for text_offset
    bool has_role = false;   // of a chat's stream
  };

  Json frame(bool is_chunk) const {
    Json json = {{"id", id_}, {"created", created_}, {"model", variant().model}};
    const bool is_chat = plan_.kind == ReplyKind::kChat;
    json["object"] = !is_chat   ? "text_completion"
                     : is_chunk ? "chat.completion.chunk"
                                : "chat.completion";
    add_variant(variant(), json);
    if (is_chunk) json.erase("execution");  // long, and the same in every chunk
    if (!plan_.levels.empty()) {
      json["elastic"] = {{"level", level_}, {"precision", plan_.levels[level_]}};
    }
    return json;
  }

  Json usage() const {
    return {{"prompt_tokens", prompt_tokens_},
            {"completion_tokens", completion_tokens_},
            {"total_tokens", prompt_tokens_ + completion_tokens_},
            {"prompt_tokens_details", {{"cached_tokens", cached_tokens_}}},
            {"kv_bytes", kv_bytes_},
            {"first_token_seconds", first_token_seconds_},
            {"decode_seconds", last_token_seconds_ - first_token_seconds_}};
  }

  Json completion_logprobs(Choice& state, const std::vector<TokenScore>& scores) const {
    Json tokens = Json::array(), logprobs = Json::array(), tops = Json::array(),
         offsets = Json::array();
    for (const TokenScore& score : scores) {
      const std::string text = token_text(tokenizer_, score.id);
      tokens.push_back(text);
      logprobs.push_back(score.is_known ? Json(score.logprob) : Json());
      Json top = score.is_known ? Json::object() : Json();
      for (const auto& [id, logprob] : score.top) {
        // Of two tokens with one text, the likelier.
        top.emplace(token_text(tokenizer_, id), logprob);
      }
      if (score.is_known && !top.contains(text)) top[text] = score.logprob;
      tops.push_back(std::move(top));
      offsets.push_back(state.offset);
      state.offset += code_points(tokenizer_.piece(score.id));
    }
    return {{"tokens", tokens},
            {"token_logprobs", logprobs},
            {"top_logprobs", tops},
            {"text_offset", offsets}};
  }

  Json chat_logprobs(const std::vector<TokenScore>& scores) const {
    const auto entry = [&](std::int32_t id, double logprob) {
      Json bytes = Json::array();
      for (const char c : tokenizer_.piece(id)) bytes.push_back(static_cast<unsigned char>(c));
      return Json{{"token", token_text(tokenizer_, id)}, {"logprob", logprob}, {"bytes", bytes}};
    };
    Json content = Json::array();
    for (const TokenScore& score : scores) {
      Json token = entry(score.id, score.logprob);
      token["top_logprobs"] = Json::array();
      for (const auto& [id, logprob] : score.top)
        token["top_logprobs"].push_back(entry(id, logprob));
      content.push_back(std::move(token));
    }
    return {{"content", content}, {"refusal", nullptr}};
  }

  Json logprobs_of(Choice& state, const std::vector<TokenScore>& scores) const {
    if (!plan_.request.logprobs) return nullptr;
    return plan_.kind == ReplyKind::kChat ? chat_logprobs(scores)
                                          : completion_logprobs(state, scores);
  }

  void write_chunk(std::size_t choice, std::string_view text, const std::vector<TokenScore>& scores,
                   const char* finish_reason) {
    Choice& state = choices_[choice];
    Json entry = {{"index", choice},
                  {"finish_reason", finish_reason == nullptr ? Json() : Json(finish_reason)},
                  {"logprobs", scores.empty() ? Json() : logprobs_of(state, scores)}};
    if (plan_.kind == ReplyKind::kChat) {
      entry["delta"] = Json::object();
      if (!state.has_role) entry["delta"]["role"] = "assistant";
      if (!state.has_role || finish_reason == nullptr) entry["delta"]["content"] = text;
      state.has_role = true;
    } else {
      entry["text"] = text;
    }
    Json json = frame(/*is_chunk=*/true);
    json["choices"] = Json::array({std::move(entry)});
    if (plan_.request.include_usage) json["usage"] = nullptr;
    exchange_->write("data: " + json_text(json) + "\n\n");
  }

  void finish() {
    is_over_ = true;
    record();
    if (plan_.request.stream) {
      if (plan_.request.include_usage) {
        Json json = frame(/*is_chunk=*/true);
        json["choices"] = Json::array();
        json["usage"] = usage();
        exchange_->write("data: " + json_text(json) + "\n\n");
      }
      exchange_->write("data: [DONE]\n\n");
      exchange_->end();
      return;
    }
    Json json = frame(/*is_chunk=*/false);
    json["choices"] = Json::array();
    for (std::size_t i = 0; i < choices_.size(); ++i) {
      Choice& state = choices_[i];
      Json entry = {{"index", i},
                    {"finish_reason", state.finish_reason},
                    {"logprobs", logprobs_of(state, state.scores)}};
      if (plan_.kind == ReplyKind::kChat) {
        entry["message"] = {{"role", "assistant"}, {"content", state.text}, {"refusal", nullptr}};
      } else {
        entry["text"] = state.text;
      }
      json["choices"].push_back(std::move(entry));
    }
    json["usage"] = usage();
    HttpResponse response = json_response(json);
    response.headers = variant_headers(variant());
    exchange_->send(std::move(response));
  }

  void record() {
    RequestRecord& record = exchange_->record;
    record.model = variant().model;
    if (is_started_) record.precision = variant().precision;
    record.prompt_tokens = prompt_tokens_;
    record.completion_tokens = completion_tokens_;
    record.cached_tokens = cached_tokens_;
    record.first_token_seconds = first_token_seconds_;
  }

  GenerationPlan plan_;
  const text::BpeTokenizer& tokenizer_;
  std::shared_ptr<Exchange> exchange_;
  std::string id_;
  std::time_t created_;
  std::vector<Choice> choices_;
  std::uint64_t seed_;
  Scheduler::Clock::time_point submitted_;
  std::size_t level_ = 0, choices_over_ = 0;
  std::size_t prompt_tokens_ = 0, completion_tokens_ = 0, cached_tokens_ = 0, kv_bytes_ = 0;
  double first_token_seconds_ = 0, last_token_seconds_ = 0;  // from submission
  bool is_started_ = false, is_over_ = false;
};

// One choice: chooses tokens, and turns them into text that is final.
class ChoiceWork final : public Work {
 public:
  ChoiceWork(std::shared_ptr<Reply> reply, std::size_t prompt, std::size_t choice,
             std::vector<std::int32_t> stop_ids)
      : reply_(std::move(reply)),
        request_(reply_->plan().request),
        prompt_(prompt),
        choice_(choice),
        stop_ids_(std::move(stop_ids)),
        sampler_(sampling(choice % request_.n)),
        stream_(request_.stop) {}

  bool wants_rows() const override { return reply_->plan().echo && request_.logprobs.has_value(); }
  bool is_cancelled() const override { return reply_->is_cancelled(); }

  void started(std::size_t level, std::size_t cached, std::size_t kv_bytes) override {
    // usage counts a prompt once, whatever n is.
    reply_->started(level, choice_ % request_.n == 0 ? cached : 0, kv_bytes);
    if (!reply_->plan().echo) return;
    if (wants_rows()) {
      scores_.push_back({prompt().front(), 0, false, {}});
    } else {
      reply_->piece(choice_, reply_->plan().prompt_texts[prompt_], {});
    }
  }

  void take_rows(std::size_t first, std::span<const float> hidden, ParallelFor& parallel) override {
    const runtime::Execution& execution = *reply_->variant().execution;
    const model::ModelConfig& config = execution.base().config();
    const std::size_t vocab = config.vocab_size;
    const std::size_t choices = std::min(vocab, reply_->tokenizer().vocab_size());
    std::size_t rows = hidden.size() / config.hidden;
    // The last row says what follows the prompt.
    if (first + rows == prompt().size()) --rows;
    logits_.resize(std::min(rows, kPromptLogitRows) * vocab);
    const std::size_t before = scores_.size();
    scores_.resize(before + rows);
    for (std::size_t at = 0; at < rows; at += kPromptLogitRows) {
      const std::size_t count = std::min(kPromptLogitRows, rows - at);
      runtime::lm_logits(execution, hidden.data() + at * config.hidden, count, logits_.data(),
                         parallel);
      parallel.run(count, [&](std::size_t i) {
        scores_[before + at + i] =
            score_token(std::span<const float>(logits_).subspan(i * vocab, choices),
                        prompt()[first + at + i + 1], *request_.logprobs);
      });
    }
    if (scores_.size() < prompt().size()) return;
    logits_ = {};
    reply_->piece(choice_, reply_->plan().prompt_texts[prompt_], std::move(scores_));
    scores_.clear();
  }

  std::optional<std::int32_t> next(std::span<const float> logits) override {
    const std::int32_t id = sampler_.sample(adjusted(logits), made_);
    if (std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end()) {
      finish_reason_ = "stop";
      return std::nullopt;
    }
    ++made_;
    if (request_.logprobs) scores_.push_back(score_token(logits, id, *request_.logprobs));
    if (counts_tokens()) ++seen_[id];
    text_ += stream_.push(reply_->tokenizer().piece(id));
    if (stream_.stopped()) {
      finish_reason_ = "stop";
      return std::nullopt;
    }
    if (made_ == reply_->plan().max_tokens) return std::nullopt;  // "length"
    return id;
  }

  void deliver() override {
    reply_->token();
    if (text_.empty()) return;
    reply_->piece(choice_, text_, std::move(scores_));
    text_.clear();
    scores_.clear();
  }

  void ended(EndReason reason, const std::string& message) override {
    if (reason != EndReason::kDone) {
      reply_->fail(ending_error(reason, message));
      return;
    }
    text_ += stream_.finish();
    if (!text_.empty() || !scores_.empty()) reply_->piece(choice_, text_, std::move(scores_));
    reply_->choice_over(choice_, finish_reason_, made_);
  }

 private:
  const std::vector<std::int32_t>& prompt() const { return reply_->plan().prompts[prompt_]; }
  bool counts_tokens() const {
    return request_.presence_penalty != 0 || request_.frequency_penalty != 0;
  }

  // Choice i of a request is what seed + i gives alone.
  runtime::SamplingOptions sampling(std::size_t index) const {
    runtime::SamplingOptions options;
    options.temperature = request_.temperature;
    options.top_p = request_.top_p;
    options.top_k = request_.top_k;
    options.seed = reply_->seed() + index;
    return options;
  }

  std::span<const float> adjusted(std::span<const float> logits) {
    if (request_.logit_bias.empty() && seen_.empty()) return logits;
    logits_.assign(logits.begin(), logits.end());
    for (const auto& [id, bias] : request_.logit_bias) {
      if (static_cast<std::size_t>(id) < logits_.size())
        logits_[static_cast<std::size_t>(id)] += bias;
    }
    for (const auto& [id, count] : seen_) {
      logits_[static_cast<std::size_t>(id)] -= static_cast<float>(
          request_.presence_penalty + request_.frequency_penalty * static_cast<double>(count));
    }
    return logits_;
  }

  std::shared_ptr<Reply> reply_;
  const GenerationRequest& request_;
  std::size_t prompt_, choice_;
  std::vector<std::int32_t> stop_ids_;
  runtime::Sampler sampler_;
  text::TextStream stream_;
  std::string text_;                // final, not yet handed on
  std::vector<TokenScore> scores_;  // of tokens not yet handed on
  std::vector<float> logits_;
  std::unordered_map<std::int32_t, std::size_t> seen_;
  std::size_t made_ = 0;
  const char* finish_reason_ = "length";
};

}  // namespace

ApiError ending_error(EndReason reason, const std::string& message) {
  switch (reason) {
    case EndReason::kDeadline:
      return ApiError(504, "the request took longer than the service allows", "", "timeout");
    case EndReason::kShutdown:
      return ApiError(503, "the service is ending");
    case EndReason::kFailed:
      return ApiError(500, message.empty() ? "internal error" : message);
    default:
      return ApiError(499, "the client left");
  }
}

std::string random_id(const char* prefix) {
  return fmt::format("{}{:016x}{:016x}", prefix, quant::system_seed(), quant::system_seed());
}

std::vector<std::pair<std::string, std::string>> variant_headers(const Variant& variant) {
  return {{"X-Qalof-Model", variant.model},
          {"X-Qalof-Precision", variant.precision},
          {"X-Qalof-KV-Bits", fmt::format("{:.3g}", variant.kv_bits)}};
}

void add_variant(const Variant& variant, Json& json) {
  json["precision"] = variant.precision;
  json["kv_bits"] = variant.kv_bits;
  json["execution"] = variant.execution->description();
}

std::vector<Job> make_generation(GenerationPlan plan, const Catalog& catalog,
                                 std::shared_ptr<Exchange> exchange) {
  std::vector<std::int32_t> stop_ids;
  if (!plan.request.ignore_eos) {
    for (const std::int64_t id : catalog.base().config().eos_token_ids)
      stop_ids.push_back(static_cast<std::int32_t>(id));
    if (plan.kind == ReplyKind::kChat && catalog.turn_end())
      stop_ids.push_back(*catalog.turn_end());
  }
  const auto reply = std::make_shared<Reply>(std::move(plan), catalog, std::move(exchange));
  std::vector<Job> jobs;
  const GenerationPlan& shared = reply->plan();
  for (std::size_t prompt = 0; prompt < shared.prompts.size(); ++prompt) {
    for (std::size_t i = 0; i < shared.request.n; ++i) {
      Job job;
      job.variants = shared.variants;
      job.prompt = shared.prompts[prompt];
      job.max_new_tokens = shared.max_tokens;
      job.work = std::make_shared<ChoiceWork>(reply, prompt, jobs.size(), stop_ids);
      jobs.push_back(std::move(job));
    }
  }
  return jobs;
}

}  // namespace qalof::serve
