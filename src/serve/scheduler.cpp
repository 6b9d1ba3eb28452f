// The loop of the scheduler's thread: admission, one pass for all sequences, tokens, endings.
#include "serve/scheduler.h"

#include <algorithm>
#include <functional>

#include "core/error.h"

namespace qalof::serve {

struct Scheduler::Sequence {
  std::shared_ptr<const Variant> variant;
  std::shared_ptr<Work> work;
  runtime::KvCache cache;
  std::vector<std::int32_t> ids;  // the prompt, then what was generated
  std::size_t prompt_tokens, kv_bytes;
  Clock::time_point submitted, deadline, last_token{};
  std::size_t made = 0;  // tokens chosen
  bool generates = false, wants_rows = false, is_finished = false;
  VariantCounts* counts = nullptr;
  const Sequence* reader = nullptr;  // reads the same prompt for this one

  std::size_t left() const { return ids.size() - cache.length(); }
  bool reads_prompt() const { return cache.length() < prompt_tokens; }
};

namespace {

double scheduler_seconds(Scheduler::Clock::time_point from, Scheduler::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

std::ptrdiff_t to_offset(std::size_t count) { return static_cast<std::ptrdiff_t>(count); }

// How often an idle scheduler looks whether bits may rise again.
constexpr std::chrono::milliseconds kElasticCheck{250};

}  // namespace

void Histogram::add(double value) {
  const auto bound = std::lower_bound(kBounds.begin(), kBounds.end(), value);
  ++counts[static_cast<std::size_t>(bound - kBounds.begin())];
  sum += value;
}

Scheduler::Scheduler(const Catalog& catalog, const SchedulerOptions& options, const Limits& limits)
    : catalog_(catalog),
      options_(options),
      limits_(limits),
      pool_(catalog.pool()),
      elastic_(options.elastic_levels, options.target_first_token) {
  // Keys that depend on a sequence's length belong to no other sequence.
  const model::ModelConfig& config = catalog.base().config();
  shares_keys_ = config.scaling_length(config.max_length()) == 0;
  if (!options_.prefix_cache) {
    stats_.prefix_cache = "off";
  } else if (!shares_keys_) {
    stats_.prefix_cache = "keys_depend_on_length";
  }
  options_.prefix_cache &= shares_keys_;
  stats_.max_sequences = options.max_sequences;
  stats_.kv_limit = options.kv_bytes;
  stats_.elastic_levels = options.elastic_levels;
  stats_.elastic_target = elastic_.target_seconds();
  thread_ = std::thread([this] { run(); });
}

Scheduler::~Scheduler() {
  {
    const std::lock_guard lock(mutex_);
    draining_ = stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

std::size_t Scheduler::capacity_of(const Job& job) const {
  // The last token is chosen but not fed, so it takes no room.
  return job.prompt.size() + std::max<std::size_t>(job.max_new_tokens, 1) - 1;
}

// How far back the layers with windows of a sequence must reach: to the block that a step began in,
// for the prefix cache, and to the step's first token, where it fails and is run again.
std::size_t Scheduler::kv_back() const { return options_.prefill_chunk + kPrefixBlockTokens; }

std::size_t Scheduler::kv_bytes_of(const Variant& variant, std::size_t capacity) const {
  const runtime::Execution& execution = *variant.execution;
  return runtime::KvCache::bytes_for(execution.base().config(), execution.kv(), capacity,
                                     kv_back());
}

void Scheduler::submit(std::vector<Job> jobs, Clock::time_point deadline) {
  for (const Job& job : jobs) {
    const std::size_t capacity = capacity_of(job);
    QALOF_CHECK(!job.prompt.empty() && !job.variants.empty() && job.work != nullptr,
                ErrorKind::kInternal, "a job without tokens, variants or work");
    for (const auto& variant : job.variants) {
      const std::size_t bytes = kv_bytes_of(*variant, capacity);
      if (bytes <= options_.kv_bytes) continue;
      throw ApiError(400,
                     fmt::format("{} tokens need {} bytes of K/V memory at {}, the service has {} "
                                 "(--kv_cache_mb)",
                                 capacity, bytes, variant->precision, options_.kv_bytes));
    }
  }
  {
    const std::lock_guard lock(mutex_);
    if (draining_) throw ApiError(503, "the service is ending");
    if (queue_.size() >= limits_.queued_requests) {
      throw ApiError(429, fmt::format("{} requests are waiting, try again later", queue_.size()),
                     "", "queue_full");
    }
    queue_.push_back({std::move(jobs), 0, Clock::now(), deadline, std::nullopt});
  }
  wake_.notify_one();
}

void Scheduler::drain() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
}

bool Scheduler::is_idle() const {
  const std::lock_guard lock(mutex_);
  return queue_.empty() && stats_.running == 0;
}

SchedulerStats Scheduler::stats() const {
  const std::lock_guard lock(mutex_);
  SchedulerStats stats = stats_;
  stats.queued_requests = queue_.size();
  for (const Request& request : queue_) {
    for (std::size_t i = request.next; i < request.jobs.size(); ++i) {
      const Variant& variant = *request.jobs[i].variants.front();
      ++stats.variants[{variant.adapter, variant.label}].waiting;
    }
  }
  return stats;
}

void Scheduler::run() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      while (!stopping_ && queue_.empty() && running_.empty()) {
        if (elastic_.level() == 0) {
          wake_.wait(lock);
        } else {
          wake_.wait_for(lock, kElasticCheck);
          stats_.elastic_level = elastic_.update(Clock::now(), 0);
        }
      }
      if (stopping_) break;
    }
    sweep_queue();
    admit();
    step();
  }
  for (const auto& sequence : running_) finish(*sequence, EndReason::kShutdown);
  running_.clear();
  std::deque<Request> waiting;
  {
    const std::lock_guard lock(mutex_);
    waiting.swap(queue_);
  }
  for (Request& request : waiting) {
    for (std::size_t i = request.next; i < request.jobs.size(); ++i)
      request.jobs[i].work->ended(EndReason::kShutdown, "");
  }
}

// Takes from the queue what nobody waits for any more.
void Scheduler::sweep_queue() {
  std::vector<std::pair<std::shared_ptr<Work>, EndReason>> over;
  {
    const std::lock_guard lock(mutex_);
    const Clock::time_point now = Clock::now();
    for (auto request = queue_.begin(); request != queue_.end();) {
      const bool is_late = now > request->deadline;
      auto& jobs = request->jobs;
      for (std::size_t i = request->next; i < jobs.size();) {
        if (!is_late && !jobs[i].work->is_cancelled()) {
          ++i;
          continue;
        }
        over.emplace_back(std::move(jobs[i].work),
                          is_late ? EndReason::kDeadline : EndReason::kCancelled);
        jobs.erase(jobs.begin() + static_cast<std::ptrdiff_t>(i));
      }
      request = request->next == jobs.size() ? queue_.erase(request) : std::next(request);
    }
    for (const auto& [work, reason] : over) ++stats_.ended[reason];
  }
  for (const auto& [work, reason] : over) work->ended(reason, "");
}

void Scheduler::admit() {
  while (running_.size() < options_.max_sequences) {
    Job job;
    Clock::time_point submitted, deadline;
    std::size_t level = 0;
    {
      const std::lock_guard lock(mutex_);
      if (queue_.empty()) break;
      Request& request = queue_.front();
      Job& next = request.jobs[request.next];
      level = request.level.value_or(std::min(elastic_.level(), next.variants.size() - 1));
      const Variant& variant = *next.variants[level];
      if (kv_bytes_ + kv_bytes_of(variant, capacity_of(next)) > options_.kv_bytes) break;
      request.level = level;
      ++stats_.running;  // never seen as idle in between
      job = std::move(next);
      submitted = request.submitted;
      deadline = request.deadline;
      if (++request.next == request.jobs.size()) queue_.pop_front();
    }
    admit_one(job, level, submitted, deadline);
  }
  const std::lock_guard lock(mutex_);
  const Clock::time_point now = Clock::now();
  const double oldest =
      queue_.empty() ? 0 : std::max(1e-9, scheduler_seconds(queue_.front().submitted, now));
  stats_.elastic_level = elastic_.update(now, oldest);
  stats_.running = running_.size();
  stats_.kv_bytes = kv_bytes_;
  stats_.prefix_bytes = prefixes_.bytes();
  stats_.prefix_blocks = prefixes_.blocks();
}

void Scheduler::admit_one(Job& job, std::size_t level, Clock::time_point submitted,
                          Clock::time_point deadline) {
  const std::shared_ptr<const Variant>& variant = job.variants[level];
  const std::size_t capacity = capacity_of(job);
  const std::size_t bytes = kv_bytes_of(*variant, capacity);
  prefixes_.shrink(options_.kv_bytes - kv_bytes_ - bytes);
  try {
    auto sequence = std::make_unique<Sequence>(
        Sequence{variant, job.work,
                 runtime::KvCache(variant->execution->base().config(), variant->execution->kv(),
                                  capacity, kv_back()),
                 std::move(job.prompt), 0, bytes, submitted, deadline});
    sequence->prompt_tokens = sequence->ids.size();
    sequence->ids.reserve(capacity + 1);
    sequence->generates = job.max_new_tokens > 0;
    sequence->wants_rows = job.work->wants_rows();
    std::size_t cached = 0;
    if (options_.prefix_cache && !sequence->wants_rows)
      cached = prefixes_.restore(variant->cache_key, sequence->ids, sequence->cache);
    job.work->started(level, cached, bytes);
    {
      const std::lock_guard lock(mutex_);
      sequence->counts = &find_counts(*variant);
      ++sequence->counts->sequences;
      ++sequence->counts->running;
      sequence->counts->prompt_tokens += sequence->prompt_tokens;
      sequence->counts->cached_tokens += cached;
      if (job.variants.size() > 1) ++stats_.by_level[level];
    }
    kv_bytes_ += bytes;
    running_.push_back(std::move(sequence));
  } catch (const std::exception& error) {
    job.work->ended(EndReason::kFailed, error.what());
    const std::lock_guard lock(mutex_);
    ++stats_.ended[EndReason::kFailed];
    return;
  }
  follow(*running_.back());
}

// The choices of one prompt need it read once: a sequence takes its keys and values from another
// one that runs, at once or when that has read them.
void Scheduler::follow(Sequence& sequence) {
  if (!shares_keys_ || sequence.wants_rows) return;
  for (const auto& other : running_) {
    if (other.get() == &sequence || other->is_finished || other->reader != nullptr ||
        other->prompt_tokens != sequence.prompt_tokens ||
        other->variant->cache_key != sequence.variant->cache_key ||
        !std::equal(other->ids.begin(), other->ids.begin() + to_offset(other->prompt_tokens),
                    sequence.ids.begin()))
      continue;
    if (other->reads_prompt()) {
      sequence.reader = other.get();
    } else {
      take_prompt(sequence, *other);
    }
    return;
  }
}

// Leaves the prompt's last token to be fed, whose logits the sequence needs.
void Scheduler::take_prompt(Sequence& sequence, const Sequence& reader) {
  sequence.reader = nullptr;
  const std::size_t first = sequence.cache.length(), end = sequence.prompt_tokens - 1;
  // A window may have passed the prompt's end where the other has written much since.
  if (end <= first || !reader.cache.can_truncate(end)) return;
  sequence.cache.copy_from(reader.cache, end);
  const std::lock_guard lock(mutex_);
  sequence.counts->cached_tokens += end - first;
}

VariantCounts& Scheduler::find_counts(const Variant& variant) {
  const auto found = stats_.variants.find({variant.adapter, variant.label});
  if (found != stats_.variants.end()) return found->second;
  if (stats_.variants.size() >= limits_.labels) return stats_.variants[{"other", "other"}];
  return stats_.variants[{variant.adapter, variant.label}];
}

void Scheduler::step() {
  const Clock::time_point now = Clock::now();
  for (const auto& sequence : running_) {
    if (sequence->work->is_cancelled()) {
      finish(*sequence, EndReason::kCancelled);
    } else if (now > sequence->deadline) {
      finish(*sequence, EndReason::kDeadline);
    }
  }
  remove_finished();
  if (running_.empty()) return;
  collect();
  forward_all();
  choose_tokens();
  remove_finished();
}

// What the step feeds: a token of each sequence that generates, and prompts in order of admission.
void Scheduler::collect() {
  fed_.clear();
  std::size_t room = options_.prefill_chunk;
  for (const auto& sequence : running_) {
    if (sequence->reader != nullptr) continue;
    std::size_t count = 1;
    if (sequence->reads_prompt()) {
      count = std::min(room, sequence->left());
      room -= count;
    }
    if (count > 0) fed_.push_back({sequence.get(), count, 0});
  }
  // A rotated model is another base, which needs a pass of its own.
  const auto base_of = [](const Fed& fed) { return &fed.sequence->variant->execution->base(); };
  const auto is_other = [&](const Fed& fed) { return base_of(fed) != base_of(fed_.front()); };
  if (std::any_of(fed_.begin(), fed_.end(), is_other)) {
    std::stable_sort(fed_.begin(), fed_.end(), [&](const Fed& a, const Fed& b) {
      return std::less<>()(base_of(a), base_of(b));
    });
  }
  std::size_t row = 0;
  for (Fed& fed : fed_) {
    fed.row = row;
    row += fed.tokens;
  }
  const std::size_t floats = row * catalog_.base().config().hidden;
  if (hidden_.size() < floats) hidden_.resize(floats);
}

void Scheduler::forward_all() {
  for (std::size_t begin = 0; begin < fed_.size();) {
    std::size_t end = begin + 1;
    const auto* base = &fed_[begin].sequence->variant->execution->base();
    while (end < fed_.size() && &fed_[end].sequence->variant->execution->base() == base) ++end;
    try {
      forward_group(begin, end);
    } catch (const std::exception&) {
      // One of them is the reason: each alone shows which.
      for (std::size_t i = begin; i < end; ++i) {
        try {
          forward_group(i, i + 1);
        } catch (const std::exception& error) {
          finish(*fed_[i].sequence, EndReason::kFailed, error.what());
        }
      }
    }
    begin = end;
  }
  const std::size_t width = catalog_.base().config().hidden;
  for (const Fed& fed : fed_) {
    Sequence& sequence = *fed.sequence;
    if (sequence.is_finished) continue;
    const std::size_t first = sequence.cache.length() - fed.tokens;
    try {
      // What a window is about to pass is kept now, all else once a prompt or an answer is over.
      if (options_.prefix_cache && sequence.cache.forgets() &&
          first / kPrefixBlockTokens != sequence.cache.length() / kPrefixBlockTokens)
        keep_prefix(sequence, kv_bytes_);
      if (first >= sequence.prompt_tokens) continue;
      if (sequence.wants_rows) {
        sequence.work->take_rows(
            first, std::span(hidden_).subspan(fed.row * width, fed.tokens * width), pool_);
      }
      if (sequence.reads_prompt()) continue;
      for (const auto& other : running_) {
        if (other->reader == &sequence && !other->is_finished) take_prompt(*other, sequence);
      }
      if (options_.prefix_cache) keep_prefix(sequence, kv_bytes_);
    } catch (const std::exception& error) {
      finish(sequence, EndReason::kFailed, error.what());
      continue;
    }
    if (!sequence.generates) finish(sequence, EndReason::kDone);
  }
  const std::lock_guard lock(mutex_);
  ++stats_.steps;
  for (const Fed& fed : fed_) stats_.step_tokens += fed.tokens;
}

// Into what is left beside the bytes that are taken.
void Scheduler::keep_prefix(const Sequence& sequence, std::size_t taken) {
  prefixes_.keep(sequence.variant->cache_key, sequence.ids, sequence.cache,
                 options_.kv_bytes - std::min(taken, options_.kv_bytes));
}

void Scheduler::forward_group(std::size_t begin, std::size_t end) {
  batch_.clear();
  for (std::size_t i = begin; i < end; ++i) {
    Sequence& sequence = *fed_[i].sequence;
    batch_.push_back({std::span<const std::int32_t>(sequence.ids)
                          .subspan(sequence.cache.length(), fed_[i].tokens),
                      &sequence.cache, sequence.variant->execution.get()});
  }
  runtime::forward(*batch_.front().execution, batch_, workspace_,
                   hidden_.data() + fed_[begin].row * catalog_.base().config().hidden, pool_);
}

void Scheduler::read_logits(std::size_t begin, std::size_t end, float* logits) {
  const std::size_t width = catalog_.base().config().hidden;
  const std::size_t vocab = catalog_.base().config().vocab_size;
  runtime::lm_logits(*choosing_[begin]->variant->execution, last_rows_.data() + begin * width,
                     end - begin, logits + begin * vocab, pool_, &workspace_.linear);
}

void Scheduler::choose_tokens() {
  const std::size_t width = catalog_.base().config().hidden;
  const std::size_t vocab = catalog_.base().config().vocab_size;
  // A model's vocabulary may be padded beyond the tokenizer's.
  const std::size_t choices = std::min(vocab, catalog_.encoder().tokenizer().vocab_size());
  const auto head_of = [](const Sequence& sequence) {
    const runtime::Execution& execution = *sequence.variant->execution;
    return std::pair(&execution.base(), execution.lm_head_width().bits);
  };
  std::sort(fed_.begin(), fed_.end(), [&](const Fed& a, const Fed& b) {
    const auto head_a = head_of(*a.sequence), head_b = head_of(*b.sequence);
    return head_a != head_b ? head_a < head_b : a.row < b.row;
  });
  choosing_.clear();
  if (last_rows_.size() < fed_.size() * width) last_rows_.resize(fed_.size() * width);
  for (const Fed& fed : fed_) {
    if (fed.sequence->is_finished || fed.sequence->left() > 0) continue;
    std::copy_n(hidden_.data() + (fed.row + fed.tokens - 1) * width, width,
                last_rows_.data() + choosing_.size() * width);
    choosing_.push_back(fed.sequence);
  }
  const std::size_t count = choosing_.size();
  if (count == 0) return;
  if (logits_.size() < count * vocab) logits_.resize(count * vocab);
  if (chosen_.size() < count) chosen_.resize(count);
  if (failures_.size() < count) failures_.resize(count);
  for (std::size_t begin = 0; begin < count;) {
    std::size_t end = begin + 1;
    while (end < count && head_of(*choosing_[end]) == head_of(*choosing_[begin])) ++end;
    try {
      read_logits(begin, end, logits_.data());
    } catch (const std::exception& error) {
      for (std::size_t i = begin; i < end; ++i)
        finish(*choosing_[i], EndReason::kFailed, error.what());
    }
    begin = end;
  }
  const auto choose = [&](std::size_t i) {
    failures_[i].clear();
    if (choosing_[i]->is_finished) return;
    try {
      chosen_[i] =
          choosing_[i]->work->next(std::span<const float>(logits_).subspan(i * vocab, choices));
    } catch (const std::exception& error) {
      failures_[i] = error.what();
    }
  };
  if (count == 1) {
    choose(0);
  } else {
    pool_.run(count, std::ref(choose));
  }
  const Clock::time_point now = Clock::now();
  for (std::size_t i = 0; i < count; ++i) {
    Sequence& sequence = *choosing_[i];
    if (sequence.is_finished) continue;
    if (!failures_[i].empty()) {
      finish(sequence, EndReason::kFailed, failures_[i]);
    } else {
      take_token(sequence, chosen_[i], now);
    }
  }
}

void Scheduler::take_token(Sequence& sequence, const std::optional<std::int32_t>& token,
                           Clock::time_point now) {
  {
    const std::lock_guard lock(mutex_);
    ++sequence.counts->new_tokens;
    if (sequence.made == 0) {
      const double seconds = scheduler_seconds(sequence.submitted, now);
      sequence.counts->first_token.add(seconds);
      if (elastic_.levels() > 1) elastic_.first_token(now, seconds);
    } else {
      sequence.counts->between_tokens.add(scheduler_seconds(sequence.last_token, now));
    }
  }
  ++sequence.made;
  sequence.last_token = now;
  sequence.work->deliver();
  if (!token) {
    finish(sequence, EndReason::kDone);
  } else if (sequence.ids.size() >= sequence.cache.capacity()) {
    finish(sequence, EndReason::kFailed, "internal error: more tokens than were asked for");
  } else {
    sequence.ids.push_back(*token);
  }
}

void Scheduler::finish(Sequence& sequence, EndReason reason, const std::string& message) {
  if (sequence.is_finished) return;
  sequence.is_finished = true;
  kv_bytes_ -= sequence.kv_bytes;
  if (reason == EndReason::kDone && options_.prefix_cache) {
    // The next turn of a conversation begins with what was generated. The sequence's own memory is
    // still held.
    keep_prefix(sequence, kv_bytes_ + sequence.kv_bytes);
  }
  {
    const std::lock_guard lock(mutex_);
    --sequence.counts->running;
    ++stats_.ended[reason];
  }
  sequence.work->ended(reason, message);
}

void Scheduler::remove_finished() {
  for (const auto& sequence : running_) {
    if (sequence->is_finished || sequence->reader == nullptr || !sequence->reader->is_finished)
      continue;
    sequence->reader = nullptr;
    follow(*sequence);
  }
  std::erase_if(running_, [](const auto& sequence) { return sequence->is_finished; });
  const std::lock_guard lock(mutex_);
  stats_.running = running_.size();
  stats_.kv_bytes = kv_bytes_;
  stats_.prefix_bytes = prefixes_.bytes();
  stats_.prefix_blocks = prefixes_.blocks();
}

}  // namespace qalof::serve
