// The generation loop: prefill in chunks, sampling, streaming of final text, stop conditions.
#include "runtime/generator.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "text/text_stream.h"
#include "text/token_decoder.h"

namespace qalof::runtime {

namespace {

using Clock = std::chrono::steady_clock;

// Text reserved per token; English has about five bytes.
constexpr std::size_t kBytesPerToken = 16;

double seconds_between(Clock::time_point start, Clock::time_point end) {
  return std::chrono::duration<double>(end - start).count();
}

}  // namespace

// The buffers of one generation, and the step from new tokens to logits.
class GenerationSteps {
 public:
  // memory: what earlier generations left, if it serves this execution.
  GenerationSteps(const Execution& execution, KvMemory& memory, std::size_t capacity,
                  std::size_t chunk, ParallelFor& parallel, Profile* profile)
      : execution_(&execution),
        parallel_(parallel),
        profile_(profile),
        memory_(memory),
        chunk_(chunk),
        hidden_(chunk * execution.base().config().hidden),
        logits_(execution.base().config().vocab_size) {
    if (memory_.execution_ == &execution && memory_.cache_ &&
        memory_.cache_->capacity() >= capacity)
      return;
    memory_.clear();
    memory_.cache_.emplace(execution.base().config(), execution.kv(), capacity);
    memory_.ids_.reserve(capacity);
    memory_.execution_ = &execution;
  }

  // Reads a prompt, less what was read before; returns the number of tokens that were.
  std::size_t begin(std::span<const std::int32_t> prompt) {
    const auto [kept, unused] =
        std::ranges::mismatch(memory_.ids_, prompt.first(prompt.size() - 1));
    const auto count = static_cast<std::size_t>(kept - memory_.ids_.begin());
    memory_.cache_->truncate(count);
    memory_.ids_.resize(count);
    feed(prompt.subspan(count));
    return count;
  }
  void feed(std::span<const std::int32_t> ids) {
    for (std::size_t first = 0; first < ids.size(); first += chunk_) {
      const Sequence sequence{ids.subspan(first, std::min(chunk_, ids.size() - first)),
                              &*memory_.cache_};
      forward(*execution_, {&sequence, 1}, workspace_, hidden_.data(), parallel_, profile_);
      memory_.ids_.insert(memory_.ids_.end(), sequence.ids.begin(), sequence.ids.end());
      last_ = sequence.ids.size() - 1;
    }
  }
  // Another execution runs from now on; what was fed is prompt and then ids.
  void switch_to(const Execution& execution, std::span<const std::int32_t> prompt,
                 std::span<const std::int32_t> ids) {
    if (&execution == execution_) return;
    const bool continues =
        &execution.base() == &execution_->base() && execution.kv() == execution_->kv();
    execution_ = &execution;
    if (continues) return;
    memory_.cache_ = KvCache(execution.base().config(), execution.kv(), memory_.cache_->capacity());
    memory_.ids_.clear();
    feed(prompt);
    feed(ids);
  }
  // LM logits [vocab] of the last token fed.
  std::span<const float> logits() {
    const model::ModelConfig& config = execution_->base().config();
    const Profile::Scope scope(profile_, "lm_head",
                               config.vocab_size * config.hidden *
                                   static_cast<std::size_t>(execution_->lm_head_width().bits) / 8);
    lm_logits(*execution_, hidden_.data() + last_ * config.hidden, 1, logits_.data(), parallel_,
              &workspace_.linear);
    return logits_;
  }
  std::size_t kv_bytes() const { return memory_.bytes(); }

 private:
  const Execution* execution_;
  ParallelFor& parallel_;
  Profile* profile_;
  KvMemory& memory_;
  DecoderWorkspace workspace_;
  std::size_t chunk_;  // tokens per forward pass
  std::vector<float> hidden_, logits_;
  std::size_t last_ = 0;
};

void KvMemory::clear() {
  execution_ = nullptr;
  ids_.clear();
  cache_.reset();
}

std::string to_string(StopReason reason) {
  switch (reason) {
    case StopReason::kLength:
      return "length";
    case StopReason::kStopToken:
      return "stop_token";
    case StopReason::kStopString:
      return "stop_string";
    case StopReason::kPositions:
      return "positions";
    case StopReason::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

double Generation::prefill_tokens_per_second() const {
  return prefill_seconds > 0 ? static_cast<double>(prompt_tokens) / prefill_seconds : 0;
}

double Generation::tokens_per_second() const {
  return ids.size() > 1 && decode_seconds > 0 ? static_cast<double>(ids.size() - 1) / decode_seconds
                                              : 0;
}

Generation generate(const Execution& execution, const text::BpeTokenizer& tokenizer,
                    std::span<const std::int32_t> prompt, const GenerateOptions& options,
                    ParallelFor& parallel, const TextCallback& on_text, Profile* profile) {
  execution.base().require_lm_head();
  const model::ModelConfig& config = execution.base().config();
  QALOF_CHECK(!prompt.empty(), ErrorKind::kBadInput, "the prompt has no tokens");
  QALOF_CHECK(prompt.size() <= config.max_length(), ErrorKind::kBadInput,
              "the prompt has {} tokens, the model has {} positions", prompt.size(),
              config.max_length());
  QALOF_CHECK(options.max_new_tokens >= 1, ErrorKind::kUsage,
              "--max_new_tokens: found 0, expected at least 1");
  QALOF_CHECK(options.prefill_chunk >= 1, ErrorKind::kUsage,
              "--prefill_chunk: found 0, expected at least 1");
  QALOF_CHECK(options.memory == nullptr || !options.execution_at, ErrorKind::kUsage,
              "a generation that switches between executions keeps no memory");
  // The last token is chosen but not fed, so it takes no position.
  const std::size_t room = config.max_length() - prompt.size() + 1;
  const std::size_t limit = std::min(options.max_new_tokens, room);
  const std::size_t chunk = std::min(options.prefill_chunk, prompt.size());
  // A model's vocabulary may be padded beyond the tokenizer's.
  const std::size_t choices = std::min(config.vocab_size, tokenizer.vocab_size());
  Sampler sampler(options.sampling);
  text::TextStream stream(options.stop_strings);
  text::TokenDecoder decoder = text::TokenDecoder::after_prompt(tokenizer, prompt);
  // Memory that lasts has room for turns to come.
  constexpr std::size_t kRoom = 1024;
  const std::size_t needed = prompt.size() + limit - 1;
  KvMemory own;
  GenerationSteps steps(execution, options.memory != nullptr ? *options.memory : own,
                        options.memory != nullptr
                            ? std::min(config.max_length(), std::max(kRoom, 2 * needed))
                            : needed,
                        chunk, parallel, profile);

  Generation result;
  result.prompt_tokens = prompt.size();
  result.kv_bytes = steps.kv_bytes();
  result.ids.reserve(limit);
  result.text.reserve(limit * kBytesPerToken);
  result.reason = limit < options.max_new_tokens ? StopReason::kPositions : StopReason::kLength;
  const auto emit = [&](std::string_view piece) {
    result.text += piece;
    return piece.empty() || !on_text || on_text(piece);
  };

  const Clock::time_point start = Clock::now();
  result.kept_tokens = steps.begin(prompt);
  Clock::time_point first_token = start;
  for (std::size_t step = 0; step < limit; ++step) {
    if (step > 0) {
      const std::span<const std::int32_t> made(result.ids);
      if (options.execution_at) {
        steps.switch_to(options.execution_at(step), prompt, made.first(made.size() - 1));
        result.kv_bytes = std::max(result.kv_bytes, steps.kv_bytes());
      }
      steps.feed(made.last(1));
    }
    const std::int32_t id = sampler.sample(steps.logits().first(choices), step);
    if (step == 0) first_token = Clock::now();
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end()) {
      result.reason = StopReason::kStopToken;
      break;
    }
    result.ids.push_back(id);
    if (!emit(stream.push(decoder.push(id)))) {
      result.reason = StopReason::kCancelled;
      break;
    }
    if (stream.stopped()) {
      result.reason = StopReason::kStopString;
      break;
    }
  }
  if (result.reason != StopReason::kCancelled) {
    emit(stream.push(decoder.finish()));
    emit(stream.finish());
  }
  result.prefill_seconds = seconds_between(start, first_token);
  result.decode_seconds = seconds_between(first_token, Clock::now());
  return result;
}

}  // namespace qalof::runtime
