// Continuous batching: one thread that runs all admitted sequences a step at a time, whatever their
// adapters and precisions.
//
// A step feeds one token of each sequence that generates, and up to prefill_chunk tokens of prompts
// beside them, in one pass. Sequences are admitted first come, first served, and never overtaken:
// the next one waits until there is a slot and K/V memory for its whole length, so that nothing
// that has begun fails for want of memory, and the wait is bounded by the work ahead. What cannot
// fit at all is refused when it is handed in. Of sequences with one prompt (the choices of a
// request), one reads it and the others copy its keys and values. Results depend on nothing but the
// sequence: the runtime gives each the bits it would get alone.
//
// Not for: text and sampling, which are the business of each sequence's Work.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/threads.h"
#include "runtime/decoder.h"
#include "serve/catalog.h"
#include "serve/elastic.h"
#include "serve/limits.h"
#include "serve/prefix_cache.h"

namespace qalof::serve {

enum class EndReason {
  kDone,
  kCancelled,  // its client left
  kDeadline,
  kShutdown,
  kFailed,  // with a message
};

/// One sequence's side of things. All calls come from the scheduler's thread, except next, which
/// comes from any thread of the pool, one call at a time.
class Work {
 public:
  virtual ~Work() = default;
  /// Leaves the queue: level is the index of the variant that runs it, cached the prompt's tokens
  /// that need not be read.
  virtual void started(std::size_t level, std::size_t cached, std::size_t kv_bytes) = 0;
  /// True where take_rows wants the hidden states of every token of the prompt.
  virtual bool wants_rows() const { return false; }
  /// Final-normed hidden states of the prompt's tokens from first on, [rows, hidden].
  virtual void take_rows(std::size_t /*first*/, std::span<const float> /*hidden*/,
                         ParallelFor& /*parallel*/) {}
  /// The next token, given the logits of the last one; none: over.
  virtual std::optional<std::int32_t> next(std::span<const float> logits) = 0;
  /// After next: hands on what is new.
  virtual void deliver() {}
  /// The last call.
  virtual void ended(EndReason reason, const std::string& message) = 0;
  virtual bool is_cancelled() const = 0;
};

struct Job {
  std::vector<std::shared_ptr<const Variant>> variants;  // by elastic level; at least one
  std::vector<std::int32_t> prompt;                      // at least one token
  std::size_t max_new_tokens = 0;                        // 0: the prompt is read, no more
  std::shared_ptr<Work> work;
};

/// A distribution for metrics: counts of values up to each bound, and beyond.
struct Histogram {
  static constexpr std::array<double, 14> kBounds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                     0.25,  0.5,    1,     2.5,  5,     10,   30};
  std::array<std::uint64_t, kBounds.size() + 1> counts{};
  double sum = 0;
  void add(double value);
};

/// Of one pair of adapter and precision.
struct VariantCounts {
  std::uint64_t sequences = 0, prompt_tokens = 0, cached_tokens = 0, new_tokens = 0;
  std::uint64_t running = 0, waiting = 0;
  Histogram first_token, between_tokens;
};

struct SchedulerStats {
  std::size_t queued_requests = 0, running = 0, max_sequences = 0;
  std::size_t kv_bytes = 0, kv_limit = 0, prefix_bytes = 0, prefix_blocks = 0;
  const char* prefix_cache = "on";  // or why it is not
  std::uint64_t steps = 0, step_tokens = 0;
  std::size_t elastic_level = 0, elastic_levels = 1;
  double elastic_target = 0;
  std::map<std::pair<std::string, std::string>, VariantCounts> variants;  // (adapter, precision)
  std::map<std::size_t, std::uint64_t> by_level;
  std::map<EndReason, std::uint64_t> ended;
};

struct SchedulerOptions {
  std::size_t max_sequences = 16;
  std::size_t prefill_chunk = 256;  // prompt tokens of a step
  std::size_t kv_bytes = std::size_t{1} << 30;
  bool prefix_cache = true;
  std::size_t elastic_levels = 1;
  std::chrono::milliseconds target_first_token{500};
};

class Scheduler {
 public:
  using Clock = std::chrono::steady_clock;

  /// catalog must outlive the scheduler.
  Scheduler(const Catalog& catalog, const SchedulerOptions& options, const Limits& limits);
  /// Ends what runs, with EndReason::kShutdown.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  /// Queues the sequences of one request. Throws ApiError, and queues nothing: 429 where the queue
  /// is full, 503 where the service ends, 400 where a sequence needs more K/V memory than there is.
  /// Any thread.
  void submit(std::vector<Job> jobs, Clock::time_point deadline);
  /// Accepts no new requests; those accepted are finished.
  void drain();
  bool is_idle() const;
  SchedulerStats stats() const;

 private:
  struct Sequence;
  struct Request {
    std::vector<Job> jobs;
    std::size_t next = 0;  // those before it have begun
    Clock::time_point submitted, deadline;
    std::optional<std::size_t> level = std::nullopt;  // of all its jobs, once one has begun
  };
  void run();
  void sweep_queue();
  void admit();
  void admit_one(Job& job, std::size_t level, Clock::time_point submitted,
                 Clock::time_point deadline);
  void follow(Sequence& sequence);
  void take_prompt(Sequence& sequence, const Sequence& reader);
  void step();
  void collect();
  void forward_all();
  void forward_group(std::size_t begin, std::size_t end);
  void choose_tokens();
  void read_logits(std::size_t begin, std::size_t end, float* logits);
  void take_token(Sequence& sequence, const std::optional<std::int32_t>& token,
                  Clock::time_point now);
  void finish(Sequence& sequence, EndReason reason, const std::string& message = "");
  void remove_finished();
  VariantCounts& find_counts(const Variant& variant);
  void keep_prefix(const Sequence& sequence, std::size_t taken);
  std::size_t capacity_of(const Job& job) const;
  std::size_t kv_bytes_of(const Variant& variant, std::size_t capacity) const;
  std::size_t kv_back() const;

  const Catalog& catalog_;
  SchedulerOptions options_;
  Limits limits_;
  ThreadPool& pool_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Request> queue_;
  bool draining_ = false, stopping_ = false;
  SchedulerStats stats_;

  // Of the thread alone.
  std::vector<std::unique_ptr<Sequence>> running_;
  PrefixCache prefixes_;
  Elastic elastic_;
  bool shares_keys_ = true;   // keys of equal tokens are equal, however long a sequence gets
  std::size_t kv_bytes_ = 0;  // of running sequences
  runtime::DecoderWorkspace workspace_;
  struct Fed {
    Sequence* sequence;
    std::size_t tokens, row;  // row: in hidden_
  };
  std::vector<Fed> fed_;
  std::vector<runtime::Sequence> batch_;
  std::vector<float> hidden_, last_rows_, logits_;
  std::vector<Sequence*> choosing_;
  std::vector<std::optional<std::int32_t>> chosen_;
  std::vector<std::string> failures_;
  std::thread thread_;
};

}  // namespace qalof::serve
