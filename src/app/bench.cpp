#include "app/bench.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "core/random.h"
#include "kernels/isa.h"
#include "runtime/decoder.h"
#include "runtime/sampling.h"

namespace qalof::app {

namespace {

// Rows of logits at a time, so that --logits all needs no gigabytes.
constexpr std::size_t kLogitRows = 128;

// Sequences with their caches, and what they run on.
class Bench {
 public:
  Bench(const runtime::Execution& execution, const BenchOptions& options, ParallelFor& parallel,
        runtime::Profile* profile)
      : execution_(execution),
        config_(execution.base().config()),
        options_(options),
        parallel_(parallel),
        profile_(profile),
        hidden_(options.batch * options.prompt_tokens * config_.hidden),
        last_hidden_(options.batch * config_.hidden),
        logits_(std::max(kLogitRows, options.batch) * config_.vocab_size),
        next_(options.batch) {
    const RandomStream random(1, "bench");
    const std::size_t capacity =
        options.prompt_tokens + (options.kind == BenchKind::kDecode ? options.new_tokens : 0);
    for (std::size_t s = 0; s < options.batch; ++s) {
      std::vector<std::int32_t>& ids = prompts_.emplace_back(options.prompt_tokens);
      for (std::size_t i = 0; i < ids.size(); ++i)
        ids[i] = static_cast<std::int32_t>(random.below(config_.vocab_size, s, i));
      caches_.emplace_back(config_, execution.kv(), capacity);
    }
  }

  void prefill() {
    sequences_.clear();
    for (std::size_t s = 0; s < options_.batch; ++s) {
      caches_[s].clear();
      sequences_.push_back({prompts_[s], &caches_[s]});
    }
    runtime::forward(execution_, sequences_, workspace_, hidden_.data(), parallel_, profile_);
    const std::size_t rows = options_.prompt_tokens;
    if (options_.all_logits) {
      for (std::size_t row = 0; row < options_.batch * rows; row += kLogitRows) {
        make_logits(hidden_.data() + row * config_.hidden,
                    std::min(kLogitRows, options_.batch * rows - row));
      }
      return;
    }
    for (std::size_t s = 0; s < options_.batch; ++s) {
      std::copy_n(hidden_.data() + ((s + 1) * rows - 1) * config_.hidden, config_.hidden,
                  last_hidden_.data() + s * config_.hidden);
    }
    make_logits(last_hidden_.data(), options_.batch);
    choose();
  }

  // new_tokens for every sequence behind its prompt.
  void decode() {
    for (std::size_t step = 0; step < options_.new_tokens; ++step) {
      sequences_.clear();
      for (std::size_t s = 0; s < options_.batch; ++s)
        sequences_.push_back({{&next_[s], 1}, &caches_[s]});
      runtime::forward(execution_, sequences_, workspace_, last_hidden_.data(), parallel_,
                       profile_);
      make_logits(last_hidden_.data(), options_.batch);
      choose();
    }
    for (runtime::KvCache& cache : caches_) cache.truncate(options_.prompt_tokens);
  }

  std::size_t kv_bytes() const { return caches_.front().bytes(); }

 private:
  void make_logits(const float* hidden, std::size_t rows) {
    const runtime::Profile::Scope scope(
        profile_, "lm_head",
        config_.vocab_size * config_.hidden *
            static_cast<std::size_t>(execution_.lm_head_width().bits) / 8);
    runtime::lm_logits(execution_, hidden, rows, logits_.data(), parallel_, &workspace_.linear);
  }
  void choose() {
    for (std::size_t s = 0; s < options_.batch; ++s) {
      next_[s] = sampler_.sample(
          std::span(logits_).subspan(s * config_.vocab_size, config_.vocab_size), 0);
    }
  }

  const runtime::Execution& execution_;
  const model::ModelConfig& config_;
  const BenchOptions& options_;
  ParallelFor& parallel_;
  runtime::Profile* profile_;
  runtime::DecoderWorkspace workspace_;
  runtime::Sampler sampler_{{}};
  std::vector<std::vector<std::int32_t>> prompts_;
  std::vector<runtime::KvCache> caches_;
  std::vector<runtime::Sequence> sequences_;
  std::vector<float> hidden_, last_hidden_, logits_;
  std::vector<std::int32_t> next_;
};

void check(const BenchOptions& options, const model::ModelConfig& config) {
  QALOF_CHECK(options.repeats >= 1, ErrorKind::kUsage, "--repeats: found {}, expected at least 1",
              options.repeats);
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

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

BenchResult run_bench(const BenchOptions& options, Observer& observer) {
  const ModelHandle handle = open_model(options.model, observer);
  check(options, handle.base->config());
  ThreadPool pool(choose_threads(options.model.threads));
  const auto execution = make_execution(handle, pool, observer);
  BenchResult result;
  result.precision = execution->description();
  result.lm_head_bits = execution->lm_head_width().bits;
  result.threads = pool.num_threads();
  result.isa = kernels::to_string(kernels::active_isa());
  const bool decode = options.kind == BenchKind::kDecode;
  result.tokens = options.batch * (decode ? options.new_tokens : options.prompt_tokens);
  Bench bench(*execution, options, pool, options.profile ? &result.profile : nullptr);
  result.kv_bytes = bench.kv_bytes();
  if (decode) bench.prefill();
  for (int repeat = -1; repeat < options.repeats; ++repeat) {
    if (repeat == 0) result.profile.entries.clear();  // warm-up and prompt do not count
    const auto start = std::chrono::steady_clock::now();
    if (decode) {
      bench.decode();
    } else {
      bench.prefill();
    }
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (repeat >= 0) result.all_seconds.push_back(seconds);
    observer.progress("repeats", static_cast<std::uint64_t>(repeat + 1),
                      static_cast<std::uint64_t>(options.repeats), "");
  }
  result.seconds = median(result.all_seconds);
  result.tokens_per_second = static_cast<double>(result.tokens) / result.seconds;
  return result;
}

}  // namespace qalof::app
