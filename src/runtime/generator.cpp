// The generation loop: prefill in chunks, drafts, sampling, streaming of final text, stop
// conditions.
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
  // memory: what earlier generations left, if it serves this execution. back: of its cache.
  // rows: most of a pass whose logits are asked for.
  GenerationSteps(const Execution& execution, KvMemory& memory, std::size_t capacity,
                  std::size_t back, std::size_t chunk, std::size_t rows, ParallelFor& parallel,
                  Profile* profile)
      : execution_(&execution),
        parallel_(parallel),
        profile_(profile),
        memory_(memory),
        chunk_(chunk),
        hidden_(std::max(chunk, rows) * execution.base().config().hidden),
        logits_(rows * execution.base().config().vocab_size) {
    if (memory_.execution_ == &execution && memory_.cache_ &&
        memory_.cache_->capacity() >= capacity && memory_.cache_->back() >= back)
      return;
    memory_.clear();
    memory_.cache_.emplace(execution.base().config(), execution.kv(), capacity, back);
    memory_.ids_.reserve(capacity);
    memory_.execution_ = &execution;
  }

  // Reads a prompt, less what was read before; returns the number of tokens that were.
  std::size_t begin(std::span<const std::int32_t> prompt) {
    const auto [kept, unused] =
        std::ranges::mismatch(memory_.ids_, prompt.first(prompt.size() - 1));
    auto count = static_cast<std::size_t>(kept - memory_.ids_.begin());
    // A window may have passed what the text has in common with the one before.
    if (!memory_.cache_->can_truncate(count)) count = 0;
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
    memory_.cache_ = KvCache(execution.base().config(), execution.kv(), memory_.cache_->capacity(),
                             memory_.cache_->back());
    memory_.ids_.clear();
    feed(prompt);
    feed(ids);
  }
  // One pass over tokens, whose rows of logits are then asked for.
  void feed_at_once(std::span<const std::int32_t> ids) {
    const Sequence sequence{ids, &*memory_.cache_};
    forward(*execution_, {&sequence, 1}, workspace_, hidden_.data(), parallel_, profile_);
    memory_.ids_.insert(memory_.ids_.end(), ids.begin(), ids.end());
    make_logits(*execution_, 0, ids.size());
  }
  // LM logits [vocab] of the last token fed.
  std::span<const float> last_logits() {
    make_logits(*execution_, last_, 1);
    return logits(0);
  }
  std::span<const float> logits(std::size_t row) const {
    const std::size_t vocab = execution_->base().config().vocab_size;
    return std::span(logits_).subspan(row * vocab, vocab);
  }
  // Forgets all but the first tokens that were fed.
  void keep(std::size_t tokens) {
    memory_.cache_->truncate(tokens);
    memory_.ids_.resize(tokens);
  }
  std::size_t length() const { return memory_.cache_->length(); }
  // How many tokens may follow those fed in one pass with what one at a time would give: all of
  // them at rotary positions of the same scaling.
  std::size_t drafts_that_fit(std::size_t most) const {
    const model::ModelConfig& config = execution_->base().config();
    const std::size_t now = config.scaling_length(length());
    while (most > 0 && config.scaling_length(length() + 1 + most) != now) --most;
    return most;
  }
  // Has a network add to ids, which begins with the next token to feed, the tokens that it chooses.
  // What it stored is forgotten.
  void draft(const Execution& network, std::size_t count, std::size_t choices, Sampler& sampler,
             std::size_t step, std::vector<std::int32_t>& ids) {
    const std::size_t before = length();
    for (std::size_t i = 0; i < count; ++i) {
      const Sequence sequence{std::span(ids).last(1), &*memory_.cache_};
      forward(network, {&sequence, 1}, workspace_, hidden_.data(), parallel_, profile_);
      make_logits(network, 0, 1);
      ids.push_back(sampler.sample(logits(0).first(choices), step + i));
    }
    memory_.cache_->truncate(before);
  }
  std::size_t kv_bytes() const { return memory_.bytes(); }

 private:
  void make_logits(const Execution& execution, std::size_t first, std::size_t rows) {
    const model::ModelConfig& config = execution.base().config();
    const Profile::Scope scope(profile_, "lm_head",
                               config.vocab_size * config.hidden *
                                   static_cast<std::size_t>(execution.lm_head_width().bits) / 8);
    lm_logits(execution, hidden_.data() + first * config.hidden, rows, logits_.data(), parallel_,
              &workspace_.linear);
  }

  const Execution* execution_;
  ParallelFor& parallel_;
  Profile* profile_;
  KvMemory& memory_;
  DecoderWorkspace workspace_;
  std::size_t chunk_;  // tokens per forward pass
  std::vector<float> hidden_, logits_;
  std::size_t last_ = 0;
};

namespace {

// The drafts of one generation.
class Drafts {
 public:
  Drafts(const DraftOptions& options, const Execution& execution, std::size_t choices,
         std::span<const std::int32_t> prompt, std::size_t limit)
      : options_(options), choices_(choices), lengths_(options) {
    if (!options.any()) return;
    if (options.network != nullptr) {
      QALOF_CHECK(&options.network->base() == &execution.base(), ErrorKind::kUsage,
                  "drafts: their network is of another base");
      QALOF_CHECK(options.network->kv() == execution.kv(), ErrorKind::kUsage,
                  "drafts: their network stores K and V in other widths");
    }
    next_.reserve(1 + options.longest);
    text_.reserve(prompt.size() + limit);
    text_.assign(prompt.begin(), prompt.end());
  }

  // The tokens of the next pass, at least `last`, which was chosen before step; `most` more fit.
  std::span<const std::int32_t> next(std::int32_t last, std::size_t most, std::size_t step,
                                     Sampler& sampler, GenerationSteps& steps) {
    next_.assign(1, last);
    if (!options_.any()) return next_;
    text_.push_back(last);
    most = steps.drafts_that_fit(most);
    double looked_up_rate = 0, network_rate = 0;
    std::span<const std::int32_t> found;
    if (options_.lookup) found = look_up(text_, std::min(most, options_.longest));
    const std::size_t look = lengths_.choose(DraftLengths::kLookup, found.size(), &looked_up_rate);
    const std::size_t draw = options_.network == nullptr
                                 ? 0
                                 : lengths_.choose(DraftLengths::kNetwork, most, &network_rate);
    source_ = look > 0 && (draw == 0 || looked_up_rate >= network_rate) ? DraftLengths::kLookup
                                                                        : DraftLengths::kNetwork;
    start_ = Clock::now();
    if (source_ == DraftLengths::kLookup) {
      next_.insert(next_.end(), found.begin(), found.begin() + static_cast<std::ptrdiff_t>(look));
    } else if (draw > 0) {
      steps.draft(*options_.network, draw, choices_, sampler, step, next_);
    }
    drafted_ = Clock::now();
    return next_;
  }
  // After the pass: of its drafts, the first `compared` were compared with choices and the first
  // `accepted` were equal.
  void record(std::size_t compared, std::size_t accepted) {
    if (!options_.any()) return;
    for (std::size_t i = 0; i < accepted; ++i) text_.push_back(next_[1 + i]);
    const std::size_t drafted = next_.size() - 1;
    lengths_.record_pass(drafted, seconds_between(drafted_, Clock::now()));
    if (drafted > 0)
      lengths_.record(source_, drafted, compared, accepted, seconds_between(start_, drafted_));
  }
  const DraftCounts& counts(DraftLengths::Source source) const { return lengths_.counts(source); }

 private:
  const DraftOptions& options_;
  std::size_t choices_;
  DraftLengths lengths_;
  DraftLengths::Source source_ = DraftLengths::kNetwork;
  std::vector<std::int32_t> next_,
      text_;  // text_: prompt and chosen tokens, where there are drafts
  Clock::time_point start_, drafted_;
};

}  // namespace

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
  QALOF_CHECK(!options.drafts.any() || !options.execution_at, ErrorKind::kUsage,
              "a generation that switches between executions takes no drafts");
  // The last token is chosen but not fed, so it takes no position.
  const std::size_t room = config.max_length() - prompt.size() + 1;
  const std::size_t limit = std::min(options.max_new_tokens, room);
  const std::size_t chunk = std::min(options.prefill_chunk, prompt.size());
  // A model's vocabulary may be padded beyond the tokenizer's.
  const std::size_t choices = std::min(config.vocab_size, tokenizer.vocab_size());
  Sampler sampler(options.sampling);
  text::TextStream stream(options.stop_strings);
  text::TokenDecoder decoder = text::TokenDecoder::after_prompt(tokenizer, prompt);
  // Memory that lasts has room for turns to come, which may begin a little before the end of the
  // last one: templates write an answer that is over in another way than one that is open.
  constexpr std::size_t kRoom = 1024, kBack = 64;
  const std::size_t needed = prompt.size() + limit - 1;
  const std::size_t drafted = options.drafts.any() ? options.drafts.longest : 0;
  KvMemory own;
  GenerationSteps steps(
      execution, options.memory != nullptr ? *options.memory : own,
      options.memory != nullptr ? std::min(config.max_length(), std::max(kRoom, 2 * needed))
                                : needed,
      drafted + (options.memory != nullptr ? kBack : 0), chunk, 1 + drafted, parallel, profile);
  Drafts drafts(options.drafts, execution, choices, prompt, limit);

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

  // Takes a token; false where it ends the generation.
  const auto take = [&](std::int32_t id) {
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end()) {
      result.reason = StopReason::kStopToken;
      return false;
    }
    result.ids.push_back(id);
    if (!emit(stream.push(decoder.push(id)))) {
      result.reason = StopReason::kCancelled;
      return false;
    }
    if (stream.stopped()) result.reason = StopReason::kStopString;
    return !stream.stopped();
  };

  const Clock::time_point start = Clock::now();
  result.kept_tokens = steps.begin(prompt);
  const std::int32_t first = sampler.sample(steps.last_logits().first(choices), 0);
  const Clock::time_point first_token = Clock::now();
  bool goes_on = take(first);
  while (goes_on && result.ids.size() < limit) {
    const std::span<const std::int32_t> made(result.ids);
    if (options.execution_at) {
      steps.switch_to(options.execution_at(made.size()), prompt, made.first(made.size() - 1));
      result.kv_bytes = std::max(result.kv_bytes, steps.kv_bytes());
    }
    const std::size_t before = steps.length();
    const std::span<const std::int32_t> fed =
        drafts.next(made.back(), limit - made.size() - 1, made.size(), sampler, steps);
    steps.feed_at_once(fed);
    ++result.passes;
    // The choice after each fed token says whether the next one fed is right.
    std::size_t compared = 0, accepted = 0;
    for (std::size_t row = 0; row < fed.size() && goes_on && accepted == row; ++row) {
      const std::int32_t id = sampler.sample(steps.logits(row).first(choices), result.ids.size());
      goes_on = take(id);
      if (row + 1 == fed.size()) break;
      ++compared;
      if (goes_on && id == fed[row + 1]) ++accepted;
    }
    steps.keep(before + 1 + accepted);
    drafts.record(compared, accepted);
  }
  result.network_drafts = drafts.counts(DraftLengths::kNetwork);
  result.lookup_drafts = drafts.counts(DraftLengths::kLookup);
  if (result.reason != StopReason::kCancelled) {
    emit(stream.push(decoder.finish()));
    emit(stream.finish());
  }
  result.prefill_seconds = seconds_between(start, first_token);
  result.decode_seconds = seconds_between(first_token, Clock::now());
  return result;
}

}  // namespace qalof::runtime
