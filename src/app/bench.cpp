// Times prefill and decode repeats on prepared caches, and random precision against its widths.
#include "app/bench.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "core/error.h"
#include "core/flag_range.h"
#include "core/random.h"
#include "core/statistics.h"
#include "kernels/isa.h"
#include "runtime/decoder.h"
#include "runtime/sampling.h"

namespace qalof::app {

namespace {

// Rows of logits held at a time, so that --logits all does not need gigabytes.
constexpr std::size_t kLogitRows = 128;

using Executions = std::vector<std::shared_ptr<const runtime::Execution>>;

// Sequences with a cache for each execution, and the buffers to run them.
class Bench {
 public:
  Bench(const Executions& executions, const BenchOptions& options, ParallelFor& parallel,
        runtime::Profile* profile)
      : executions_(executions),
        config_(executions.front()->base().config()),
        options_(options),
        parallel_(parallel),
        profile_(profile),
        hidden_(options.batch * options.prompt_tokens * config_.hidden),
        last_hidden_(options.batch * config_.hidden),
        logits_(std::max(kLogitRows, options.batch) * config_.vocab_size),
        next_(options.batch),
        caches_(executions.size()) {
    const RandomStream random(1, "bench");
    // New tokens are taken back before the next repetition.
    const std::size_t decoded = options.kind == BenchKind::kDecode ? options.new_tokens : 0;
    const std::size_t capacity = options.prompt_tokens + decoded;
    for (std::size_t s = 0; s < options.batch; ++s) {
      std::vector<std::int32_t>& ids = prompts_.emplace_back(options.prompt_tokens);
      for (std::size_t i = 0; i < ids.size(); ++i)
        ids[i] = static_cast<std::int32_t>(random.below(config_.vocab_size, s, i));
      for (std::size_t e = 0; e < executions.size(); ++e)
        caches_[e].emplace_back(config_, executions[e]->kv(), capacity, decoded);
    }
  }

  // Runs the first count <= batch sequences on an execution: their prompts, or new tokens.
  void run(std::size_t execution, std::size_t count) {
    if (options_.kind == BenchKind::kDecode) {
      decode(execution, count);
    } else {
      prefill(execution, count);
    }
  }

  void prefill(std::size_t execution, std::size_t count) {
    sequences_.clear();
    for (std::size_t s = 0; s < count; ++s) {
      caches_[execution][s].clear();
      sequences_.push_back({prompts_[s], &caches_[execution][s]});
    }
    runtime::forward(*executions_[execution], sequences_, workspace_, hidden_.data(), parallel_,
                     profile_);
    const std::size_t rows = options_.prompt_tokens;
    if (options_.all_logits) {
      for (std::size_t row = 0; row < count * rows; row += kLogitRows) {
        make_logits(execution, hidden_.data() + row * config_.hidden,
                    std::min(kLogitRows, count * rows - row));
      }
      return;
    }
    for (std::size_t s = 0; s < count; ++s) {
      std::copy_n(hidden_.data() + ((s + 1) * rows - 1) * config_.hidden, config_.hidden,
                  last_hidden_.data() + s * config_.hidden);
    }
    make_logits(execution, last_hidden_.data(), count);
    choose(count);
  }

  std::size_t kv_bytes() const { return caches_.front().front().bytes(); }

 private:
  // Decodes new_tokens for every sequence, after its prompt.
  void decode(std::size_t execution, std::size_t count) {
    for (std::size_t step = 0; step < options_.new_tokens; ++step) {
      sequences_.clear();
      for (std::size_t s = 0; s < count; ++s)
        sequences_.push_back({{&next_[s], 1}, &caches_[execution][s]});
      runtime::forward(*executions_[execution], sequences_, workspace_, last_hidden_.data(),
                       parallel_, profile_);
      make_logits(execution, last_hidden_.data(), count);
      choose(count);
    }
    for (std::size_t s = 0; s < count; ++s) caches_[execution][s].truncate(options_.prompt_tokens);
  }

  void make_logits(std::size_t execution, const float* hidden, std::size_t rows) {
    const runtime::Profile::Scope scope(
        profile_, "lm_head",
        config_.vocab_size * config_.hidden *
            static_cast<std::size_t>(executions_[execution]->lm_head_width().bits) / 8);
    runtime::lm_logits(*executions_[execution], hidden, rows, logits_.data(), parallel_,
                       &workspace_.linear);
  }
  void choose(std::size_t count) {
    for (std::size_t s = 0; s < count; ++s) {
      next_[s] = sampler_.sample(
          std::span(logits_).subspan(s * config_.vocab_size, config_.vocab_size), 0);
    }
  }

  const Executions& executions_;
  const model::ModelConfig& config_;
  const BenchOptions& options_;
  ParallelFor& parallel_;
  runtime::Profile* profile_;
  runtime::DecoderWorkspace workspace_;
  runtime::Sampler sampler_{{}};
  std::vector<std::vector<std::int32_t>> prompts_;
  std::vector<runtime::Sequence> sequences_;
  std::vector<float> hidden_, last_hidden_, logits_;
  std::vector<std::int32_t> next_;
  std::vector<std::vector<runtime::KvCache>> caches_;  // [execution][sequence]
};

template <typename Work>
double seconds_of(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Serves requests in order; drawn: the execution of each. Requests of one execution wait until they
// fill a batch.
void serve(const std::vector<std::size_t>& drawn, std::size_t executions, std::size_t batch,
           Bench& bench) {
  std::vector<std::size_t> waiting(executions, 0);
  for (const std::size_t execution : drawn) {
    if (++waiting[execution] < batch) continue;
    bench.run(execution, batch);
    waiting[execution] = 0;
  }
  for (std::size_t e = 0; e < executions; ++e)
    if (waiting[e] > 0) bench.run(e, waiting[e]);
}

void check(const BenchOptions& options, const model::ModelConfig& config) {
  check_count("--repeats", options.repeats);
  QALOF_CHECK(options.batch >= 1 && options.batch <= 1024, ErrorKind::kUsage,
              "--batch: found {}, expected 1..1024", options.batch);
  QALOF_CHECK(options.prompt_tokens >= 1 && options.prompt_tokens <= config.max_positions,
              ErrorKind::kUsage,
              "--prompt_tokens: found {}, expected 1..{} (the model's positions)",
              options.prompt_tokens, config.max_positions);
  if (options.kind == BenchKind::kPrefill) return;
  const std::size_t room = config.max_positions - options.prompt_tokens;
  QALOF_CHECK(options.new_tokens >= 1 && options.new_tokens <= room, ErrorKind::kUsage,
              "--new_tokens: found {}, expected 1..{} (the model's positions less the prompt)",
              options.new_tokens, room);
}

}  // namespace

BenchResult run_bench(const BenchOptions& options, Observer& observer) {
  const ModelHandle handle = open_model(options.model, observer);
  handle.base->require_lm_head();
  check(options, handle.base->config());
  ThreadPool pool(choose_threads(options.model.threads));
  const runtime::RequestExecutions requests = make_request_executions(handle, pool, observer);
  const Executions& executions = requests.set();
  BenchResult result;
  result.precision = requests.description();
  result.lm_head_bits = executions.front()->lm_head_width().bits;
  result.threads = pool.num_threads();
  result.isa = kernels::to_string(kernels::active_isa());
  std::vector<std::size_t> drawn;
  if (requests.is_random()) {
    const std::size_t count =
        options.requests > 0 ? options.requests : 8 * options.batch * executions.size();
    for (std::size_t i = 0; i < count; ++i) drawn.push_back(requests.find_index(i));
  }
  const std::size_t served = requests.is_random() ? drawn.size() : options.batch;
  const std::size_t tokens =
      options.kind == BenchKind::kDecode ? options.new_tokens : options.prompt_tokens;
  result.tokens = served * tokens;
  observer.progress("repeats", 0, static_cast<std::uint64_t>(options.repeats), "warming up");
  Bench bench(executions, options, pool, options.profile ? &result.profile : nullptr);
  result.kv_bytes = bench.kv_bytes();
  for (std::size_t e = 0; e < executions.size() && options.kind == BenchKind::kDecode; ++e)
    bench.prefill(e, options.batch);
  std::vector<std::vector<double>> own(executions.size());  // seconds of a batch at each width
  for (int repeat = -1; repeat < options.repeats; ++repeat) {
    if (repeat == 0) result.profile.entries.clear();  // warm-up and prompt do not count
    for (std::size_t e = 0; e < executions.size() && requests.is_random(); ++e) {
      // As many requests as were drawn for this width, in whole batches, so that it is timed for
      // about as long as its share of the mixture.
      const auto draws = static_cast<std::size_t>(std::count(drawn.begin(), drawn.end(), e));
      const std::size_t batches =
          std::max<std::size_t>(1, (draws + options.batch - 1) / options.batch);
      const double seconds = seconds_of([&] {
        for (std::size_t b = 0; b < batches; ++b) bench.run(e, options.batch);
      });
      if (repeat >= 0) own[e].push_back(seconds / static_cast<double>(batches));
    }
    const double seconds = seconds_of([&] {
      if (requests.is_random()) {
        serve(drawn, executions.size(), options.batch, bench);
      } else {
        bench.run(0, options.batch);
      }
    });
    if (repeat >= 0) result.all_seconds.push_back(seconds);
    observer.progress("repeats", static_cast<std::uint64_t>(repeat) + 1,
                      static_cast<std::uint64_t>(options.repeats), "");
  }
  result.seconds = median(result.all_seconds);
  result.tokens_per_second = static_cast<double>(result.tokens) / result.seconds;
  if (!requests.is_random()) return result;
  RandomBench& random = result.random.emplace();
  random.seed = requests.seed();
  random.requests = drawn.size();
  double expected = 0;  // seconds of the requests at their widths' own speeds
  for (std::size_t e = 0; e < executions.size(); ++e) {
    const auto draws = static_cast<std::uint64_t>(std::count(drawn.begin(), drawn.end(), e));
    const double seconds = median(own[e]) / static_cast<double>(options.batch);
    random.widths.push_back(
        {executions[e]->description(), draws, static_cast<double>(tokens) / seconds});
    expected += static_cast<double>(draws) * seconds;
  }
  random.harmonic_mean = static_cast<double>(result.tokens) / expected;
  random.ratio = result.tokens_per_second / random.harmonic_mean;
  return result;
}

}  // namespace qalof::app
